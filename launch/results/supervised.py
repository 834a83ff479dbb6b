"""What the finished runs of a folder came to: tables, and a picture of their curves."""

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any


def finished(experiment: Path) -> dict[str, list[dict[str, Any]]]:
    """The results of all finished runs, by label, in the order of their seeds."""
    results: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(experiment.glob("*/result.json")):
        result = json.loads(path.read_text())
        results.setdefault(result["label"], []).append(result)
    return {label: sorted(of, key=lambda result: result["seed"]) for label, of in results.items()}


def summaries(experiment: Path) -> list[dict[str, Any]]:
    """One row a label: parameters, number of runs, mean, standard deviation and best of the metric, speed."""
    rows = []
    for label, results in finished(experiment).items():
        final = [result["final"] for result in results]
        best = (max if results[0]["larger_is_better"] else min)(result["best"] for result in results)
        speed = [result["steps"] / result["seconds"] for result in results]
        rows.append(
            {
                "layer": label,
                "parameters": results[0]["parameters"],
                "runs": len(results),
                "metric": results[0]["metric"],
                "mean": statistics.mean(final),
                "deviation": statistics.stdev(final) if len(final) > 1 else 0.0,
                "best": best,
                "steps_per_second": statistics.median(speed),
            }
        )
    return rows


def write_tables(results: list[dict[str, Any]], experiment: Path) -> None:
    """results.csv, a row for every finished run, and curves.csv, a row for every evaluation of one."""
    columns = (
        "label",
        "seed",
        "metric",
        "final",
        "best",
        "best_step",
        "parameters",
        "steps",
        "seconds",
        "device",
    )
    with (experiment / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(results)
    with (experiment / "curves.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("label", "seed", "step", results[0]["metric"]))
        for result in results:
            rows.writerows(
                (result["label"], result["seed"], step, f"{value:.6g}") for step, value in result["curve"]
            )


def draw(by_label: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The metric against steps: mean over seeds, and from the lowest to the highest of them."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, max(4.5, 0.25 * len(by_label))), layout="constrained")
    for label, results in by_label.items():
        at: dict[int, list[float]] = defaultdict(list)
        for result in results:
            for step, value in result["curve"]:
                at[step].append(value)
        steps = sorted(at)
        means = [statistics.mean(at[step]) for step in steps]
        (line,) = axes.plot(steps, means, label=f"{label} (n = {len(results)})")
        low, high = [min(at[step]) for step in steps], [max(at[step]) for step in steps]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    metric = results[0]["metric"].replace("_", " ")
    axes.set(xlabel="steps", ylabel=metric)
    if not results[0]["larger_is_better"]:
        axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def show(experiment: Path) -> None:
    """Prints the table: metric at the end of the runs, mean and deviation over seeds, and the best of all evaluations."""
    rows = summaries(experiment)
    width = max(len(row["layer"]) for row in rows)
    head = f"{rows[0]['metric']} at the end"
    print(f"\n{'layer':{width}}  {'parameters':>10}  {'runs':>4}  {head:>22}  {'best':>9}  {'steps/s':>7}")
    for row in rows:
        spread = f"{row['mean']:.5g} ± {row['deviation']:.2g}"
        print(
            f"{row['layer']:{width}}  {row['parameters']:>10,}  {row['runs']:>4}  {spread:>22}  "
            f"{row['best']:>9.5g}  {row['steps_per_second']:>7.0f}"
        )


def conclude(experiment: Path) -> None:
    """Writes results.csv, curves.csv and curves.png of all finished runs, and shows the table; nothing if there are none."""
    by_label = finished(experiment)
    if not by_label:
        return
    write_tables([result for results in by_label.values() for result in results], experiment)
    draw(by_label, experiment / "curves.png")
    show(experiment)
