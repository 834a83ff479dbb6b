"""What the finished runs of a continual-learning experiment came to: accuracies, metrics and the curve over tasks seen."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from agents.continual import metrics
from launch.experiments.ray_tasks import FAILED, RESULT


@dataclass(frozen=True)
class Outcome:
    """The finished runs of one label."""

    label: str
    parameters: int
    seeds: list[int]
    accuracy: Tensor  # (S, T, T), R[t, i]
    untrained: Tensor  # (S, T)
    failed: int
    """Runs that ended with an error; they are in no mean."""

    def metrics(self) -> dict[str, Tensor]:
        """Each (S,)."""
        return {
            "average accuracy": metrics.average_accuracy(self.accuracy),
            "learned": metrics.learned(self.accuracy),
            "forgetting": metrics.forgetting(self.accuracy),
            "backward transfer": metrics.backward_transfer(self.accuracy),
            "forward transfer": metrics.forward_transfer(self.accuracy, self.untrained),
        }


def outcomes(experiment: Path) -> list[Outcome]:
    """By label, in alphabetical order."""
    runs = sorted(path.parent for path in experiment.glob("*/config.json"))
    by_label: dict[str, list[Path]] = {}
    for run in runs:
        by_label.setdefault(json.loads((run / "config.json").read_text())["label"], []).append(run)
    found = []
    for label, of_label in by_label.items():
        results = [json.loads((run / RESULT).read_text()) for run in of_label if (run / RESULT).exists()]
        failed = sum((run / FAILED).exists() for run in of_label)
        if not results:
            if failed:
                found.append(Outcome(label, 0, [], torch.empty(0, 1, 1), torch.empty(0, 1), failed))
            continue
        found.append(
            Outcome(
                label,
                results[0]["parameters"],
                [seed for result in results for seed in result["seeds"]],
                torch.tensor([R for result in results for R in result["accuracy"]], dtype=torch.float64),
                torch.tensor([row for result in results for row in result["untrained"]], dtype=torch.float64),
                failed,
            )
        )
    return found


def conclude(experiment: Path) -> None:
    """Writes accuracy.csv, summary.csv and curves.png to the folder, and shows the table."""
    found = outcomes(experiment)
    done = [outcome for outcome in found if outcome.seeds]
    if not found:
        return
    with (experiment / "accuracy.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "seed", "after_task", "on_task", "accuracy"))
        for outcome in done:
            for seed, R in zip(outcome.seeds, outcome.accuracy, strict=True):
                for t, row in enumerate(R.tolist(), start=1):
                    writer.writerows(
                        (outcome.label, seed, t, i, f"{a:.4f}") for i, a in enumerate(row, start=1)
                    )
    with (experiment / "summary.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "parameters", "metric", "mean", "deviation", "n", "failed"))
        for outcome in done:
            for name, of_seeds in outcome.metrics().items():
                mean, deviation = _mean_and_deviation(of_seeds)
                numbers = (f"{mean:.4f}", f"{deviation:.4f}", len(of_seeds), outcome.failed)
                writer.writerow((outcome.label, outcome.parameters, name, *numbers))
    if done:
        draw(done, experiment / "curves.png")
    show(found)


def show(found: list[Outcome]) -> None:
    """Prints mean and standard deviation over seeds."""
    width = max(len(outcome.label) for outcome in found)
    names = ("average accuracy", "learned", "forgetting", "backward transfer", "forward transfer")
    print(f"\n{'':{width}}  {'parameters':>10}  {'n':>3}  " + "  ".join(f"{name:>17}" for name in names))
    for outcome in found:
        failed = f"   {outcome.failed} failed" if outcome.failed else ""
        if not outcome.seeds:
            print(f"{outcome.label:{width}}{failed}")
            continue
        values = outcome.metrics()
        cells = [_cell(values[name]) for name in names]
        print(
            f"{outcome.label:{width}}  {outcome.parameters:>10,}  {len(outcome.seeds):>3}  "
            + "  ".join(f"{cell:>17}" for cell in cells)
            + failed
        )


def draw(found: list[Outcome], path: Path) -> None:
    """Average accuracy on the tasks seen, against their number (the paper's Figure 8)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, max(4.5, 0.25 * len(found))), layout="constrained")
    for outcome in found:
        curves = metrics.accuracy_on_seen_tasks(outcome.accuracy)  # (S, T)
        deviation = curves.std(dim=0, correction=0)
        tasks = range(1, curves.shape[1] + 1)
        axes.errorbar(
            tasks, curves.mean(dim=0), deviation, capsize=3, label=f"{outcome.label} (n = {len(curves)})"
        )
    axes.set(xlabel="tasks seen", ylabel="average accuracy on them (%)", xticks=tasks)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _mean_and_deviation(values: Tensor) -> tuple[float, float]:
    """The deviation is the population's, as in the paper's and the benchmark's tables."""
    return values.mean().item(), values.std(correction=0).item()


def _cell(values: Tensor) -> str:
    mean, deviation = _mean_and_deviation(values)
    return f"{mean:.2f} ± {deviation:.2f}"
