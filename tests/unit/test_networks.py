"""The Main Networks: published parameter counts, shapes, and which layers a factory makes."""

from functools import partial

import pytest
import torch
from torch import nn

from neurocoder import NeurocoderLinear, output_layer
from neurocoder.networks.conv_lstm import parameter_count
from neurocoder.networks.densenet import DenseNet
from neurocoder.networks.gru import GRURegressor
from neurocoder.networks.lenet import LeNet
from neurocoder.networks.mlp import MLP

SINGLE_STEP = output_layer("neurocoder", slots=10, key_dim=3, heads=15, residual=False, variant="release")
SPLIT_MNIST = output_layer("neurocoder", slots=50, key_dim=5, heads=10, residual=False, variant="release")


def mean_of_10_and_100_classes(make) -> float:
    return (parameter_count(make(10)) + parameter_count(make(100))) / 2


@pytest.mark.parametrize(
    ("count", "published"),
    [
        (lambda: mean_of_10_and_100_classes(lambda classes: MLP((3072, 512, 256, classes))), 1_718_839),
        (lambda: mean_of_10_and_100_classes(LeNet), 2_148_955),
        (lambda: mean_of_10_and_100_classes(DenseNet), 7_032_247),
        (lambda: parameter_count(GRURegressor(2, 32)), 3_489),
        (
            lambda: parameter_count(
                GRURegressor(2, 28, output_layer=output_layer("hypernet", scale="rows", hidden=None))
            ),
            3_529,
        ),
        (lambda: parameter_count(GRURegressor(2, 32, output_layer=output_layer("film"))), 3_555),
        (lambda: parameter_count(GRURegressor(2, 16, output_layer=SINGLE_STEP)), 3_600),
        (lambda: parameter_count(MLP((1024, 256, 256, 2), output_layer=SPLIT_MNIST, adapted=3)), 348_083),
        (lambda: parameter_count(MLP((1024, 400, 400, 2), output_layer=SPLIT_MNIST, adapted=3)), 423_539),
        (lambda: parameter_count(MLP((784, 10), output_layer=partial(nn.Linear, bias=False))), 7_840),
        (
            lambda: parameter_count(
                MLP(
                    (1024, 256, 256, 2),
                    output_layer=output_layer("nsm", slots=5, key_dim=5, bias=False),
                    adapted=3,
                )
            ),
            1_650_269,
        ),
    ],
    ids=[
        "CIFAR MLP",
        "CIFAR LeNet",
        "DenseNet",
        "polynomial GRU",
        "polynomial HyperNet",
        "polynomial FiLM",
        "polynomial Neurocoder, single-step",
        "Split MNIST Neurocoder",
        "Split MNIST Neurocoder, released logs",
        "MNIST linear",
        "Split MNIST NSM, active parameters",
    ],
)
def test_parameter_count_is_the_published_one(count, published):
    assert count() == published


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
