"""Advantages and returns against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.a3c.returns import generalised_advantages


def slow_advantages(rewards, values, terminated, truncated, gamma, gae_lambda):
    """Computes the definition: from each step of each game, walks forward and sums discounted TD errors."""
    steps, games = rewards.shape
    advantages = torch.zeros(steps, games, dtype=torch.float64)
    for game in range(games):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                next_value = 0.0 if terminated[k, game] else float(values[k + 1, game])
                error = float(rewards[k, game]) + gamma * next_value - float(values[k, game])
                advantages[t, game] += weight * error
                if terminated[k, game] or truncated[k, game]:
                    break
                weight *= gamma * gae_lambda
    return advantages


def draw_rollout(seed, steps, games, ends=0.2):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(steps, games, generator=generator, dtype=torch.float64)
    values = torch.randn(steps + 1, games, generator=generator, dtype=torch.float64)
    terminated = torch.rand(steps, games, generator=generator) < ends
    truncated = (torch.rand(steps, games, generator=generator) < ends) & ~terminated
    return rewards, values, terminated, truncated


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 12),
    games=st.integers(1, 4),
    ends=st.sampled_from([0.0, 0.2, 0.6]),
    gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1),
)
def test_advantages_equal_a_walk_forward_from_every_step(seed, steps, games, ends, gamma, gae_lambda):
    rollout = draw_rollout(seed, steps, games, ends)
    advantages, returns = generalised_advantages(*rollout, gamma=gamma, gae_lambda=gae_lambda)
    torch.testing.assert_close(advantages, slow_advantages(*rollout, gamma, gae_lambda))
    torch.testing.assert_close(returns, advantages + rollout[1][:-1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 12), gamma=st.floats(0, 1))
def test_with_lambda_1_the_return_is_the_discounted_sum_of_rewards_and_the_last_value(seed, steps, gamma):
    rewards, values, terminated, truncated = draw_rollout(seed, steps, games=3)
    _, returns = generalised_advantages(rewards, values, terminated, truncated, gamma=gamma, gae_lambda=1.0)
    for game in range(3):
        for t in range(steps):
            total, discount = 0.0, 1.0
            for k in range(t, steps):
                total += discount * rewards[k, game]
                discount *= gamma
                if terminated[k, game]:
                    break
                if truncated[k, game] or k == steps - 1:
                    total += discount * values[k + 1, game]
                    break
            torch.testing.assert_close(returns[t, game], total)


def test_a_terminated_step_bootstraps_nothing():
    rewards, values, terminated, truncated = draw_rollout(0, steps=5, games=2, ends=0.0)
    terminated[2] = True
    before, _ = generalised_advantages(rewards, values, terminated, truncated, gamma=0.9, gae_lambda=0.8)
    torch.testing.assert_close(before[2], rewards[2] - values[2])
    values[3] += 100.0
    after, _ = generalised_advantages(rewards, values, terminated, truncated, gamma=0.9, gae_lambda=0.8)
    assert torch.equal(before[:3], after[:3])


def test_a_truncated_step_bootstraps_the_value_in_the_next_row():
    rewards, values, terminated, truncated = draw_rollout(0, steps=5, games=2, ends=0.0)
    truncated[2] = True
    advantages, returns = generalised_advantages(
        rewards, values, terminated, truncated, gamma=0.9, gae_lambda=0.8
    )
    torch.testing.assert_close(advantages[2], rewards[2] + 0.9 * values[3] - values[2])
    torch.testing.assert_close(returns[2], rewards[2] + 0.9 * values[3])


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_nothing_flows_from_a_reset_row_into_the_rows_before(end):
    rewards, values, terminated, truncated = draw_rollout(1, steps=6, games=2, ends=0.0)
    # The reset is row 3.
    {"terminated": terminated, "truncated": truncated}[end][2] = True
    before, _ = generalised_advantages(rewards, values, terminated, truncated, gamma=0.9, gae_lambda=0.8)
    rewards[3:] += 100.0
    values[4:] -= 50.0
    after, _ = generalised_advantages(rewards, values, terminated, truncated, gamma=0.9, gae_lambda=0.8)
    assert torch.equal(before[:3], after[:3])
    assert not torch.isclose(before[3:], after[3:]).any()
