"""What evaluations beside a run cost its workers: agent steps a second by turns, with an evaluation at work and without one.

    python -m tests.benchmarks.evaluation --env Pong --workers 2 --rounds 5 --seconds 30

The evaluation plays without a pause, which is the most it can cost. A run pauses until the next `--evaluate-every` steps are taken.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from agents.a3c import start_training
from agents.a3c.presets import preset
from agents.actor_critic.training import Training
from agents.runs.evaluator import Evaluator
from tests.benchmarks.measure import machine
from tests.unit.agents.runs.saved_runs import save


def steps_per_second(
    training: Training, evaluator: Evaluator | None, checkpoint: Path, seconds: float
) -> tuple[float, int]:
    """Agent steps a second over a while, and the evaluations that ended meanwhile. Without an evaluator none is at work."""
    first, began, ended = training.drain().env_steps, time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        if evaluator is not None:
            ended += evaluator.take() is not None
            if not evaluator.busy:
                evaluator.begin(checkpoint)
        training.advance()
    return (training.drain().env_steps - first) / (time.perf_counter() - began), ended


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="Pong")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--games", type=int, default=10, help="of an evaluation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="of a window; a round has two")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    about = machine()
    print("  ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    config = replace(preset("two-cores"), env=arguments.env, workers=arguments.workers, head="mlp")
    evaluator = Evaluator(games=arguments.games, seed=1, on_ray=True)
    rounds = []
    with start_training(config) as training, tempfile.TemporaryDirectory() as folder:
        while training.drain().env_steps < 1_000:
            training.advance()
        checkpoint = save(Path(folder), training.snapshot(), config)
        evaluator.begin(checkpoint)
        evaluator.take(timeout=None)  # its actor has started
        for _ in range(arguments.rounds):
            alone, _ = steps_per_second(training, None, checkpoint, arguments.seconds)
            beside, ended = steps_per_second(training, evaluator, checkpoint, arguments.seconds)
            evaluator.take(timeout=None)
            rounds.append((alone, beside, ended))
            print(
                f"alone {alone:.0f} steps/s  beside an evaluation {beside:.0f}  ratio {beside / alone:.3f}  evaluations ended {ended}",
                flush=True,
            )
        evaluator.close()
    ratios = [beside / alone for alone, beside, _ in rounds]
    low, median, high = np.percentile(ratios, (25, 50, 75))
    print(
        f"steps/s beside an evaluation / alone: {median:.3f} [{low:.3f}, {high:.3f}] over {len(ratios)} rounds"
    )
    if arguments.json:
        figures = {
            "machine": about,
            "env": arguments.env,
            "workers": arguments.workers,
            "games": arguments.games,
            "rounds": rounds,
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
