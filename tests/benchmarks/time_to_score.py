"""Wall clock until an A3C run plays Pong to a mean of 18: from the start of `launch.train` to a checkpoint that
plays so well. The start of Ray and all checkpoints are included.

    python -m tests.benchmarks.time_to_score --seeds 3 --run-dir R -- --preset two-cores

What stands behind -- are settings of launch.train. No evaluation disturbs the clock. A run is stopped when its
last training games are past the score and one more checkpoint is there. Then its checkpoints are played with,
oldest first, 10 full games with sampled actions each. The score is reached where two checkpoints in a row hold
it; the first of the two counts. It plays 30 games of another seed, too: their mean and its 95 % interval are in
the table. Figures go to R/times.csv, a line a run; runs that stand there are not made again, one that was cut off
is repeated.
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
from tests.benchmarks.measure import machine

STOP_AFTER = RECENT_EPISODES  # last training games, whose mean says when to stop; a checkpoint knows no more
LAST_GAMES = 10  # of training, whose mean says which checkpoints to play with
BEHIND = 8.0  # they lag: from so far below the score on, a checkpoint may already reach it
GAMES = 10  # full games that a checkpoint is judged by
CONFIRMING = dict(episodes=30, seed=2)  # games that the winner plays again
COLUMNS = (
    "head", "seed", "reached", "minutes", "agent_steps", "mean", "confirmed_mean", "confirmed_low",
    "confirmed_high", "steps_per_second", "commit", "settings",
)  # fmt: skip


def recent_mean(checkpoint: Path, games: int) -> float:
    """Of so many last training games before it; -inf if there are fewer."""
    returns = load_checkpoint(checkpoint).state["recent_returns"][-games:]
    return float(np.mean(returns)) if len(returns) == games else -np.inf


def is_over(seen: list[Path], score: float) -> bool:
    """Whether a run has a checkpoint whose last training games are past the score, and a later one.

    Args:
        seen: its checkpoints, oldest first.
    """
    return len(seen) > 1 and recent_mean(seen[-2], STOP_AFTER) >= score


def train(command: list[str], run: Path, score: float) -> float:
    """Trains in folder `run` until it is over or all steps are taken: the time stamp of the start."""
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
    """The first of these checkpoints, oldest first, that plays to this mean, as the next one does; and its mean."""
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
    """How long a run took to the score. If it never reached it: how long to its last checkpoint, with the mean
    of its last training games, and nothing confirmed."""
    checkpoints = list_checkpoints(run / "checkpoints")[::-1]
    means = {path: recent_mean(path, LAST_GAMES) for path in checkpoints}
    near = itertools.dropwhile(lambda path: means[path] < score - BEHIND, checkpoints)
    found = first_to_hold(score, near, lambda path: evaluate(path, episodes=GAMES)["mean"])
    checkpoint, mean = found or (checkpoints[-1], means[checkpoints[-1]])
    steps = load_checkpoint(checkpoint).state["env_steps"]
    seconds = checkpoint.stat().st_mtime - began
    row = {
        "reached": found is not None,
        "minutes": round(seconds / 60, 2),
        "agent_steps": steps,
        "mean": round(mean, 2),
        "steps_per_second": round(steps / seconds),
    }
    if found:
        again = evaluate(checkpoint, **CONFIRMING)
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
    parser.add_argument("--every", type=int, default=50_000, help="agent steps between checkpoints")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("settings", nargs="*", help="of launch.train")
    arguments = parser.parse_args()
    arguments.run_dir.mkdir(parents=True, exist_ok=True)
    table = arguments.run_dir / "times.csv"
    rows = list(csv.DictReader(table.open())) if table.exists() else []
    if rows and tuple(rows[0]) != COLUMNS:
        parser.error(f"{table} has other columns than this version writes; name another --run-dir")
    done = {(row["head"], int(row["seed"])) for row in rows}
    about = machine()
    print("  ".join(f"{name} {value}" for name, value in about.items()), flush=True)
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
            print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
