"""The table of a sweep: how well each setting scores, with an interval."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from agents.runs.folder import RESULT
from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval
from envs.atari import resolve
from envs.atari_scores import human_normalised_score


def finished(sweep: Path) -> list[dict[str, Any]]:
    """Returns the results of all finished runs."""
    return [json.loads(path.read_text()) for path in sorted(sweep.glob(f"*/{RESULT}"))]


def table(results: list[dict[str, Any]]) -> str:
    """Returns the interquartile mean over runs and its interval, for each game, head and learning rate.

    More lines pool all games, human-normalised: 0 is random play, 1 human play. A run's score is the mean return of
    its last three evaluations.
    """
    groups: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for result in results:
        # Results from before `score` existed have the mean of the last games.
        score = result.get("score", result["mean"])
        groups[result["env"], result["head"], result["learning_rate"]].append(score)
    lines = [f"{'game':16} {'head':12} {'rate':>8} {'runs':>4} {'IQM':>10}   95 % interval"]
    pooled: dict[tuple[str, float], list[list[float]]] = defaultdict(list)
    for (env, head, rate), scores in sorted(groups.items()):
        lines.append(_line(env, head, rate, [scores], digits=1))
        human = [human_normalised_score(resolve(env).rom, score) for score in scores]
        if None not in human:
            pooled[head, rate].append(human)  # type: ignore[arg-type]
    if len({env for env, _, _ in groups}) > 1:
        for (head, rate), strata in sorted(pooled.items()):
            lines.append(_line("human-normalised", head, rate, strata, digits=3))
    return "\n".join(lines)


def _line(game: str, head: str, rate: float, strata: list[list[float]], *, digits: int) -> str:
    scores = [score for stratum in strata for score in stratum]
    low, high = stratified_bootstrap_interval(strata)
    return (
        f"{game:16} {head:12} {rate:8g} {len(scores):4} {interquartile_mean(scores):10.{digits}f}   "
        f"{low:.{digits}f} to {high:.{digits}f}"
    )
