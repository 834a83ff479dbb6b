"""A run on a real Ray cluster of this machine, and its continuation to the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil
import pytest
import torch

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.actor_critic.training import Metrics, Snapshot, Training
from agents.runs.checkpoints import load_checkpoint
from agents.runs.policy import to_policy
from agents.runs.snapshots import to_snapshot
from envs.atari import action_names
from neurocoder.settings import NeurocoderSettings
from tests.unit.agents.a3c.reports import ROLLOUT_TAGS
from tests.unit.agents.runs.saved_runs import save

# Agent steps of an update.
STEPS = 2 * 3


@dataclass
class Run:
    config: A3CConfig
    first: Snapshot
    """Snapshot right after the start, before workers have pushed much."""
    last: Snapshot
    metrics: list[Metrics]
    processes: dict[psutil.Process, str]
    """All processes that Ray had started, with their names."""
    listening: set[str]
    """Addresses on which these processes and this one listened."""


def train(
    config: A3CConfig, snapshot: Snapshot | None, until: Callable[[Training, list[Metrics]], bool]
) -> Run:
    before, deadline = set(psutil.Process().children(recursive=True)), time.monotonic() + 240
    with start_training(config, snapshot) as training:
        first, metrics = training.snapshot(), []
        while not until(training, metrics):
            training.advance()
            metrics.append(training.drain())
            assert time.monotonic() < deadline, "waited in vain"
        children = psutil.Process().children(recursive=True)
        processes = {child: child.name() for child in children if child not in before}
        listening = {
            connection.laddr.ip
            for process in (psutil.Process(), *processes)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        return Run(config, first, training.snapshot(), metrics, processes, listening)


def both_have_pushed(training: Training, metrics: list[Metrics]) -> bool:
    """True if both workers have pushed, and one while the other computed."""
    return any(look.staleness for look in metrics) and len(training.snapshot().random_states) == 2


@pytest.fixture(scope="module")
def run() -> Run:
    """A run that is stopped before its end."""
    config = A3CConfig(
        env="Pong", head="neurocoder", neurocoder=NeurocoderSettings(slots=8, heads=2), workers=2,
        envs_per_worker=2, rollout_steps=3, total_steps=1_000_000,
    )  # fmt: skip
    return train(config, None, both_have_pushed)


@pytest.fixture(scope="module")
def continued(run, tmp_path_factory) -> Run:
    """The same run, continued from a checkpoint for a few updates to its end."""
    folder = save(tmp_path_factory.mktemp("checkpoints"), run.last, run.config)
    config = replace(run.config, total_steps=run.last.env_steps + 20 * STEPS)
    snapshot = to_snapshot(Snapshot, load_checkpoint(folder))
    return train(config, snapshot, lambda training, metrics: training.finished)


def test_both_workers_push_gradients(run):
    assert run.last.random_states.keys() == {"0", "1"}
    for index in (0, 1):
        before = torch.Generator().manual_seed(run.config.seed * 1000 + index).get_state()
        assert not torch.equal(run.last.random_states[str(index)], before)


def test_gradients_come_from_weights_that_are_some_updates_old(run):
    staleness = [metrics.staleness for metrics in run.metrics if metrics.staleness is not None]
    assert max(staleness) > 0
    assert all(0 <= mean < run.last.updates for mean in staleness)


def test_updates_come_with_their_losses_and_steps(run):
    assert 0 < run.last.env_steps <= run.last.updates * STEPS
    reported = [metrics for metrics in run.metrics if metrics.scalars]
    assert reported
    actions = [f"policy/action/{name}" for name in action_names("pong")]
    for metrics in reported:
        assert metrics.scalars.keys() - {"policy/kl"} == ROLLOUT_TAGS - {"policy/kl"} | set(actions)
        # Pong has six actions.
        assert 0 < metrics.scalars["losses/entropy"] <= torch.tensor(6.0).log() + 1e-4
        assert sum(metrics.scalars[action] for action in actions) == pytest.approx(1.0)
    assert any(metrics.scalars.get("policy/kl", 0.0) > 0 for metrics in reported)


def test_all_workers_compute_in_one_precision_that_the_checkpoint_names(run, continued):
    (kind,) = run.last.precisions
    assert run.last.precisions[kind] in ("fp32", "bf16")
    assert continued.metrics[-1].precisions == run.metrics[-1].precisions == run.last.precisions


def test_a_snapshot_of_a_run_makes_a_policy(run, tmp_path):
    checkpoint = load_checkpoint(save(tmp_path, run.last, run.config))
    policy, settings = to_policy(checkpoint)
    assert settings == run.config.policy()
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(tensor, run.last.parameters[name])


def test_a_continued_run_takes_its_remaining_steps_and_stops(continued):
    # When the last step is taken, the other worker has one more gradient under way.
    assert 0 <= continued.last.env_steps - continued.config.total_steps <= 2 * STEPS
    assert continued.metrics[-1].learning_rate == 0.0


def test_a_continued_run_counts_on_from_its_snapshot(run, continued):
    for name in ("env_steps", "updates"):
        counts = [getattr(run.last, name), getattr(continued.first, name)]
        counts += [getattr(metrics, name) for metrics in continued.metrics]
        assert counts == sorted(counts) and counts[0] < counts[-1], name
    assert continued.last.updates - run.last.updates >= 20


def test_a_continued_run_has_the_learning_rate_of_its_step(run, continued):
    for part in (run, continued):
        for metrics in part.metrics:
            left = max(0.0, 1 - metrics.env_steps / part.config.total_steps)
            assert metrics.learning_rate == pytest.approx(part.config.learning_rate * left)


def test_a_continued_run_has_the_weights_and_statistics_of_its_snapshot(run, continued):
    config, updates = run.config, continued.first.updates - run.last.updates
    # An update moves a weight by at most the rate over the root of 1 - decay. Usually there was no update yet.
    farthest = updates * config.learning_rate / (1 - config.rmsprop_decay) ** 0.5
    for name, before in run.last.parameters.items():
        assert (continued.first.parameters[name] - before).abs().max() <= farthest, name
    # An update lowers a square average by at most the decay.
    before, after = (snapshot.optimizer["square_average"] for snapshot in (run.last, continued.first))
    assert (after >= before * config.rmsprop_decay**updates * (1 - 1e-5)).all()
    assert before.max() > 0


def test_no_process_of_ray_is_left_after_a_run(run, continued):
    for part in (run, continued):
        assert {"raylet", "gcs_server"} <= set(part.processes.values())
        _, alive = psutil.wait_procs(list(part.processes), timeout=30)
        assert alive == []


def test_ray_listens_only_on_addresses_of_this_machine(run):
    assert run.listening
    assert all(ip.removeprefix("::ffff:").startswith("127.") for ip in run.listening), run.listening
