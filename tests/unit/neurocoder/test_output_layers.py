"""The layers that settings make, against those built by hand."""

import pytest
import torch
from torch import Tensor, nn

from neurocoder import OUTPUT_LAYERS, output_layer
from neurocoder.output_layers import configured_layer, parameter_count
from neurocoder.settings import LAYERS, LayerSettings
from tests.unit.neurocoder.changed_settings import ALL_CHANGED

CONFIGURED = {"defaults": LayerSettings(), "all changed": ALL_CHANGED}
BY_HAND = {
    "defaults": {
        "mlp": output_layer("mlp"),
        "neurocoder": output_layer("neurocoder", slots=80, key_dim=3, heads=15, beta=10.0),
        "hypernet": output_layer("hypernet", scale="elements", hidden=64),
        "film": output_layer("film", hidden=64),
        "moe": output_layer("moe", experts=50, active=5, hidden=64),
        "nsm": output_layer("nsm", slots=10, key_dim=10),
        "lowrank": output_layer("lowrank", rank=15),
    },
    "all changed": {
        "mlp": output_layer("mlp"),
        "neurocoder": output_layer(
            "neurocoder", slots=7, key_dim=2, heads=3, steps=2, least_used=2, gate_from="signal", residual=False,
            keys="learned", gain=0.5, beta=None, orthogonality_weight=0.2, variant="release",
        ),
        "hypernet": output_layer("hypernet", scale="rows", hidden=None),
        "film": output_layer("film", hidden=None),
        "moe": output_layer("moe", experts=6, active=2, hidden=3, balance_weight=0.3),
        "nsm": output_layer("nsm", slots=3, key_dim=2, key_loss_weight=0.4, variant="release"),
        "lowrank": output_layer("lowrank", rank=3 * 2),
    },
}  # fmt: skip


def behaviour(layer: nn.Module) -> dict[str, Tensor]:
    """The output for one batch in training, and the extra loss."""
    torch.manual_seed(1)
    x = torch.randn(5, 6)
    extra = getattr(layer, "auxiliary_loss", lambda: torch.zeros(()))
    return {"output": layer(x), "extra loss": extra()}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("settings", CONFIGURED)
def test_a_configured_layer_equals_the_same_layer_built_by_hand(settings, name):
    layers = []
    for factory in (configured_layer(name, CONFIGURED[settings]), BY_HAND[settings][name]):
        torch.manual_seed(0)
        layers.append(factory(6, 4))
    configured, by_hand = layers
    shapes = [{key: value.shape for key, value in layer.state_dict().items()} for layer in layers]
    assert shapes[0] == shapes[1] and shapes[0]
    if name == "lowrank":
        # The control first draws a Neurocoder layer, so its random numbers differ.
        configured.load_state_dict(by_hand.state_dict())
    torch.testing.assert_close(dict(configured.state_dict()), dict(by_hand.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(behaviour(configured), behaviour(by_hand), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "biases"),
    [("mlp", 4), ("neurocoder", 4), ("nsm", 3 * 4), ("lowrank", 4), ("hypernet", 0), ("film", 0), ("moe", 0)],
)
def test_a_layer_without_bias_lacks_exactly_the_biases(name, biases):
    with_bias, without = (
        parameter_count(configured_layer(name, ALL_CHANGED, bias=bias)(6, 4)) for bias in (True, False)
    )
    assert with_bias - without == biases


@pytest.mark.parametrize("make", [output_layer, lambda name: configured_layer(name, LayerSettings())])
def test_an_unknown_layer_is_refused_with_the_known_names_and_the_nearest(make):
    with pytest.raises(ValueError, match=r"'neurocodr' is not known.*did you mean neurocoder\?") as refusal:
        make("neurocodr")
    assert all(name in str(refusal.value) for name in OUTPUT_LAYERS)


def test_parameter_count_leaves_out_what_is_not_trained():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    assert parameter_count(layer) == 6
