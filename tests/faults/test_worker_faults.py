"""Workers that die, fail or hang on a real Ray cluster of this machine. Every test proves that the fault happened."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray

from agents.a3c import ray_training, start_training
from agents.a3c.config import A3CConfig
from agents.a3c.ray_training import RayTraining
from agents.errors import TrainingError

Fault = Callable[[int, int], None]
"""A function that a worker's process calls with its number and attempt before it begins."""


def config(**changes) -> A3CConfig:
    small = dict(env="Pong", head="mlp", workers=2, envs_per_worker=2, rollout_steps=5, total_steps=1_000_000)
    return A3CConfig(**small | changes)


@contextmanager
def training(config: A3CConfig, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> Iterator[RayTraining]:
    @ray.remote
    class FaultyWorker:
        def work(self, config, index, attempt, server):
            fault(index, attempt)
            ray_training.work(config, index, attempt, server)

    monkeypatch.setattr(ray_training, "WorkerActor", FaultyWorker)
    with start_training(config) as training:
        yield training


def note_rollouts(log: Path) -> Fault:
    """Makes a fault that only logs a line [worker, attempt, version, process] for every rollout."""

    def note(index: int, attempt: int) -> None:
        from agents.a3c.worker import RolloutWorker

        rollout = RolloutWorker.rollout

        def noted(worker, version, env_steps):
            with open(log, "a") as file:
                file.write(json.dumps([index, attempt, version, os.getpid()]) + "\n")
            return rollout(worker, version, env_steps)

        RolloutWorker.rollout = noted

    return note


def rollouts(log: Path) -> list[list[int]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def advance_until(training: RayTraining, condition: Callable[[], object], *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        training.advance()
        assert time.monotonic() < deadline, "waited in vain"


def working(log: Path) -> dict[int, int]:
    """Returns the latest process of each worker that has made a rollout."""
    return {index: process for index, _, _, process in rollouts(log)}


@pytest.mark.parametrize(
    "victims", [pytest.param([0], marks=pytest.mark.slow), [0, 1]], ids=["one of two", "both"]
)
def test_after_a_kill_a_run_continues_with_a_new_worker_that_has_the_newest_weights(
    victims, monkeypatch, tmp_path
):
    log = tmp_path / "rollouts"
    with training(config(), monkeypatch, note_rollouts(log)) as run:
        advance_until(run, lambda: len(working(log)) == 2 and run.snapshot().updates > 4)
        killed, version = working(log), run.snapshot().updates
        for victim in victims:
            os.kill(killed[victim], signal.SIGKILL)
        advance_until(run, lambda: all([v, 1] in [line[:2] for line in rollouts(log)] for v in victims))
        updates = run.snapshot().updates
        advance_until(run, lambda: run.snapshot().updates > updates + 4)
        for victim in victims:
            assert not psutil.pid_exists(killed[victim])
            first = next(line for line in rollouts(log) if line[:2] == [victim, 1])
            assert first[2] >= version, "the first gradient comes from weights older than the kill"
        metrics = run.drain()
        assert metrics.faults["restarts"] == len(victims) and metrics.workers == 2
        # Each victim loses at most a rollout of 2 games.
        assert metrics.faults["steps_lost"] == 10 * len(victims)
        for victim in victims:
            assert any(f"worker {victim} on Pong is restarted" in line for line in metrics.messages)


def test_workers_that_die_at_every_start_end_the_run_with_the_first_cause(monkeypatch, tmp_path):
    log = tmp_path / "starts"

    def die(index: int, attempt: int) -> None:
        if index == 1:
            with open(log, "a") as file:
                file.write(f"{attempt}\n")
            raise OSError(f"no luck at attempt {attempt}")

    with (
        training(config(max_restarts=2), monkeypatch, die) as run,
        pytest.raises(
            TrainingError, match=r"worker 1 on Pong failed 3 times in a row.*OSError: no luck at attempt 0$"
        ),
    ):
        advance_until(run, lambda: False)
    assert log.read_text().split() == ["0", "1", "2"]


def test_a_run_whose_rewards_are_all_not_finite_ends_with_the_name_of_the_worker_and_the_game(monkeypatch):
    def spoil(index: int, attempt: int) -> None:
        from envs.atari import AtariGames

        step = AtariGames.step

        def spoilt(games, actions):
            answer = step(games, actions)
            return answer._replace(reward=answer.reward * float("nan")) if index == 1 else answer

        AtariGames.step = spoilt

    with training(config(max_bad_updates=3), monkeypatch, spoil) as run:
        with pytest.raises(
            TrainingError,
            match=r"^the reward of a game was not finite in worker 1 on Pong, and 4 updates .*$",
        ):
            advance_until(run, lambda: False)
        # The run can still be saved.
        snapshot = run.snapshot()
        assert all(tensor.isfinite().all() for tensor in snapshot.parameters.values())
        assert run.drain().faults["restarts"] == 0


@pytest.mark.slow
def test_a_worker_whose_game_fails_is_restarted_and_its_lost_steps_are_counted(monkeypatch, tmp_path):
    log = tmp_path / "rollouts"
    note = note_rollouts(log)

    def raise_once(index: int, attempt: int) -> None:
        from envs.atari import AtariGames

        note(index, attempt)
        step, steps = AtariGames.step, iter(range(100))

        def fail(games, actions):
            if (index, attempt) == (0, 0) and next(steps) == 12:
                raise RuntimeError("the emulator is on fire")
            return step(games, actions)

        AtariGames.step = fail

    with training(config(), monkeypatch, raise_once) as run:
        advance_until(run, lambda: [0, 1] in [line[:2] for line in rollouts(log)])
        metrics = run.drain()
        assert metrics.faults["restarts"] == 1 and metrics.faults["steps_lost"] == 10
        assert any("RuntimeError: the emulator is on fire" in message for message in metrics.messages)


@pytest.mark.slow
def test_a_worker_whose_game_hangs_is_named_and_restarted(monkeypatch, tmp_path):
    log = tmp_path / "rollouts"
    note = note_rollouts(log)

    def hang_once(index: int, attempt: int) -> None:
        from envs.atari import AtariGames

        note(index, attempt)
        if (index, attempt) == (1, 0):
            AtariGames.step = lambda games, actions: time.sleep(1_000)

    with training(config(stall_seconds=6.0), monkeypatch, hang_once) as run:
        advance_until(run, lambda: [1, 1] in [line[:2] for line in rollouts(log)])
        messages = run.drain().messages
        assert any("worker 1 on Pong has sent no gradient for" in message for message in messages)
        assert not any("worker 0" in message for message in messages)


@pytest.mark.slow
def test_the_death_of_the_parameter_server_ends_the_run(monkeypatch, tmp_path):
    log = tmp_path / "rollouts"
    with training(config(), monkeypatch, note_rollouts(log)) as run:
        advance_until(run, lambda: len(working(log)) == 2)
        (server,) = (
            process for process in psutil.Process().children(recursive=True)
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServerActor")
        )  # fmt: skip
        server.kill()
        with pytest.raises(TrainingError, match="the parameter server failed"):
            advance_until(run, lambda: False)


@pytest.mark.slow
def test_a_run_survives_twenty_kills_at_random_times(monkeypatch, tmp_path):
    log, chance, kills = tmp_path / "rollouts", random.Random(0), 0
    with training(config(), monkeypatch, note_rollouts(log)) as run:
        while kills < 20:
            pause = time.monotonic() + chance.uniform(0, 8)
            advance_until(run, lambda pause=pause: time.monotonic() > pause)
            alive = [process for process in working(log).values() if psutil.pid_exists(process)]
            if alive:
                os.kill(chance.choice(alive), signal.SIGKILL)
                kills += 1
        advance_until(run, lambda: run.drain().faults["restarts"] == 20 and len(run.running) == 2)
        updates = run.snapshot().updates
        advance_until(run, lambda: run.snapshot().updates > updates + 20)
