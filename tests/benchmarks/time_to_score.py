"""Wall clock until an A3C run plays Pong to a mean of 18: from the start of `launch.train`, the start of Ray and all checkpoints
included, to a checkpoint that plays so well.

    python -m tests.benchmarks.time_to_score --seeds 3 --run-dir R -- --preset two-cores

What stands behind -- are settings of launch.train. A run is stopped when its last training games are past the score. Then its
checkpoints are played with, oldest first, 10 full games with sampled actions each; the first that reaches the score counts. Figures
go to R/times.csv, a line a run; runs that stand there are not made again, one that was cut off is made anew.
"""

import argparse
import csv
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.checkpoints import list_checkpoints, load_checkpoint
from launch.evaluate import evaluate
from tests.benchmarks.measure import machine

STOP_AFTER = 30  # last training games, whose mean says when to stop
LAST_GAMES = 10  # of training, whose mean says which checkpoints to play with
BEHIND = 8.0  # they lag: from so far below the score on, a checkpoint may already reach it


def recent_mean(checkpoint: Path, games: int) -> float:
    """Of so many last training games before it; -inf if there are fewer."""
    returns = load_checkpoint(checkpoint).state["recent_returns"][-games:]
    return float(np.mean(returns)) if len(returns) == games else -np.inf


def train(command: list[str], run: Path, score: float) -> float:
    """Trains in folder `run` until the last games are past the score or all steps are taken: the time stamp of the start."""
    shutil.rmtree(run, ignore_errors=True)
    began, seen = time.time(), None
    with run.with_suffix(".log").open("w") as log:
        process = subprocess.Popen([*command, "--run-dir", str(run)], stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(1)
                newest = next(iter(list_checkpoints(run / "checkpoints")), None)
                if newest != seen and newest is not None:
                    seen = newest
                    if recent_mean(newest, STOP_AFTER) >= score:
                        break
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait()
    if process.returncode not in (0, 128 + signal.SIGTERM):
        sys.exit(f"{run}: training failed; see {run.with_suffix('.log')}")
    return began


def first_to_reach(
    score: float, checkpoints: list[Path], play: Callable[[Path], float]
) -> tuple[Path, float] | None:
    """The first of these checkpoints, oldest first, that plays to this mean, and its mean."""
    for checkpoint in checkpoints:
        mean = play(checkpoint)
        print(f"  {checkpoint.name}: {mean:.2f}", flush=True)
        if mean >= score:
            return checkpoint, mean
    return None


def figures(run: Path, began: float, score: float) -> dict[str, Any]:
    """How long a run took to the score; if it never reached it, those of its last checkpoint, with
    the mean of its last training games."""
    checkpoints = list_checkpoints(run / "checkpoints")[::-1]
    means = {path: recent_mean(path, LAST_GAMES) for path in checkpoints}
    near = [path for path in checkpoints if means[path] >= score - BEHIND]
    found = first_to_reach(score, near, lambda path: evaluate(path, episodes=10)["mean"])
    checkpoint, mean = found or (checkpoints[-1], means[checkpoints[-1]])
    steps = load_checkpoint(checkpoint).state["env_steps"]
    seconds = checkpoint.stat().st_mtime - began
    return {
        "reached": found is not None,
        "minutes": round(seconds / 60, 2),
        "agent_steps": steps,
        "mean": round(mean, 2),
        "steps_per_second": round(steps / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="Pong")
    parser.add_argument("--score", type=float, default=18.0)
    parser.add_argument("--head", nargs="*", default=["mlp", "neurocoder"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=50_000, help="agent steps between checkpoints")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("settings", nargs="*", help="of launch.train")
    arguments = parser.parse_args()
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    table = arguments.run_dir / "times.csv"
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    done = {(row["head"], int(row["seed"])) for row in rows}
    about = machine()
    print("  ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    command = [sys.executable, "-m", "launch.train", "--env", arguments.env, "--evaluate-episodes", "0"]
    command += ["--checkpoint-every", str(arguments.every), "--keep", "1000", *arguments.settings]
    for seed in range(1, arguments.seeds + 1):
        for head in arguments.head:
            if (head, seed) in done:
                continue
            run = arguments.run_dir / f"{arguments.env}-{head}-{seed}"
            began = train([*command, "--head", head, "--seed", str(seed)], run, arguments.score)
            row = {"head": head, "seed": seed} | figures(run, began, arguments.score)
            rows.append(row | {"commit": about["commit"], "settings": " ".join(arguments.settings)})
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
