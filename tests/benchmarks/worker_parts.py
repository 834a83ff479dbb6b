"""The two parts of an A3C worker's work, each alone in processes: games, and everything but games."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import multiprocessing as processes

from agents.a3c.config import A3CConfig
from agents.a3c.worker import RolloutWorker
from envs.atari import AtariGames, Step, action_count, resolve
from tests.benchmarks.measure import Count


@contextmanager
def in_processes(work: Callable[..., None], *arguments: Any, count: int) -> Iterator[Count]:
    """Runs `work(steps, *arguments)` in `count` processes, which add to `steps.value`. Yields the sum of their steps.

    The sum is 0 until every process has taken a step.
    """
    context = processes.get_context("spawn")
    counters = [context.Value("q", 0) for _ in range(count)]
    children = [context.Process(target=work, args=(counter, *arguments), daemon=True) for counter in counters]
    for child in children:
        child.start()

    def total() -> int:
        counts = [counter.value for counter in counters]
        return sum(counts) if all(counts) else 0

    try:
        yield total
    finally:
        for child in children:
            child.kill()
            child.join()


def only_play(steps: Any, env: str, games: int, threads: int = 1) -> None:
    """Plays games with random actions for ever."""
    settings, random = resolve(env), np.random.default_rng(0)
    played, actions = AtariGames(settings, games, threads=threads), action_count(settings.rom)
    played.reset([0])
    while True:
        played.step(random.integers(actions, size=games))
        steps.value += games


class ReplayedGames:
    """Games that have been played before. Their steps come at no cost."""

    def __init__(self, games: AtariGames, steps: list[Step]):
        self.count, self.steps, self.number = games.count, steps, 0

    def step(self, actions: np.ndarray) -> Step:
        self.number += 1
        return self.steps[self.number % len(self.steps)]


def only_learn(steps: Any, config: A3CConfig) -> None:
    """Makes rollouts over the same frames for ever, which is all that a worker does apart from games."""
    torch.set_num_threads(1)
    worker = RolloutWorker(config, 0)
    random = np.random.default_rng(0)
    actions = action_count(resolve(config.env).rom)
    played = [worker.games.step(random.integers(actions, size=worker.games.count)) for _ in range(40)]
    worker.games = ReplayedGames(worker.games, played)
    while True:
        steps.value += worker.rollout(0, 0)[1].steps
