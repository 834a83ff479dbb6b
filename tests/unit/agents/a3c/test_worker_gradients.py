"""The gradient of a rollout against a slow computation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from envs.atari import AtariGames, resolve
from tests.unit.agents.a3c.rollout_by_hand import (
    NEUROCODER,
    Recorder,
    double_worker,
    play_ahead,
    play_until,
    slow_gradient,
    small,
)  # fmt: skip


def assert_equal_gradients(gradient, expected):
    assert expected.norm() > 1e-3
    assert (torch.from_numpy(gradient) - expected).norm() < 1e-9 * expected.norm()


@pytest.mark.parametrize(
    "settings",
    [
        dict(head="mlp", gae_lambda=1.0),
        dict(head="neurocoder", neurocoder=NEUROCODER, gae_lambda=0.9, gamma=0.9),
        dict(head="hypernet", head_on="both", value_weight=0.25, entropy_weight=0.1),
    ],
    ids=lambda settings: settings["head"],
)
def test_the_gradient_of_a_rollout_equals_a_slow_step_by_step_computation(settings):
    worker = double_worker(small(**settings))
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    assert report.steps == 2 * 4
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 4))


def test_an_annealed_entropy_weight_is_that_of_the_step():
    worker = double_worker(small(entropy_weight=0.4, anneal_entropy=True, total_steps=1_000))
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(0, 750)
    # The slow computation does not anneal.
    worker.config = replace(worker.config, entropy_weight=0.1)
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 4))


def test_without_annealing_the_entropy_weight_stays():
    worker = double_worker(small(entropy_weight=0.4, total_steps=1_000))
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(0, 750)
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 4))


def test_the_gradient_equals_the_slow_one_over_cuts_by_the_frame_cap():
    worker = double_worker(small(rollout_steps=9, gae_lambda=0.95), max_frames=12)
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    truncated = np.stack([step.truncated for step in recorder.steps])
    resets = np.stack([step.reset for step in recorder.steps])
    assert truncated.sum() == 2 * 2 and resets.sum() == 2 * 2
    assert report.steps == 2 * 9 - 4
    assert [episode.length for episode in report.episodes] == [3] * 4
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 9))


@pytest.mark.parametrize("end", ["terminated", "ended"], ids=["lost life", "game over"])
def test_the_gradient_equals_the_slow_one_over_the_end_of_an_episode(end):
    worker = double_worker(small("Breakout", rollout_steps=7))
    steps_to_end = play_until(worker, lambda step: getattr(step, end).any())
    worker.restart_games(0)
    # Whatever the policy does now, the ball is out of reach.
    play_ahead(worker, steps_to_end - 5)
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    terminated, resets, fired = (
        np.stack([getattr(step, name) for step in recorder.steps])
        for name in ("terminated", "reset", "fired")
    )
    assert terminated.any() and resets.sum() == len(report.episodes) == (end == "ended")
    assert report.steps == 2 * 7 - resets.sum() - fired.sum()
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 7))


@pytest.mark.parametrize("life_loss_terminates", [True, False], ids=["lives", "games"])
def test_the_gradient_equals_the_slow_one_over_a_fire_step_after_a_lost_life(life_loss_terminates):
    config = small("Breakout", rollout_steps=7, life_loss_terminates=life_loss_terminates)
    worker = double_worker(replace(config, gae_lambda=0.9))
    # With larger weights the LSTM's state, which it carries over the FIRE step, counts as much as the frames.
    with torch.no_grad():
        worker.network.lstm.weight_hh *= 8
    steps_to_fire = play_until(worker, lambda step: step.fired.any())
    worker.restart_games(0)
    play_ahead(worker, steps_to_fire - 5)
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    fired = np.stack([step.fired for step in recorder.steps])
    terminated = np.stack([step.terminated for step in recorder.steps])
    assert fired[:-2].any() and terminated.any() == life_loss_terminates
    assert report.steps == 2 * 7 - fired.sum()
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 7))


def test_the_gradient_equals_the_slow_one_over_a_reward_that_is_clipped():
    worker = double_worker(small("Berzerk", rollout_steps=5))
    steps_to_reward = play_until(worker, lambda step: (step.reward > 10).any())
    worker.restart_games(0)
    play_ahead(worker, steps_to_reward - 2)
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(0, 0)
    assert max(step.reward.max() for step in recorder.steps) > 10
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 5))


def test_the_recurrent_state_carries_over_from_rollout_to_rollout():
    worker = double_worker(small(rollout_steps=3))
    recorder = Recorder(worker)
    worker.rollout(0, 0)
    gradient, _ = worker.rollout(1, 0)
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 3, 6))


def test_restarted_games_begin_with_an_empty_recurrent_state():
    worker = double_worker(small(rollout_steps=3, seed=6))
    worker.rollout(0, 0)
    worker.restart_games(24)
    assert not any(tensor.any() for tensor in worker.state) and worker.start.all()
    games = AtariGames(resolve("Pong"), 2)
    assert torch.equal(worker.frames, torch.from_numpy(games.reset([6, 0, 24])))
    games.close()
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(1, 0)
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 3))
