"""Diagnostics of a rollout against slow loops over its steps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.actor_critic.diagnostics import describe_network, describe_rollout, explained_variance
from neurocoder.networks.conv_lstm import ConvLSTM

NAMES = ("NOOP", "FIRE", "RIGHT", "LEFT")


def variance(numbers: list[float]) -> float:
    mean = sum(numbers) / len(numbers)
    return sum((number - mean) ** 2 for number in numbers) / len(numbers)


def draw_rollout(seed: int, steps: int, games: int):
    generator = np.random.default_rng(seed)
    values, advantages, returns = generator.normal(size=(3, steps, games))
    actions = generator.integers(len(NAMES), size=(steps, games))
    valid = generator.random((steps, games)) < 0.7
    return [torch.from_numpy(part) for part in (values, advantages, returns, actions, valid)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 6), games=st.integers(1, 4))
def test_the_description_of_a_rollout_equals_a_slow_loop_over_its_valid_steps(seed, steps, games):
    rollout = draw_rollout(seed, steps, games)
    values, advantages, returns, actions, valid = (part.numpy() for part in rollout)
    errors, targets, squares, counts = [], [], [], dict.fromkeys(NAMES, 0)
    for t in range(steps):
        for game in range(games):
            if valid[t, game]:
                errors.append(returns[t, game] - values[t, game])
                targets.append(returns[t, game])
                squares.append(advantages[t, game] ** 2)
                counts[NAMES[actions[t, game]]] += 1
    expected = {}
    if squares:
        expected = {f"policy/action/{name}": count / len(squares) for name, count in counts.items()}
        expected["values/advantage_rms"] = math.sqrt(sum(squares) / len(squares))
    if len(squares) > 1:
        expected["values/explained_variance"] = 1 - variance(errors) / variance(targets)
    assert describe_rollout(*rollout, NAMES) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    "values, expected",
    [([1.0, 2.0, 6.0], 1.0), ([3.0, 3.0, 3.0], 0.0), ([11.0, 12.0, 16.0], 1.0), ([-1.0, -2.0, -6.0], -3.0)],
    ids=["perfect", "the mean", "wrong by a constant", "worse than the mean"],
)
def test_the_explained_variance_of_simple_critics(values, expected):
    explained = explained_variance(torch.tensor(values), torch.tensor([1.0, 2.0, 6.0]))
    assert explained.item() == pytest.approx(expected)


def test_a_diagnostic_that_cannot_be_computed_is_left_out():
    values, advantages, returns, actions, valid = draw_rollout(0, 4, 2)
    valid[:] = True
    # With equal returns there is no variance to explain.
    scalars = describe_rollout(values, advantages, torch.ones_like(returns), actions, valid, NAMES)
    assert scalars.keys() == {"values/advantage_rms", *(f"policy/action/{name}" for name in NAMES)}
    advantages[0, 0] = math.nan
    scalars = describe_rollout(values, advantages, returns, actions, valid, NAMES)
    assert scalars.keys() == {"values/explained_variance", *(f"policy/action/{name}" for name in NAMES)}
    valid[:] = False
    assert describe_rollout(values, advantages, returns, actions, valid, NAMES) == {}


def test_the_description_of_a_network_equals_torchs_cell_and_slow_loops():
    torch.manual_seed(0)
    network = ConvLSTM(6, lstm_hidden=8)
    features = torch.rand(5, 3, 1024)
    features[..., :100] = 0
    features[2:, :, 100:150] = 0
    start = torch.zeros(5, 3, dtype=torch.bool)
    hidden, _ = network.recur(features, network.initial_state(3), start)
    scalars = describe_network(features, hidden.detach(), network.lstm_weights())
    dead = sum(all(features[t, n, k] == 0 for t in range(5) for n in range(3)) for k in range(1024))
    assert dead == 100 and scalars["network/dead_features"] == pytest.approx(dead / 1024)
    outputs = hidden.detach().numpy().reshape(15, 8)
    deviation = sum(variance(list(map(float, outputs[:, unit]))) ** 0.5 for unit in range(8)) / 8
    assert scalars["network/lstm_deviation"] == pytest.approx(deviation, rel=1e-5)
    x = features[-1]
    cell = network.lstm
    gates = x @ cell.weight_ih.T + hidden[-2] @ cell.weight_hh.T + cell.bias_ih + cell.bias_hh
    opened = torch.cat([gates[:, :16], gates[:, 24:]], dim=1).sigmoid().flatten().tolist()
    saturated = sum(gate < 0.05 or gate > 0.95 for gate in opened)
    assert 0 < saturated < len(opened)
    assert scalars["network/saturated_gates"] == pytest.approx(saturated / len(opened))
    assert "network/saturated_gates" not in describe_network(features[:1], hidden[:1], network.lstm_weights())
