"""The results of a sweep's finished runs: how well each setting scores, with an interval.

results.md      the table, as it was printed
results.csv     a row for every run
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from agents.runs.folder import RESULT
from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval
from envs.atari import resolve
from envs.atari_scores import human_normalised_score
from launch.results.files import write_csv
from launch.results.tables import aligned, interval_words, show_and_keep

COLUMNS = (
    "run", "env", "head", "learning_rate", "seed", "env_steps", "score", "score_evaluations", "human_normalised_score"
)  # fmt: skip


def conclude(sweep: Path) -> None:
    """Prints the table of a sweep, and writes it and results.csv to the sweep's folder. Does nothing without results.

    A disk that refuses the files costs a warning.
    """
    results = {path.parent.name: json.loads(path.read_text()) for path in sorted(sweep.glob(f"*/{RESULT}"))}
    if results:
        rows = [_row(run, result) for run, result in results.items()]
        show_and_keep(
            table(list(results.values())), sweep, lambda: write_csv(sweep / "results.csv", COLUMNS, rows)
        )


def _score(result: dict[str, Any]) -> float:
    # Results from before `score` existed have the mean of the last games.
    return result.get("score", result["mean"])


def _row(run: str, result: dict[str, Any]) -> list[Any]:
    """Returns the values of `COLUMNS`. What a result of an earlier version does not have is left empty."""
    known = result | {
        "run": run,
        "seed": result.get("training_seed"),
        "score": _score(result),
        "human_normalised_score": human_normalised_score(resolve(result["env"]).rom, _score(result)),
    }
    return [known.get(column) for column in COLUMNS]


def table(results: list[dict[str, Any]]) -> str:
    """Returns the interquartile mean over runs and its interval, for each game, head and learning rate.

    More lines pool all games, human-normalised: 0 is random play, 1 human play. A run's score is the mean return of
    its last three evaluations. A single run has no interval.
    """
    groups: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for result in results:
        groups[result["env"], result["head"], result["learning_rate"]].append(_score(result))
    rows: list[tuple[str, ...]] = [("game", "head", "rate", "n", "IQM", "95 % interval")]
    pooled: dict[tuple[str, float], list[list[float]]] = defaultdict(list)
    for (env, head, rate), scores in sorted(groups.items()):
        rows.append(_cells(env, head, rate, [scores], digits=1))
        human = [human_normalised_score(resolve(env).rom, score) for score in scores]
        if None not in human:
            pooled[head, rate].append(human)  # type: ignore[arg-type]
    if len({env for env, _, _ in groups}) > 1:
        for (head, rate), strata in sorted(pooled.items()):
            rows.append(_cells("human-normalised", head, rate, strata, digits=3))
    title = "interquartile mean (IQM) of the scores of n runs"
    return "\n".join([title, *aligned(rows, left=2)])


def _cells(game: str, head: str, rate: float, strata: list[list[float]], *, digits: int) -> tuple[str, ...]:
    scores = [score for stratum in strata for score in stratum]
    interval = interval_words(stratified_bootstrap_interval(strata), digits)
    return game, head, f"{rate:g}", str(len(scores)), f"{interquartile_mean(scores):.{digits}f}", interval
