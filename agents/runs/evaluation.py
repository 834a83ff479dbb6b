"""Scores of a checkpoint over full games, with the settings that make them comparable."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.actor_critic.play import play
from agents.runs.checkpoints import load_checkpoint
from agents.runs.policy import to_policy
from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval
from envs.atari_scores import human_normalised_score


def evaluate(
    checkpoint: Path,
    *,
    episodes: int,
    sticky: float | None = None,
    life_loss_terminates: bool | None = None,
    greedy: bool = False,
    seed: int = 1,
    on_screen: Callable[[np.ndarray], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Plays full games with one checkpoint: their scores, statistics of these, and the settings.

    `sticky` and `life_loss_terminates` are as in training unless they are given. For the other arguments see `agents.actor_critic.play.play`.

    Raises:
        CheckpointError: damaged, or not an A3C policy.
    """
    loaded = load_checkpoint(checkpoint)
    policy, settings = to_policy(loaded)
    if sticky is not None:
        policy.settings = replace(policy.settings, sticky=sticky)
    if life_loss_terminates is not None:
        policy.settings = replace(policy.settings, life_loss_terminates=life_loss_terminates)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batches; a second thread fights with a training run on the same machine
    try:
        games = play(
            policy,
            episodes=episodes,
            seed=seed,
            greedy=greedy,
            on_screen=on_screen,
            on_progress=on_progress,
        )
    finally:
        torch.set_num_threads(threads)
    scores = [game.score for game in games]
    mean = float(np.mean(scores))
    return {
        "run": str(checkpoint),
        "env": settings.env,
        "head": settings.head,
        "env_steps": loaded.state["env_steps"],
        "episode_returns": scores,
        "episode_lengths": [game.length for game in games],
        "mean": mean,
        "median": float(np.median(scores)),
        "iqm": interquartile_mean(scores),
        "iqm_ci95": list(stratified_bootstrap_interval([scores])),
        "mean_ci95": list(stratified_bootstrap_interval([scores], statistic=lambda s: float(np.mean(s)))),
        "mean_length": float(np.mean([game.length for game in games])),
        "human_normalised_mean": human_normalised_score(policy.settings.rom, mean),
        "settings": asdict(policy.settings)
        | {"greedy": greedy, "seed": seed, "full_games": True, "reward_clipping": False},
    }
