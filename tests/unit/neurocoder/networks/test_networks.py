"""The Main Networks: shapes, and which layers a factory makes. (Their sizes: test_parameter_counts.py.)"""

import pytest
import torch

from neurocoder import NeurocoderLinear, output_layer
from neurocoder.networks.densenet import DenseNet
from neurocoder.networks.gru import GRURegressor
from neurocoder.networks.lenet import LeNet
from neurocoder.networks.mlp import MLP

SINGLE_STEP = output_layer("neurocoder", slots=10, key_dim=3, heads=15, residual=False, variant="release")


@pytest.mark.parametrize(
    "make", [LeNet, DenseNet, lambda classes: MLP((3072, 16, classes))], ids=["LeNet", "DenseNet", "MLP"]
)
def test_images_are_mapped_to_one_logit_a_class(make):
    assert make(7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("adapted", [0, 1, 3])
def test_the_factory_makes_the_layers_nearest_to_the_output(adapted):
    network = MLP((8, 7, 6, 5), output_layer=SINGLE_STEP, adapted=adapted)
    assert [isinstance(layer, NeurocoderLinear) for layer in network.layers] == [False] * (3 - adapted) + [
        True
    ] * adapted
    assert network(torch.randn(4, 8)).shape == (4, 5)


def test_the_gru_predicts_a_step_from_the_steps_up_to_it_only():
    network = GRURegressor(2, 8, output_layer=SINGLE_STEP)
    x = torch.randn(3, 10, 2)
    changed = x.clone()
    changed[:, 6:] += 1
    torch.testing.assert_close(network(x)[:, :6], network(changed)[:, :6])
    assert not torch.allclose(network(x)[:, 6:], network(changed)[:, 6:])


@pytest.mark.parametrize(
    ("widths", "adapted", "message"), [((3,), 1, "widths is"), ((3, 2), 2, "adapted is 2")]
)
def test_wrong_settings_are_named(widths, adapted, message):
    with pytest.raises(ValueError, match=message):
        MLP(widths, adapted=adapted)
