"""The diagonal Fisher information against one backward pass a sample."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import agents.continual.fisher as fisher
from agents.continual.fisher import diagonal_fisher, one_by_one, squared_gradients
from neurocoder.alternatives.film import FiLMLinear
from neurocoder.alternatives.hypernet import HyperNetLinear
from neurocoder.alternatives.low_rank import LowRankLinear
from neurocoder.alternatives.stored_program import StoredProgramLinear
from neurocoder.layer import NeurocoderLinear
from neurocoder.networks.mlp import MLP

SIZES = dict(slots=6, key_dim=3, heads=2, beta=2.0)
NEUROCODERS = {
    "as in Split MNIST": dict(residual=False, bias=False),
    "generated keys": {},
    "learned keys": dict(keys="learned"),
    "without residual": dict(residual=False),
    "without bias": dict(bias=False),
    "learned keys without residual and bias": dict(keys="learned", residual=False, bias=False),
    "release": dict(variant="release"),
    "release, learned keys": dict(variant="release", keys="learned"),
    "learned temperature": dict(learn_beta=True),
    "projection": dict(projection=4),
    "fewer slots than keys are wide": dict(slots=2),
    "recurrent": dict(steps=2),
    "recurrent, least-used slots": dict(steps=2, least_used=2, gate_from="signal"),
}
LAYERS = {
    "linear": lambda *widths: nn.Linear(*widths),
    "linear without bias": lambda *widths: nn.Linear(*widths, bias=False),
    "low rank": lambda *widths: LowRankLinear(*widths, rank=2),
    "low rank without bias": lambda *widths: LowRankLinear(*widths, rank=2, bias=False),
    "stored programs": lambda *widths: StoredProgramLinear(*widths, slots=3, key_dim=2),
    "stored programs without bias": lambda *widths: StoredProgramLinear(
        *widths, slots=3, key_dim=2, bias=False
    ),
    "stored programs, release": lambda *widths: StoredProgramLinear(
        *widths, slots=3, key_dim=2, variant="release"
    ),
    "hypernet": lambda *widths: HyperNetLinear(*widths, hidden=3),
    "film": lambda *widths: FiLMLinear(*widths),
} | {
    f"neurocoder, {name}": lambda *widths, settings=settings: NeurocoderLinear(*widths, **SIZES | settings)
    for name, settings in NEUROCODERS.items()
}


def randomised(network: nn.Module) -> nn.Module:
    """In double precision, all parameters drawn anew, so that no zero or one of the initialisation hides a term."""
    for parameter in network.double().parameters():
        nn.init.normal_(parameter, std=0.6)
    return network


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def summed_one_backward_a_sample(network: nn.Module, losses) -> dict[str, torch.Tensor]:
    """`losses` is an iterator that makes the graph of one sample's loss after the other."""
    total = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    for loss in losses:
        network.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.square()
    return total


def slow_fisher(network: nn.Module, x: torch.Tensor, logits=None) -> dict[str, torch.Tensor]:
    def losses():
        for sample in x.split(1):
            y = (logits or network)(sample)
            yield F.cross_entropy(y, y.argmax(dim=1))

    total = summed_one_backward_a_sample(network, losses())
    return {name: squares / len(x) for name, squares in total.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-9, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", LAYERS)
def test_squared_gradients_of_a_layer_equal_one_backward_a_sample(name):
    torch.manual_seed(0)
    layer, x, delta = randomised(LAYERS[name](7, 4)), draw(12, 7), draw(12, 4)
    losses = ((layer(x[b : b + 1]) * delta[b]).sum() for b in range(12))
    assert_equal(squared_gradients(layer, delta, x), summed_one_backward_a_sample(layer, losses))


@pytest.mark.parametrize("settings", [dict(), dict(projection=3), dict(steps=2)], ids=str)
def test_squared_gradients_of_a_neurocoder_whose_controller_has_an_input_of_its_own(settings):
    torch.manual_seed(0)
    layer = randomised(NeurocoderLinear(7, 4, controller_features=5, **SIZES, **settings))
    x, z, delta = draw(12, 7), draw(12, 5), draw(12, 4)
    losses = ((layer(x[b : b + 1], z[b : b + 1]) * delta[b]).sum() for b in range(12))
    assert_equal(squared_gradients(layer, delta, x, z), summed_one_backward_a_sample(layer, losses))


@pytest.mark.parametrize("name", LAYERS)
def test_fisher_of_a_network_of_three_layers_equals_one_backward_a_sample(name):
    torch.manual_seed(0)
    network, x = randomised(MLP([8, 6, 5, 3], output_layer=LAYERS[name], adapted=3)), draw(20, 8)
    found = diagonal_fisher(network, x, batch=8)
    assert_equal(found, slow_fisher(network, x))
    assert list(found) == [name for name, _ in network.named_parameters()]
    assert not any(value.requires_grad for value in found.values())


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
    found = diagonal_fisher(network, x, logits=lambda x: network(x, task))
    assert_equal(found, slow_fisher(network, x, lambda x: network(x, task)))
    for name, value in found.items():
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


@pytest.mark.parametrize("rows", [1, 7, 12])
def test_one_by_one_does_not_depend_on_its_chunks(rows, monkeypatch):
    torch.manual_seed(0)
    layer, x, delta = randomised(LAYERS["neurocoder, generated keys"](7, 4)), draw(12, 7), draw(12, 4)
    monkeypatch.setattr(fisher, "WRITTEN_OUT", rows * sum(p.numel() for p in layer.parameters()))
    assert_equal(one_by_one(layer, delta, x), squared_gradients(layer, delta, x))


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
