"""The diagonal Fisher information against one backward pass a sample."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents.continual.fisher import diagonal_fisher
from neurocoder.networks.mlp import MLP
from tests.unit.neurocoder.squares_by_hand import (
    LAYERS,
    assert_equal,
    draw,
    randomised,
    sum_sample_by_sample,
)


def slow_fisher(network: nn.Module, x: torch.Tensor, logits=None) -> dict[str, torch.Tensor]:
    def losses():
        for sample in x.split(1):
            y = (logits or network)(sample)
            yield F.cross_entropy(y, y.argmax(dim=1))

    total = sum_sample_by_sample(network, losses())
    return {name: squares / len(x) for name, squares in total.items()}


@pytest.mark.parametrize("name", LAYERS)
def test_fisher_of_a_network_of_three_layers_equals_one_backward_a_sample(name):
    torch.manual_seed(0)
    network, x = randomised(MLP([8, 6, 5, 3], output_layer=LAYERS[name], adapted=3)), draw(20, 8)
    result = diagonal_fisher(network, x, batch=8)
    assert_equal(result, slow_fisher(network, x))
    assert list(result) == [name for name, _ in network.named_parameters()]
    assert not any(value.requires_grad for value in result.values())


def test_the_label_is_the_likeliest_and_samples_are_averaged():
    network = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [0.0]]))
    x = torch.tensor([[1.0], [-2.0]])
    wrong = torch.sigmoid(-x.abs()).squeeze()  # probability of the class that is not the likeliest
    expected = (wrong * x.squeeze()).square().mean()  # both logits' gradients are +- wrong
    torch.testing.assert_close(
        diagonal_fisher(network, x)["weight"], expected.expand(2, 1), rtol=1e-6, atol=0
    )


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = MLP([8, 6, 5])
        self.heads = nn.ModuleList([nn.Linear(5, 2), LAYERS["neurocoder, as in Split MNIST"](5, 2)])

    def forward(self, x, task):
        return self.heads[task](self.trunk(x).relu_())  # overwrites what the trunk gave


@pytest.mark.parametrize("task", [0, 1])
def test_heads_of_other_tasks_get_zero(task):
    torch.manual_seed(0)
    network, x = randomised(TwoHeads()), draw(20, 8)
    result = diagonal_fisher(network, x, logits=lambda x: network(x, task))
    assert_equal(result, slow_fisher(network, x, lambda x: network(x, task)))
    for name, value in result.items():
        assert (value == 0).all() == name.startswith(f"heads.{1 - task}"), name


def test_logits_may_be_part_of_what_the_network_gives():
    torch.manual_seed(0)
    network, x = randomised(MLP([8, 6, 10])), draw(20, 8)

    def seen(x):
        return network(x)[:, :4]

    assert_equal(diagonal_fisher(network, x, logits=seen), slow_fisher(network, x, seen))


def test_frozen_parameters_have_a_fisher_as_well():
    torch.manual_seed(0)
    network, x = randomised(MLP([8, 6, 3])), draw(20, 8)
    expected = diagonal_fisher(network, x)
    assert_equal(diagonal_fisher(network.requires_grad_(False), x), expected)


@pytest.mark.parametrize("name", ["linear", "stored programs", "neurocoder, generated keys"])
def test_a_layer_that_sees_many_rows_a_sample_squares_the_sum_over_rows(name):
    torch.manual_seed(0)
    network, x = randomised(nn.Sequential(LAYERS[name](7, 4), nn.Flatten(), nn.Linear(12, 2))), draw(20, 3, 7)
    assert_equal(diagonal_fisher(network, x), slow_fisher(network, x))


def test_single_precision_gives_no_negative_importance_and_little_error():
    torch.manual_seed(0)
    network = MLP([32, 16, 16, 2], output_layer=LAYERS["neurocoder, generated keys"], adapted=3)
    x = torch.randn(200, 32)
    single = diagonal_fisher(network, x)
    double = diagonal_fisher(network.double(), x.double())
    for name, value in single.items():
        assert value.min() >= 0
        torch.testing.assert_close(value.double(), double[name], rtol=1e-3, atol=1e-6 * double[name].max())


class TwiceTheSame(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x))


class WeightWithoutCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.unseen = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) @ self.unseen.weight


class RowsInsideSamples(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x):
        return self.layer(x.reshape(-1, 2)).reshape(len(x), -1)


@pytest.mark.parametrize(
    "network",
    [TwiceTheSame(), WeightWithoutCall(), RowsInsideSamples()],
    ids=lambda network: type(network).__name__,
)
def test_a_network_whose_samples_or_calls_do_not_fit_is_an_error(network):
    with pytest.raises(ValueError, match="every"):
        diagonal_fisher(network, torch.randn(5, 4))
    assert not any(layer._forward_hooks for layer in network.modules())
