"""Which checkpoint of a run to take: the newest, or the best. Nothing heavy is imported here."""

from pathlib import Path
from typing import Any

import numpy as np

from agents.actor_critic.config import RECENT_EPISODES
from agents.runs.checkpoints import MANIFEST, best_checkpoint, list_checkpoints


def score(state: dict[str, Any]) -> tuple[bool, float] | None:
    """Returns what the best checkpoint is chosen by; None if there is nothing to judge it by.

    That is the mean return of its evaluation, else that of the last 20 training games before it. Any
    evaluation ranks above all training games.
    """
    try:
        if state.get("evaluation"):
            return True, float(state["evaluation"]["mean_return"])
        returns = state.get("recent_returns")
        return (False, float(np.mean(returns[-RECENT_EPISODES:]))) if returns else None
    except (KeyError, TypeError, ValueError):
        # A file that somebody else wrote may say anything.
        return None


def find_checkpoints(run: Path, *, best: bool) -> list[Path]:
    """Returns the checkpoints of a run or checkpoint folder to try: the newest first, or only the best.

    Raises:
        ValueError: the folder has no checkpoint, or with `best` none that has a score.
    """
    if (run / MANIFEST).is_file():
        return [run]
    checkpoints = list_checkpoints(run / "checkpoints")
    if not checkpoints:
        raise ValueError(f"{run} is neither a run folder with checkpoints nor a checkpoint folder")
    if best:
        checkpoint = best_checkpoint(run / "checkpoints", score)
        if checkpoint is None:
            raise ValueError(
                f"{run} has no checkpoint with an evaluation or a finished game yet; leave out --best"
            )
        return [checkpoint]
    return checkpoints
