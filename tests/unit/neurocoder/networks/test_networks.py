"""The Main Networks: shapes, and the layers that a factory makes. test_parameter_counts.py has their sizes."""

import pytest
import torch
from torch import nn

from neurocoder import NeurocoderLinear, output_layer
from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.networks.densenet import DenseNet
from neurocoder.networks.gru import GRURegressor
from neurocoder.networks.lenet import LeNet
from neurocoder.networks.mlp import MLP
from neurocoder.networks.multi_head_mlp import MultiHeadMLP
from neurocoder.networks.ntm import NTM
from neurocoder.networks.resnet import ResNet18

SINGLE_STEP = output_layer("neurocoder", slots=10, key_dim=3, heads=15, residual=False, variant="release")


@pytest.mark.parametrize(
    "make", [LeNet, DenseNet, lambda classes: MLP((3072, 16, classes))], ids=["LeNet", "DenseNet", "MLP"]
)
def test_images_are_mapped_to_one_logit_a_class(make):
    assert make(7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("adapted", [0, 1, 3])
def test_the_factory_makes_the_layers_nearest_to_the_output(adapted):
    network = MLP((8, 7, 6, 5), output_layer=SINGLE_STEP, adapted=adapted)
    made_by_factory = [isinstance(layer, NeurocoderLinear) for layer in network.layers]
    assert made_by_factory == [False] * (3 - adapted) + [True] * adapted
    assert network(torch.randn(4, 8)).shape == (4, 5)


def test_the_gru_predicts_a_step_from_the_steps_up_to_it_only():
    network = GRURegressor(2, 8, output_layer=SINGLE_STEP)
    x = torch.randn(3, 10, 2)
    changed = x.clone()
    changed[:, 6:] += 1
    torch.testing.assert_close(network(x)[:, :6], network(changed)[:, :6])
    assert not torch.allclose(network(x)[:, 6:], network(changed)[:, 6:])


@pytest.mark.parametrize("head", [0, 1, 2])
def test_each_head_sees_the_same_hidden_layers(head):
    torch.manual_seed(0)
    network = MultiHeadMLP((6, 5, 4), 3, 3, hidden_layer=nn.Linear, head=SINGLE_STEP)
    x = torch.randn(7, 6)
    hidden = x
    for layer in network.hidden:
        hidden = torch.relu(hidden @ layer.weight.T + layer.bias)
    logits, extra = network(x, head)
    torch.testing.assert_close(logits, network.heads[head](hidden))
    torch.testing.assert_close(extra, sum(layer.auxiliary_loss() for layer in network.heads))
    assert logits.shape == (7, 3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LeNet(0), "classes"),
        (lambda: DenseNet(0), "classes"),
        (lambda: ResNet18(0), "classes"),
        (lambda: ConvLSTM(0), "actions"),
        (lambda: GRURegressor(0, 8), "in_features"),
        (lambda: GRURegressor(2, 0), "hidden"),
        (lambda: MultiHeadMLP((4, 4), 0, 1, hidden_layer=nn.Linear, head=nn.Linear), "classes"),
        (lambda: MultiHeadMLP((4, 4), 2, 0, hidden_layer=nn.Linear, head=nn.Linear), "heads"),
        (lambda: NTM(3, 2, hidden=4, cells=0), "cells"),
    ],
)
def test_a_size_below_one_is_refused_by_its_name(make, name):
    with pytest.raises(ValueError, match=f"^{name} is 0; it must be at least 1$"):
        make()


@pytest.mark.parametrize(
    ("widths", "adapted", "message"), [((3,), 1, "widths is"), ((3, 2), 2, "adapted is 2")]
)
def test_wrong_settings_are_named(widths, adapted, message):
    with pytest.raises(ValueError, match=message):
        MLP(widths, adapted=adapted)
