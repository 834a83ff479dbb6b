"""A worker's report and its exchange with the server, against slow computations."""

import math
import time
from collections import Counter

import numpy as np
import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.a3c.worker import RolloutWorker
from neurocoder import auxiliary_loss
from tests.unit.agents.a3c.rollout_by_hand import (
    NEUROCODER,
    Recorder,
    double_worker,
    slow_features,
    slow_losses,
    small,
)  # fmt: skip


def test_a_gradient_is_shortened_to_the_largest_norm_and_a_short_gradient_does_not_change():
    gradients = {}
    for largest in (1e9, 0.05):
        gradient, report = double_worker(small(rollout_steps=2, gradient_clip=largest)).rollout(0, 0)
        gradients[largest] = gradient.copy()
        norm = np.linalg.norm(gradients[1e9])
        assert norm > 0.05
        # The reported norm is the one before clipping.
        assert report.scalars["gradients/norm"] == pytest.approx(norm)
    assert np.linalg.norm(gradients[0.05]) == pytest.approx(0.05, rel=1e-4)
    np.testing.assert_allclose(gradients[0.05], gradients[1e9] * 0.05 / norm, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [dict(head="mlp"), dict(head="neurocoder", neurocoder=NEUROCODER), dict(head="mlp", network="nature")],
    ids=str,
)
def test_the_norms_of_the_blocks_are_those_of_their_parameters(settings):
    worker = double_worker(small(rollout_steps=2, **settings))
    _, report = worker.rollout(0, 0)
    squares = dict.fromkeys((name for name, _ in worker.network.named_children()), 0.0)
    for name, parameter in worker.network.named_parameters():
        # The largest norm is out of reach, so the gradient was not clipped.
        squares[name.split(".")[0]] += parameter.grad.square().sum().item()
    norms = {name: report.scalars[f"gradients/norm_{name}"] for name in squares}
    assert norms == pytest.approx({name: square**0.5 for name, square in squares.items()}, rel=1e-9)
    assert min(norms.values()) > 0
    whole = sum(norm**2 for norm in norms.values()) ** 0.5
    assert report.scalars["gradients/norm"] == pytest.approx(whole, rel=1e-9)


def test_the_reported_losses_are_means_over_the_steps_of_the_slow_ones():
    worker = double_worker(small(head="neurocoder", neurocoder=NEUROCODER, rollout_steps=3))
    recorder = Recorder(worker)
    _, report = worker.rollout(0, 0)
    policy, value, order = (loss.item() / 3 for loss in slow_losses(worker, recorder, 0, 3))
    losses = {
        name: report.scalars[f"losses/{name}"] for name in ("policy", "value", "entropy", "orthogonality")
    }
    assert losses == pytest.approx(
        {
            "policy": policy,
            "value": value,
            "entropy": -order,
            "orthogonality": auxiliary_loss(worker.network).item(),
        },
        rel=1e-9,
    )


def test_the_kl_is_that_of_the_weights_before_and_after_a_load_on_the_same_frame_and_state():
    worker = double_worker(small("Breakout", rollout_steps=4))
    recorder = Recorder(worker)

    def log_policies() -> list[torch.Tensor]:
        """Returns the log-policy (A,) of each game for its present frame."""
        return [
            worker.network.actor(
                worker.network.lstm(slow_features(worker.network, worker.frames[i : i + 1]), state)[0]
            )[0].log_softmax(-1)
            for i, state in enumerate(states)
        ]

    _, report = worker.rollout(0, 0)
    # Before the first load there are no other weights.
    assert "policy/kl" not in report.scalars
    assert not any(recorder.starts(4, game) for game in range(2))
    states = [tuple(part[i : i + 1].clone() for part in worker.state) for i in range(2)]
    with torch.no_grad():
        before = log_policies()
        changed = worker.weights + 0.02 * torch.randn_like(worker.weights)
        worker.load(changed.numpy())
        after = log_policies()
    expected = np.mean(
        [
            sum(math.exp(p) * (p - q) for p, q in zip(old.tolist(), new.tolist(), strict=True))
            for old, new in zip(before, after, strict=True)
        ]
    )
    _, report = worker.rollout(1, 0)
    assert report.scalars["policy/kl"] == pytest.approx(expected, rel=1e-8)
    assert expected > 1e-4
    _, report = worker.rollout(1, 0)
    # Nothing was loaded since.
    assert report.scalars["policy/kl"] == pytest.approx(0, abs=1e-12)
    worker.restart_games(0)
    assert "policy/kl" not in worker.rollout(1, 0)[1].scalars


def test_a_report_describes_the_steps_that_were_taken():
    worker = double_worker(small(rollout_steps=9), max_frames=12)
    recorder = Recorder(worker)
    _, report = worker.rollout(0, 0)
    counts = Counter(
        worker.actions[action]
        for step, actions in zip(recorder.steps, recorder.actions, strict=True)
        for action, reset in zip(actions, step.reset, strict=True)
        if not reset
    )
    assert sum(counts.values()) == report.steps < 2 * 9
    shares = {f"policy/action/{name}": counts[name] / report.steps for name in worker.actions}
    assert {tag: report.scalars[tag] for tag in shares} == pytest.approx(shares, rel=1e-6)
    assert report.scalars["values/advantage_rms"] > 0


def test_after_a_load_a_worker_has_the_weights_of_the_server():
    config = small(head="neurocoder", neurocoder=NEUROCODER, rollout_steps=2)
    server, worker = ParameterServer(config), RolloutWorker(config, 0)
    for _ in range(2):
        weights = server.pull()
        worker.load(weights.vector)
        for name, tensor in server.network.state_dict().items():
            assert torch.equal(worker.network.state_dict()[name], tensor), name
        server.push(*worker.rollout(weights.version, weights.env_steps))
    assert (server.updates, server.env_steps) == (2, 2 * 2 * 2)


def test_workers_of_one_run_play_different_games_with_different_actions():
    recorders = [Recorder(RolloutWorker(small("Seaquest"), index)) for index in (0, 1)]
    for recorder in recorders:
        recorder.worker.rollout(0, 0)
    assert (np.stack(recorders[0].actions) != np.stack(recorders[1].actions)).any()
    for recorder in recorders:
        recorder.worker.restart_games(0)
        # After 20 steps the different numbers of no-ops show.
        for _ in range(20):
            recorder.worker.games.step(np.zeros(2, dtype=np.int64))
    assert (recorders[0].steps[-1].observation != recorders[1].steps[-1].observation).any()


def test_a_report_has_the_time_of_every_part():
    worker = RolloutWorker(A3CConfig(head="mlp", envs_per_worker=1, rollout_steps=5), 0)
    _, first = worker.rollout(0, 0)
    ended = worker.last_end
    before = time.perf_counter()
    time.sleep(0.2)
    between = time.perf_counter()
    _, second = worker.rollout(0, 0)
    after = time.perf_counter()
    assert first.seconds.keys() == second.seconds.keys() == {"exchange", "play", "gradient"}
    assert min(first.seconds.values()) > 0
    assert second.seconds["exchange"] >= between - before
    # The parts cover the whole time.
    assert sum(second.seconds.values()) == pytest.approx(worker.last_end - ended)
    assert second.seconds["play"] + second.seconds["gradient"] < after - between
