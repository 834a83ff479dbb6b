"""The layers that a command line can name, against those built by hand, and the low-rank control against the Neurocoder."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

from neurocoder import NeurocoderLinear, output_layer
from neurocoder.alternatives.low_rank import low_rank_control
from neurocoder.settings import (
    LAYERS,
    FiLMSettings,
    HyperNetSettings,
    LayerSettings,
    MixtureOfExpertsSettings,
    NeurocoderSettings,
    StoredProgramSettings,
)

ALL_CHANGED = LayerSettings(
    neurocoder=NeurocoderSettings(
        slots=7, key_dim=2, heads=3, steps=2, least_used=2, gate_from="signal", residual=False, keys="learned",
        gain=0.5, beta=None, orthogonality_weight=0.2, variant="release",
    ),
    hypernet=HyperNetSettings(scale="rows", hidden=None),
    film=FiLMSettings(hidden=None),
    moe=MixtureOfExpertsSettings(experts=6, active=2, hidden=3, balance_weight=0.3),
    nsm=StoredProgramSettings(slots=3, key_dim=2, key_loss_weight=0.4, variant="release"),
)  # fmt: skip
SETTINGS = {"defaults": LayerSettings(), "all changed": ALL_CHANGED}
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
            keys="learned", gain=0.5, orthogonality_weight=0.2, variant="release",
        ),
        "hypernet": output_layer("hypernet", scale="rows", hidden=None),
        "film": output_layer("film"),
        "moe": output_layer("moe", experts=6, active=2, hidden=3, balance_weight=0.3),
        "nsm": output_layer("nsm", slots=3, key_dim=2, key_loss_weight=0.4, variant="release"),
        "lowrank": output_layer("lowrank", rank=3 * 2),
    },
}  # fmt: skip


def behaviour(layer: nn.Module) -> dict[str, Tensor]:
    """The output for one batch, in training, and the extra loss."""
    torch.manual_seed(1)
    x = torch.randn(5, 6)
    extra = getattr(layer, "auxiliary_loss", lambda: torch.zeros(()))
    return {"output": layer(x), "extra loss": extra()}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_layer_has_the_parameters_and_does_what_the_same_layer_built_by_hand_does(settings, name):
    layers = []
    for factory in (layer_factory(name, SETTINGS[settings]), BY_HAND[settings][name]):
        torch.manual_seed(0)
        layers.append(factory(6, 4))
    ours, hand = layers
    shapes = [{key: value.shape for key, value in layer.state_dict().items()} for layer in layers]
    assert shapes[0] == shapes[1] and shapes[0]
    if name == "lowrank":  # draws a Neurocoder first, so that its numbers are others
        ours.load_state_dict(hand.state_dict())
    torch.testing.assert_close(dict(ours.state_dict()), dict(hand.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(behaviour(ours), behaviour(hand), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "biases"),
    [("mlp", 4), ("neurocoder", 4), ("nsm", 3 * 4), ("lowrank", 4), ("hypernet", 0), ("film", 0), ("moe", 0)],
)
def test_without_a_bias_a_layer_has_as_many_parameters_less_as_biases(name, biases):
    def count(bias: bool) -> int:
        layer = layer_factory(name, ALL_CHANGED, bias=bias)(6, 4)
        return sum(parameter.numel() for parameter in layer.parameters())

    assert count(bias=True) - count(bias=False) == biases


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_come_back_the_same_through_json(settings):
    through = json.loads(json.dumps(asdict(SETTINGS[settings])))
    assert read_settings(LayerSettings, through) == SETTINGS[settings]


def test_the_changed_settings_above_change_every_field():
    defaults, altered = asdict(LayerSettings()), asdict(ALL_CHANGED)
    same = [(group, name) for group in defaults for name in defaults[group]
            if defaults[group][name] == altered[group][name]]  # fmt: skip
    assert same == []


@pytest.mark.parametrize("group", ["neurocoder", "hypernet", "film", "moe", "nsm", None])
def test_a_field_that_this_version_does_not_know_is_a_type_error(group):
    fields = asdict(LayerSettings())
    (fields if group is None else fields[group])["invented"] = 1
    with pytest.raises(TypeError, match="invented"):
        read_settings(LayerSettings, fields)


def changed(flag: str, value: object) -> LayerSettings:
    """The default settings with one of them altered, named as on the command line."""
    group, name = flag.removeprefix("--").replace("-", "_").split(".")
    return replace(LayerSettings(), **{group: replace(getattr(LayerSettings(), group), **{name: value})})


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--neurocoder.steps", 0),
        ("--neurocoder.least-used", 79),
        ("--neurocoder.beta", None),
        ("--neurocoder.orthogonality-weight", 0.0),
        ("--hypernet.hidden", None),
        ("--hypernet.hidden", 1),
        ("--film.hidden", None),
        ("--moe.active", 50),
        ("--moe.experts", 5),
        ("--moe.balance-weight", 0.0),
        ("--nsm.slots", 1),
        ("--nsm.key-loss-weight", 0.0),
    ],
)
def test_a_setting_at_the_edge_of_its_range_is_accepted(flag, value):
    changed(flag, value).check()


NAN, INFINITE = float("nan"), float("inf")
AT_LEAST_ONE = (
    "--neurocoder.slots", "--neurocoder.key-dim", "--neurocoder.heads", "--hypernet.hidden", "--film.hidden",
    "--moe.experts", "--moe.active", "--moe.hidden", "--nsm.slots", "--nsm.key-dim",
)  # fmt: skip
WEIGHTS = ("--neurocoder.orthogonality-weight", "--moe.balance-weight", "--nsm.key-loss-weight")
CHOICES = (
    "--neurocoder.gate-from", "--neurocoder.keys", "--neurocoder.variant", "--hypernet.scale", "--nsm.variant"
)  # fmt: skip
OUT_OF_RANGE = [
    *((flag, value) for flag in AT_LEAST_ONE for value in (0, -1)),
    *((flag, value) for flag in WEIGHTS for value in (-0.1, NAN, INFINITE)),
    *((flag, "code") for flag in CHOICES),
    ("--neurocoder.steps", -1),
    ("--neurocoder.least-used", -1),
    ("--neurocoder.least-used", 80),
    *(("--neurocoder.beta", value) for value in (0.0, -1.0, NAN, INFINITE)),
    ("--moe.active", 51),
]


@pytest.mark.parametrize(
    ("flag", "value"), OUT_OF_RANGE, ids=[f"{flag}={value}" for flag, value in OUT_OF_RANGE]
)
def test_a_setting_out_of_range_is_refused_in_one_line_with_its_flag_and_value(flag, value):
    with pytest.raises(ValueError) as refusal:
        changed(flag, value).check()
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith(
        f"{flag} {value!r} is not known" if isinstance(value, str) else f"{flag} is {value};"
    )


CONTROLLED = {  # settings of a Neurocoder, and the rank of its program
    "linear controller": (dict(slots=80, key_dim=3, heads=15, beta=10.0), 15),
    "recurrent controller": (dict(slots=30, key_dim=5, heads=3, steps=5, least_used=5, gate_from="signal"), 15),
    "one head of five steps": (dict(slots=5, key_dim=2, heads=1, steps=5, least_used=2, beta=10.0), 5),
    "as released": (dict(slots=20, key_dim=3, heads=2, variant="release", residual=False), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_low_rank_control_has_the_rank_of_the_neurocoders_program(name):
    settings, rank = CONTROLLED[name]
    torch.manual_seed(0)
    control = low_rank_control(40, 30, **settings)
    assert torch.linalg.matrix_rank(control.U @ control.V) == rank


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_low_rank_control_starts_at_the_output_scale_of_the_neurocoders_program(name):
    settings, _ = CONTROLLED[name]
    x = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    ratios = []
    for seed in range(20):
        torch.manual_seed(seed)
        program = NeurocoderLinear(200, 150, **settings | {"residual": False, "bias": False})
        torch.manual_seed(seed)
        control = low_rank_control(200, 150, **settings)  # measured on this very program
        with torch.no_grad():
            ratios.append(control(x).norm() / program(x).norm())
    assert torch.stack(ratios).mean() == pytest.approx(1, abs=0.05)


def test_the_low_rank_control_has_the_same_weights_for_all_inputs_where_the_neurocoder_has_not():
    settings, _ = CONTROLLED["linear controller"]
    torch.manual_seed(0)
    control = low_rank_control(6, 4, **settings)
    neurocoder = NeurocoderLinear(6, 4, **settings)
    one, other = torch.randn(6), torch.randn(6)
    weights = (control.U @ control.V).T
    for x in (one, other):
        torch.testing.assert_close(jacrev(control)(x), weights)
    assert not torch.allclose(jacrev(neurocoder)(one), jacrev(neurocoder)(other), rtol=0.01)
