"""The cost of evaluations during a run: agent steps a second, by turns with an evaluation and without.

    python -m tests.benchmarks.evaluation --env Pong --workers 2 --rounds 5 --seconds 30

The evaluation plays without a pause, which is the most it can cost. A run pauses until the next
`--evaluate-every` steps are taken.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.a3c.presets import preset
from agents.actor_critic.training import Training
from agents.runs.evaluator import Evaluator
from tests.benchmarks.measure import machine, show
from tests.unit.agents.runs.saved_runs import save


def steps_per_second(
    training: Training, evaluator: Evaluator | None, checkpoint: Path, seconds: float
) -> tuple[float, int]:
    """Returns agent steps a second, and the number of evaluations that ended.

    Nothing is evaluated without an evaluator.
    """
    first, began, ended = training.drain().env_steps, time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        if evaluator is not None:
            ended += evaluator.take() is not None
            if not evaluator.busy:
                evaluator.begin(checkpoint)
        training.advance()
    return (training.drain().env_steps - first) / (time.perf_counter() - began), ended


def measure(config: A3CConfig, games: int, rounds: int, seconds: float) -> list[tuple[float, float, int]]:
    """Returns the speed without and with evaluations and the number of evaluations, round by round."""
    results = []
    evaluator = Evaluator(games=games, seed=1, on_ray=True)
    with start_training(config) as training, tempfile.TemporaryDirectory() as folder:
        while training.drain().env_steps < 1_000:
            training.advance()
        checkpoint = save(Path(folder), training.snapshot(), config)
        # The first evaluation starts the evaluator's actor.
        evaluator.begin(checkpoint)
        evaluator.take(timeout=None)
        for _ in range(rounds):
            alone, _ = steps_per_second(training, None, checkpoint, seconds)
            disturbed, ended = steps_per_second(training, evaluator, checkpoint, seconds)
            evaluator.take(timeout=None)
            results.append((alone, disturbed, ended))
            print(
                f"alone {alone:.0f} steps/s  with evaluations {disturbed:.0f}  ratio {disturbed / alone:.3f}  "
                f"evaluations ended {ended}",
                flush=True,
            )
        evaluator.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="Pong")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--games", type=int, default=10, help="games of an evaluation")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a window; a round has two")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    about = machine()
    show(about)
    config = replace(preset("two-cores"), env=arguments.env, workers=arguments.workers, head="mlp")
    rounds = measure(config, arguments.games, arguments.rounds, arguments.seconds)
    ratios = [disturbed / alone for alone, disturbed, _ in rounds]
    low, median, high = np.percentile(ratios, (25, 50, 75))
    print(f"steps/s with evaluations / alone: {median:.3f} [{low:.3f}, {high:.3f}] over {len(ratios)} rounds")
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
