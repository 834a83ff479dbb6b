"""What variants of A3C learn on a panel of games in a number of steps.

    python -m tests.benchmarks.learning --games Pong,Breakout --heads mlp --seeds 1 --steps 200_000 --run-dir R \\
        --variant base: --variant "small rate:--learning-rate 1e-4"

One run of launch.train follows the other. Settings after `--` are those of all runs. A run that was cut off
continues at the next call, and a run that has its row in R/runs.csv is not repeated. A run is judged by the mean of
the full games that end in its last 100,000 steps, and by its last evaluation. The table shows the means over
seeds, and over games the interquartile mean of human-normalised scores with a 95 % bootstrap interval.
"""

import argparse
import csv
import itertools
import json
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.runs.checkpoints import list_checkpoints
from agents.runs.recorder import read_evaluations
from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval
from envs.atari import resolve
from envs.atari_scores import human_normalised_score
from launch.results.curves import training_minutes
from launch.results.tables import aligned
from tests.benchmarks.measure import machine, split_settings

LAST_STEPS = 100_000
COLUMNS = (
    "variant", "game", "head", "seed", "steps", "score", "human_normalised", "games", "evaluation", "minutes",
    "commit", "cpu", "settings",
)  # fmt: skip
KEY = ("variant", "game", "head", "seed", "steps")
PUBLISHED = {
    "Pong": {"A2C": -20.2, "PPO2": -17.3, "ACER": -20.3},
    "Breakout": {"A2C": 2.1, "PPO2": 13, "ACER": 2.0},
    "Qbert": {"A2C": 299, "PPO2": 553, "ACER": 322},
    "SpaceInvaders": {"A2C": 193, "PPO2": 294, "ACER": 196},
    "Seaquest": {"A2C": 468, "PPO2": 740, "ACER": 417},
    "BeamRider": {"A2C": 408, "PPO2": 572, "ACER": 428},
    "Enduro": {"A2C": 0, "PPO2": 40, "ACER": 0},
}
"""Means of six runs after 0.5 million agent steps, read from the curves of OpenAI baselines
(benchmarks_atari10M.htm). Full games, no sticky actions."""
PUBLISHED_STEPS = 500_000

Row = dict[str, Any]


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the arguments, and the settings of all runs after `--`."""
    ours, common = split_settings(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", default="Pong,Breakout,Qbert,SpaceInvaders,Seaquest")
    parser.add_argument("--heads", default="mlp,neurocoder")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to this number")
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument(
        "--variant", action="append", help="name:flags of launch.train; the first is the base"
    )
    parser.add_argument("--run-dir", type=Path, required=True)
    arguments = parser.parse_args(ours)
    arguments.variants = dict(each.split(":", 1) for each in arguments.variant or ["base:"])
    for name in ("games", "heads"):
        setattr(arguments, name, getattr(arguments, name).split(","))
    return arguments, common


def planned(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yields the keys of all runs. All variants of a game come one after the other."""
    seeds = range(1, arguments.seeds + 1)
    for seed, game, head, variant in itertools.product(
        seeds, arguments.games, arguments.heads, arguments.variants
    ):
        yield dict(variant=variant, game=game, head=head, seed=seed, steps=arguments.steps)


def train(folder: Path, run: Row, settings: list[str]) -> None:
    """Trains a run to its end. If its folder has checkpoints, it continues."""
    command = [sys.executable, "-m", "launch.train"]
    if list_checkpoints(folder / "checkpoints"):
        command += ["--resume", str(folder)]
    else:
        command += ["--run-dir", str(folder), "--env", run["game"], "--head", run["head"], *settings]
        command += ["--seed", str(run["seed"]), "--total-steps", str(run["steps"])]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a") as log:
        process = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if process.returncode == 2 and "has taken" in folder.with_suffix(".log").read_text().splitlines()[-1]:
        return  # it was cut off between its end and its row
    if process.returncode:
        sys.exit(f"{folder}: training failed; see {folder.with_suffix('.log')}")


def judge(folder: Path, run: Row) -> Row:
    """Returns the row of a run that has ended."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    games = events.Scalars("charts/episodic_return")
    last = [game.value for game in games if game.step > run["steps"] - LAST_STEPS]
    score = float(np.mean(last)) if last else float("nan")
    clock = np.array([point.wall_time for point in events.Scalars("charts/frames")])
    evaluations = read_evaluations(folder)
    config = json.loads((folder / "config.json").read_text())
    return run | dict(
        score=round(score, 3),
        human_normalised=round(human_normalised_score(resolve(run["game"]).rom, score), 5),
        games=len(last),
        evaluation=round(evaluations[-1]["mean"], 3) if evaluations else "",
        minutes=round(float(training_minutes(clock)[-1]), 2),
        commit=(config["software"].get("commit") or "")[:7],
        cpu=machine()["cpu"],
    )


def table(rows: Iterable[Row]) -> list[Row]:
    """Returns a row for each variant and head: scores by game, and the interquartile mean over games."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["variant"], row["head"], row["steps"]].append(row)
    lines = []
    for (variant, head, steps), group in groups.items():
        line: Row = {"variant": variant, "head": head, "steps": steps}
        strata = []
        for game in dict.fromkeys(row["game"] for row in group):
            of_game = [row for row in group if row["game"] == game]
            scores = [float(row["score"]) for row in of_game]
            strata.append([float(row["human_normalised"]) for row in of_game])
            line[game] = f"{np.mean(scores):.1f}" + (
                f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
            )
        line["IQM"] = f"{interquartile_mean([score for stratum in strata for score in stratum]):.3f}"
        if max(map(len, strata)) > 1:
            low, high = stratified_bootstrap_interval(strata)
            line["interval"] = f"{low:.3f} to {high:.3f}"
        line["n"] = len(group)
        lines.append(line)
    return lines


def published(games: Iterable[str]) -> list[Row]:
    """Returns a row for each published method, for the games that it has."""
    known = [game for game in games if game in PUBLISHED]
    return [
        {"variant": f"{method} (published)", "head": "", "steps": PUBLISHED_STEPS}
        | {game: f"{PUBLISHED[game][method]}" for game in known}
        for method in ("A2C", "PPO2", "ACER")
    ]


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    arguments, common = parse(sys.argv[1:])
    path = arguments.run_dir / "runs.csv"
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    done = {tuple(row[name] for name in KEY) for row in read_rows(path)}
    for run in planned(arguments):
        if tuple(str(run[name]) for name in KEY) in done:
            continue
        settings = common + shlex.split(arguments.variants[run["variant"]])
        name = "-".join(str(run[key]) for key in ("game", "head", "seed", "steps"))
        folder = arguments.run_dir / run["variant"].replace(" ", "-") / name
        train(folder, run, settings)
        row = judge(folder, run) | {"settings": shlex.join(settings)}
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(" ".join(f"{key} {row[key]}" for key in COLUMNS[:10]), flush=True)
    steps = str(arguments.steps)
    rows = [row for row in read_rows(path) if row["steps"] == steps and row["game"] in arguments.games]
    lines = table(rows)
    lines += published(arguments.games) if arguments.steps == PUBLISHED_STEPS else []
    columns = list(dict.fromkeys(name for line in lines for name in line))
    print(
        *aligned([columns, *([str(line.get(name, "")) for name in columns] for line in lines)], left=2),
        sep="\n",
    )


if __name__ == "__main__":
    main()
