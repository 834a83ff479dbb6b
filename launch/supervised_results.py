"""What the finished runs of a folder came to, as a table."""

import csv
import json
import statistics
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


def write_table(experiment: Path) -> None:
    """results.csv in the folder: every finished run; nothing if there is none."""
    results = [result for of in finished(experiment).values() for result in of]
    if not results:
        return
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


def show(experiment: Path) -> None:
    """Prints the table: metric at the end of the runs, mean and deviation over seeds, and the best of all evaluations."""
    rows = summaries(experiment)
    if not rows:
        return
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
    """Writes the table of all finished runs, and shows it."""
    write_table(experiment)
    show(experiment)
