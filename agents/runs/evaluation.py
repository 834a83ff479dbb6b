"""Scores of a checkpoint over full games, with the settings that make them comparable."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.actor_critic.play import OnScreen, play
from agents.errors import DivergedError
from agents.runs.checkpoints import CheckpointError, load_checkpoint
from agents.runs.policy import to_policy
from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval
from envs.atari import Episode
from envs.atari_scores import human_normalised_score


def evaluate(
    checkpoint: Path,
    *,
    episodes: int,
    sticky: float | None = None,
    life_loss_terminates: bool | None = None,
    greedy: bool = False,
    seed: int = 1,
    on_screen: OnScreen | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Plays full games with one checkpoint. Returns their scores, statistics and settings, as values for JSON.

    `sticky` and `life_loss_terminates` are as in training unless they are given. For the other arguments see
    `agents.actor_critic.play.play`.

    Raises:
        CheckpointError: a checkpoint that is damaged, is not of an Atari run, or has diverged.
    """
    loaded = load_checkpoint(checkpoint)
    policy, settings = to_policy(loaded)
    given = {"sticky": sticky, "life_loss_terminates": life_loss_terminates}
    changes = {name: value for name, value in given.items() if value is not None}
    policy.settings = replace(policy.settings, **changes)  # type: ignore[arg-type]
    try:
        with one_thread():
            games = play(
                policy,
                episodes=episodes,
                seed=seed,
                greedy=greedy,
                on_screen=on_screen,
                on_progress=on_progress,
            )
    except DivergedError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    return {
        "run": str(checkpoint),
        "env": settings.env,
        "head": settings.head,
        "env_steps": loaded.state["env_steps"],
        **statistics(games, policy.settings.rom),
        "settings": asdict(policy.settings)
        | {"greedy": greedy, "seed": seed, "full_games": True, "reward_clipping": False},
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Makes torch compute with one thread: with small batches a second one only slows training on the same machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def statistics(games: Sequence[Episode], rom: str) -> dict[str, Any]:
    """Returns scores, lengths, means and 95 % intervals of full games. The intervals of one game are None."""
    scores, lengths = [game.score for game in games], [game.length for game in games]
    mean = float(np.mean(scores))
    return {
        "episode_returns": scores,
        "episode_lengths": lengths,
        "mean": mean,
        "median": float(np.median(scores)),
        "iqm": interquartile_mean(scores),
        "iqm_ci95": _listed(stratified_bootstrap_interval([scores])),
        "mean_ci95": _listed(stratified_bootstrap_interval([scores], statistic=lambda s: float(np.mean(s)))),
        "mean_length": float(np.mean(lengths)),
        "human_normalised_mean": human_normalised_score(rom, mean),
    }


def _listed(interval: tuple[float, float] | None) -> list[float] | None:
    """Returns what JSON gives back for an interval."""
    return None if interval is None else list(interval)
