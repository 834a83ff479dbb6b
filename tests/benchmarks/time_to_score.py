"""Wall-clock time of an A3C run from the start of `launch.train` to a checkpoint that plays Pong to a mean of 18.

    python -m tests.benchmarks.time_to_score --seeds 3 --run-dir R -- --preset two-cores

The arguments after -- are settings of launch.train. The time includes the start of Ray and all checkpoints, but no
evaluation. A run is stopped with the checkpoint after the one whose last training games have passed the score. Then
its checkpoints play 10 full games each with sampled actions, oldest first. The score is reached when two checkpoints
in a row hold it, and the first of the two counts. That checkpoint plays 30 more games of another seed. Their mean and
its 95 % interval are in the table. Figures go to R/times.csv, a line a run. Runs in that table are not repeated, but
a run that was cut off is.
"""

import argparse
import csv
import itertools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from agents.actor_critic.config import RECENT_EPISODES
from agents.runs.checkpoints import list_checkpoints, load_checkpoint
from agents.runs.evaluation import evaluate
from tests.benchmarks.measure import machine, show

# A run stops by the mean of this number of last training games, which are all that a checkpoint has.
STOP_AFTER = RECENT_EPISODES
# The mean of this number of last training games decides which checkpoints play.
LAST_GAMES = 10
# That mean lags: a checkpoint whose mean is this far below the score may already have reached the score.
LAG = 8.0
# Full games that a checkpoint is judged by.
GAMES = 10
# Games that the first checkpoint at the score plays to confirm the score.
CONFIRMATION = dict(episodes=30, seed=2)
COLUMNS = (
    "head", "seed", "reached", "minutes", "agent_steps", "mean", "confirmed_mean", "confirmed_low",
    "confirmed_high", "steps_per_second", "commit", "settings",
)  # fmt: skip


def recent_mean(checkpoint: Path, games: int) -> float:
    """Returns the mean of the last `games` training games before a checkpoint, -inf if there are fewer."""
    returns = load_checkpoint(checkpoint).state["recent_returns"][-games:]
    return float(np.mean(returns)) if len(returns) == games else -np.inf


def is_over(seen: list[Path], score: float) -> bool:
    """True if a run has a checkpoint whose last training games have passed the score, and a later checkpoint.

    Args:
        seen: the run's checkpoints, oldest first.
    """
    return len(seen) > 1 and recent_mean(seen[-2], STOP_AFTER) >= score


def train(command: list[str], run: Path, score: float) -> float:
    """Trains in folder `run` until the run is over or all steps are taken. Returns the time stamp of its start."""
    shutil.rmtree(run, ignore_errors=True)
    began, seen = time.time(), list[Path]()
    with run.with_suffix(".log").open("w") as log:
        process = subprocess.Popen([*command, "--run-dir", str(run)], stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(1)
                newest = list_checkpoints(run / "checkpoints")[:1]
                if newest != seen[-1:]:
                    seen += newest
                    if is_over(seen, score):
                        break
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait()
    if process.returncode not in (0, 128 + signal.SIGTERM):
        sys.exit(f"{run}: training failed; see {run.with_suffix('.log')}")
    return began


def first_to_hold(
    score: float, checkpoints: Iterable[Path], play: Callable[[Path], float]
) -> tuple[Path, float] | None:
    """Returns the first of two checkpoints in a row that both play to this mean, and its mean.

    They come oldest first.
    """
    before = None
    for checkpoint in checkpoints:
        mean = play(checkpoint)
        print(f"  {checkpoint.name}: {mean:.2f}", flush=True)
        if mean < score:
            before = None
        elif before is not None:
            return before
        else:
            before = checkpoint, mean
    return None


def figures(run: Path, began: float, score: float) -> dict[str, Any]:
    """Returns the row of the table for a run.

    If the run never reached the score, the row is about its last checkpoint and its last training games.
    """
    checkpoints = list_checkpoints(run / "checkpoints")[::-1]
    means = {path: recent_mean(path, LAST_GAMES) for path in checkpoints}
    near = itertools.dropwhile(lambda path: means[path] < score - LAG, checkpoints)
    reached = first_to_hold(score, near, lambda path: evaluate(path, episodes=GAMES)["mean"])
    checkpoint, mean = reached or (checkpoints[-1], means[checkpoints[-1]])
    steps = load_checkpoint(checkpoint).state["env_steps"]
    seconds = checkpoint.stat().st_mtime - began
    row = {
        "reached": reached is not None,
        "minutes": round(seconds / 60, 2),
        "agent_steps": steps,
        "mean": round(mean, 2),
        "steps_per_second": round(steps / seconds),
    }
    if reached:
        again = evaluate(checkpoint, **CONFIRMATION)
        named = zip(("mean", "low", "high"), (again["mean"], *again["mean_ci95"]), strict=True)
        row |= {f"confirmed_{name}": round(value, 2) for name, value in named}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="Pong")
    parser.add_argument("--score", type=float, default=18.0)
    parser.add_argument("--head", nargs="*", default=["mlp", "neurocoder"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=50_000, help="agent steps between two checkpoints")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("settings", nargs="*", help="settings of launch.train")
    arguments = parser.parse_args()
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    table = arguments.run_dir / "times.csv"
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    if rows and tuple(rows[0]) != COLUMNS:
        parser.error(f"{table} has other columns than this version writes; name another --run-dir")
    done = {(row["head"], int(row["seed"])) for row in rows}
    about = machine()
    show(about)
    command = [sys.executable, "-m", "launch.train", "--env", arguments.env]
    command += ["--evaluate-every", "0", "--evaluate-episodes", "0"]
    command += ["--checkpoint-every", str(arguments.every), "--keep", "1000", *arguments.settings]
    for seed in range(1, arguments.seeds + 1):
        for head in arguments.head:
            if (head, seed) in done:
                continue
            run = arguments.run_dir / f"{arguments.env}-{head}-{seed}"
            began = train([*command, "--head", head, "--seed", str(seed)], run, arguments.score)
            row = {"head": head, "seed": seed} | figures(run, began, arguments.score)
            rows.append(row | {"commit": about["commit"], "settings": " ".join(arguments.settings)})
            show(row)
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
