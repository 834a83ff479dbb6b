"""The losses of a rollout against a slow loop, and their gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.actor_critic.loss import actor_critic_losses


def draw_rollout(seed, steps, games, actions):
    generator = torch.Generator().manual_seed(seed)
    logits, values, advantages, returns = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((steps, games, actions), (steps, games), (steps, games), (steps, games))
    )
    taken = torch.randint(actions, (steps, games), generator=generator)
    valid = torch.rand(steps, games, generator=generator) < 0.7
    return logits.requires_grad_(), values.requires_grad_(), taken, advantages, returns, valid


def slow_losses(logits, values, taken, advantages, returns, valid):
    """Computes one number after another, as sums over steps and means over games."""
    policy = value = entropy = 0.0
    steps, games = valid.shape
    for t in range(steps):
        for game in range(games):
            if not valid[t, game]:
                continue
            exponentials = [math.exp(logit) for logit in logits[t, game].tolist()]
            chances = [exponential / sum(exponentials) for exponential in exponentials]
            policy -= advantages[t, game].item() * math.log(chances[taken[t, game]])
            value += 0.5 * (returns[t, game] - values[t, game]).item() ** 2
            entropy -= sum(chance * math.log(chance) for chance in chances)
    return policy / games, value / games, entropy / games


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 5),
    games=st.integers(1, 4),
    actions=st.integers(2, 18),
)
def test_losses_equal_a_slow_obvious_loop(seed, steps, games, actions):
    rollout = draw_rollout(seed, steps, games, actions)
    losses = actor_critic_losses(*rollout)
    assert [loss.item() for loss in losses] == pytest.approx(slow_losses(*rollout), rel=1e-9, abs=1e-12)


def test_a_step_that_was_no_transition_adds_nothing_to_a_loss_or_its_gradient():
    logits, values, taken, advantages, returns, valid = draw_rollout(0, steps=6, games=3, actions=4)
    assert 0 < valid.sum() < valid.numel()
    losses = actor_critic_losses(logits, values, taken, advantages, returns, valid)
    sum(losses).backward()
    assert not logits.grad[~valid].any() and not values.grad[~valid].any()
    assert logits.grad[valid].any(dim=-1).all() and values.grad[valid].all()

    with torch.no_grad():
        logits[~valid], values[~valid] = 7.0, -3.0
    advantages[~valid], returns[~valid] = 1e6, -1e6
    altered = actor_critic_losses(logits, values, taken, advantages, returns, valid)
    assert [loss.item() for loss in altered] == [loss.item() for loss in losses]


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_step_down_the_policy_loss_favours_an_action_of_positive_advantage(advantage):
    logits, values, taken, _, returns, valid = draw_rollout(0, steps=3, games=2, actions=4)
    valid[:] = True
    advantages = torch.full_like(returns, advantage)
    chance = logits.softmax(-1).gather(-1, taken.unsqueeze(-1)).detach()
    actor_critic_losses(logits, values, taken, advantages, returns, valid).policy.backward()
    chance_after = (logits - 0.1 * logits.grad).softmax(-1).gather(-1, taken.unsqueeze(-1))
    assert ((chance_after - chance) * advantage > 0).all()


def test_a_step_down_the_value_loss_moves_values_towards_returns():
    logits, values, taken, advantages, returns, valid = draw_rollout(0, steps=3, games=2, actions=4)
    valid[:] = True
    actor_critic_losses(logits, values, taken, advantages, returns, valid).value.backward()
    after = values - 0.1 * values.grad
    assert ((returns - after).abs() < (returns - values).abs()).all()


@pytest.mark.parametrize("actions", [2, 6, 18])
def test_a_uniform_policy_has_the_entropy_log_a_at_every_step(actions):
    _, values, taken, advantages, returns, valid = draw_rollout(0, steps=7, games=3, actions=actions)
    valid[:] = True
    uniform = torch.full((7, 3, actions), 2.5, dtype=torch.float64)
    losses = actor_critic_losses(uniform, values, taken, advantages, returns, valid)
    assert losses.entropy.item() == pytest.approx(7 * math.log(actions))
