"""FiLM, stored programs (NSM), mixture of experts and the low-rank control against an obvious loop over inputs."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from neurocoder.alternatives.film import FiLMLinear
from neurocoder.alternatives.hypernet import HyperNetLinear
from neurocoder.alternatives.low_rank import LowRankLinear, low_rank_control
from neurocoder.alternatives.mixture_of_experts import MixtureOfExpertsLinear
from neurocoder.alternatives.stored_program import StoredProgramLinear

LAYERS = {
    "film, one layer": lambda: FiLMLinear(7, 4, hidden=None),
    "film, two layers": lambda: FiLMLinear(7, 4, hidden=5),
    "stored programs": lambda: StoredProgramLinear(7, 4, slots=3, key_dim=2),
    "mixture of experts": lambda: MixtureOfExpertsLinear(7, 4, experts=5, active=2, hidden=3).eval(),
    "low rank": lambda: LowRankLinear(7, 4, rank=2),
}


def randomised(layer: nn.Module) -> nn.Module:
    """Draws all parameters in double precision, so that no zero or one of the initialisation hides a term."""
    torch.manual_seed(0)
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


def film(layer: FiLMLinear, x):
    gamma, delta = layer.modulation(x).split(4)
    return torch.stack(
        [gamma[o] * (layer.linear.weight[o] @ x + layer.linear.bias[o]) + delta[o] for o in range(4)]
    )


def stored_programs(layer: StoredProgramLinear, x):
    query = torch.tanh(layer.query(x))
    strength = torch.log1p(torch.exp(layer.strength(x)[0]))
    cosines = [F.cosine_similarity(query, torch.tanh(key), dim=0) for key in layer.keys]
    powers = [torch.exp(layer.beta * strength * cosine) for cosine in cosines]
    weight = sum(p / sum(powers) * program for p, program in zip(powers, layer.programs, strict=True))
    bias = sum(p / sum(powers) * c for p, c in zip(powers, layer.biases, strict=True))
    return weight @ x + bias


def mixture_of_experts(layer: MixtureOfExpertsLinear, x):
    shares = torch.softmax(x @ layer.gate, dim=0)
    chosen = sorted(range(len(layer.experts)), key=lambda e: -shares[e].item())[: layer.active]
    return sum(shares[e] / sum(shares[c] for c in chosen) * layer.experts[e](x) for e in chosen)


def low_rank(layer: LowRankLinear, x):
    return (layer.U @ layer.V).T @ x + layer.bias


LOOPS = dict(zip(LAYERS, (film, film, stored_programs, mixture_of_experts, low_rank), strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_equal_those_of_a_loop_over_inputs(name):
    layer = randomised(LAYERS[name]())
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    fast = layer(x)
    slow = torch.stack([LOOPS[name](layer, row) for row in x])
    torch.testing.assert_close(fast, slow)
    gradients = [torch.autograd.grad(y.square().sum(), leaves, allow_unused=True) for y in (fast, slow)]
    assert any(g is not None for g in gradients[0][1:])
    for ours, looped in zip(*gradients, strict=True):
        # Experts that no input chose and noise that is off have no gradient.
        zero = torch.zeros(())
        torch.testing.assert_close(zero if ours is None else ours, zero if looped is None else looped)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("leading", [(), (0,), (1,), (3,), (2, 3)], ids=str)
def test_leading_dimensions_are_free(name, leading):
    layer = LAYERS[name]()
    x = torch.randn(*leading, 7)
    y = layer(x)
    assert y.shape == (*leading, 4)
    torch.testing.assert_close(y.reshape(-1, 4), layer(x.reshape(-1, 7)))


def test_film_starts_as_the_plain_layer():
    for hidden in (None, 5):
        layer = FiLMLinear(7, 4, hidden=hidden)
        x = torch.randn(3, 7)
        torch.testing.assert_close(layer(x), layer.linear(x))


def test_the_released_stored_programs_divide_the_cosine_by_the_key_width():
    paper = StoredProgramLinear(7, 4, slots=3, key_dim=2)
    release = StoredProgramLinear(7, 4, slots=3, key_dim=2, variant="release")
    assert paper.beta == 1 and release.beta == 0.5


def test_stored_programs_start_within_the_bound_of_their_flattened_memory():
    layer = StoredProgramLinear(1024, 256, slots=5, key_dim=5, bias=False)
    bound = 1.4 * math.sqrt(6 / (5 + 5 + 1024 * 256))
    # The bound that the paper publishes.
    assert bound == pytest.approx(0.0067, abs=1e-4)
    assert 0.99 * bound < layer.programs.abs().max() <= bound


def test_the_key_loss_is_the_mean_cosine_over_pairs_of_different_keys():
    layer = StoredProgramLinear(7, 4, slots=3, key_dim=2, key_loss_weight=0.1)
    keys = layer.keys.tanh()
    pairs = [F.cosine_similarity(keys[i], keys[j], dim=0) for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(layer.auxiliary_loss(), 0.1 * torch.stack(pairs).mean())


def test_only_chosen_experts_are_computed():
    layer = MixtureOfExpertsLinear(7, 4, experts=20, active=2, hidden=3)
    rows = []
    for expert in layer.experts:
        expert.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    layer(torch.randn(5, 7))
    assert sum(rows) == 5 * 2


def test_the_gating_noise_acts_in_training_only():
    layer = MixtureOfExpertsLinear(7, 4, experts=20, active=2)
    x = torch.randn(5, 7)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_the_chance_of_an_expert_is_that_of_being_chosen_when_its_noise_is_drawn_again():
    torch.manual_seed(0)
    layer = MixtureOfExpertsLinear(3, 2, experts=4, active=2)
    clean = torch.tensor([[0.5, -0.2, 0.1, 0.9]])
    deviation = torch.tensor([[0.5, 1.0, 0.3, 0.7]])
    noisy = clean + deviation * torch.tensor([[0.3, 1.1, -0.8, 0.2]])
    draws = 40_000
    for expert in range(4):
        redrawn = noisy.repeat(draws, 1)
        redrawn[:, expert] = clean[0, expert] + deviation[0, expert] * torch.randn(draws)
        frequency = (redrawn.topk(2).indices == expert).any(dim=-1).float().mean()
        chances = layer._chances(clean, noisy, deviation, noisy.topk(3).values)
        assert chances[0, expert] == pytest.approx(frequency.item(), abs=0.01)


def test_the_balance_loss_is_lower_for_an_even_use_of_experts():
    torch.manual_seed(0)
    x = torch.randn(512, 7)
    even = MixtureOfExpertsLinear(7, 4, experts=5, active=1)
    uneven = MixtureOfExpertsLinear(7, 4, experts=5, active=1)
    # No training batch so far.
    assert even.auxiliary_loss() == 0
    with torch.no_grad():
        uneven.gate[0, 0] = 50.0
    even(x), uneven(x)
    assert even.auxiliary_loss() < 0.1 * uneven.auxiliary_loss()


def test_the_balance_loss_belongs_to_the_last_training_batch_and_a_second_call_returns_zero():
    layer = MixtureOfExpertsLinear(7, 4, experts=5, active=2)
    layer(torch.randn(6, 7))
    loss = layer.auxiliary_loss()
    assert loss > 0 and layer.auxiliary_loss() == 0
    loss.backward()
    # A later update without a batch for this layer has nothing of this graph.
    assert layer.auxiliary_loss() == 0


def test_a_mixture_of_experts_can_be_copied_between_forward_pass_and_loss():
    layer = MixtureOfExpertsLinear(7, 4, experts=5, active=2)
    layer(torch.randn(6, 7))
    other = copy.deepcopy(layer)
    assert layer.auxiliary_loss() > 0 and other.auxiliary_loss() == 0
    assert all(map(torch.equal, layer.parameters(), other.parameters()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: HyperNetLinear(8, 4, scale="rows"),
        lambda: HyperNetLinear(8, 4, scale="elements"),
        lambda: StoredProgramLinear(8, 4, slots=3, key_dim=2),
        lambda: MixtureOfExpertsLinear(8, 4, experts=5, active=2),
    ],
)
def test_an_input_of_another_width_is_refused_with_the_width_it_must_have(make):
    with pytest.raises(ValueError, match=re.escape("x has shape (3, 16); its last axis must be 8")):
        make()(torch.randn(3, 16))


@pytest.mark.parametrize("deviation", [None, 0.02])
def test_the_low_rank_control_starts_at_the_scale_asked_for(deviation):
    torch.manual_seed(0)
    layer = LowRankLinear(300, 200, rank=10, weight_deviation=deviation)
    program = (layer.U @ layer.V).detach()
    assert torch.linalg.matrix_rank(program) == 10
    assert program.std() == pytest.approx(deviation or 1 / math.sqrt(3 * 300), rel=0.15)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: LowRankLinear(7, 4, rank=0), "rank is 0"),
        (lambda: LowRankLinear(7, 4, rank=1, weight_deviation=0.0), "weight_deviation is 0.0"),
        (lambda: LowRankLinear(7, 4, rank=1, weight_deviation=math.inf), "inf; it must be a finite number"),
        (
            lambda: low_rank_control(7, 4, slots=3, key_dim=2, heads=1, controller_features=5),
            "controller_features: the low-rank control has no controller",
        ),
    ],
)
def test_wrong_settings_of_the_low_rank_control_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
