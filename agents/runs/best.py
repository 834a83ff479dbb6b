"""Which checkpoint of a run to take: the newest, or the best. Nothing heavy is imported here."""

from pathlib import Path
from typing import Any

import numpy as np

from agents.actor_critic.config import RECENT_EPISODES
from agents.runs.checkpoints import MANIFEST, best_checkpoint, list_checkpoints


def score(state: dict[str, Any]) -> tuple[bool, float] | None:
    """What the best checkpoint is chosen by: the mean return of its evaluation, which counts more than any training games;
    otherwise the mean of the last 20 training games before it. None if there is neither."""
    try:
        if state.get("evaluation"):
            return True, float(state["evaluation"]["mean_return"])
        returns = state.get("recent_returns")
        return (False, float(np.mean(returns[-RECENT_EPISODES:]))) if returns else None
    except (KeyError, TypeError, ValueError):  # a file of others may say anything
        return None


def find_checkpoints(run: Path, *, best: bool) -> list[Path]:
    """The checkpoints of a run or checkpoint folder in the order to be tried: the newest first, or only the best.

    Raises:
        ValueError: no checkpoint there, or with `best` none that can be judged.
    """
    if (run / MANIFEST).is_file():
        return [run]
    checkpoints = list_checkpoints(run / "checkpoints")
    if not checkpoints:
        raise ValueError(f"{run} is neither a run folder with checkpoints nor a checkpoint folder")
    if best:
        found = best_checkpoint(run / "checkpoints", score)
        if found is None:
            raise ValueError(
                f"{run} has no checkpoint with an evaluation or a finished game yet; leave out --best"
            )
        return [found]
    return checkpoints
