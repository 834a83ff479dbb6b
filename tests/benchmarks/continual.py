"""Speed of continual learning on Split MNIST: training steps, and whole runs of the paper's Table 5.

Run this benchmark with `make bench-continual` on a quiet machine. A layer's step is compared with the plain layer's.
Table 5 has six methods, three layers and ten seeds. The runs are real: one seed of each of the 18
configurations on one thread, with their loading of data, importances and evaluations.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from agents.continual.data import load_stream
from agents.continual.presets import preset
from agents.continual.tasks import Split
from agents.continual.training import ContinualTraining
from envs.images import data_folder, ensure_files
from launch.experiments.folder import make_runs
from launch.experiments.ray_tasks import Progress
from launch.experiments.run import execute
from tests.benchmarks.measure import Step, compare, machine, show, write_figures

LAYERS = ("mlp", "lowrank", "neurocoder", "nsm")
TABLE_5 = [
    (layer, method)
    for layer in ("mlp", "nsm", "neurocoder")
    for method in ("adam", "adagrad", "l2", "si", "ewc", "online-ewc")
]
SEEDS = 10


def training_step(layer: str, data: Path, device: torch.device) -> Step:
    """Makes a step of Adam on 128 images of the first task, with all heads regularised."""
    config = preset("split-mnist", scenario="task", method="adam", layer=layer)
    stream = load_stream(config.benchmark, config.scenario, data, device)
    training, task = ContinualTraining(config, stream, device), stream.tasks[0]
    chosen = torch.arange(config.batch_size, device=device).unsqueeze(0)

    def step() -> None:
        training._step(task, Split(task.train.x[chosen], task.train.labels[chosen]))

    return step


def whole_runs(data: Path, folder: Path) -> dict[str, float]:
    """Returns the seconds of one run of every configuration."""
    seconds = {}
    for layer, method in TABLE_5:
        name = f"{layer}-{method}"
        config = preset("split-mnist", scenario="task", method=method, layer=layer)
        described = {"label": name, "continual": config.to_dict(), "data": str(data), "device": "cpu"}
        (run,) = make_runs(folder, {name: described})
        started = time.perf_counter()
        execute(run, Progress())
        seconds[name] = time.perf_counter() - started
        print(f"  {name:24} {seconds[name]:7.1f} s", flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data-dir", type=Path, help="folder of the data sets, the same as for launch.continual"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=0.3, help="seconds of each alternative in each round"
    )
    parser.add_argument(
        "--steps-only", action="store_true", help="leave out the whole runs, which take about ten minutes"
    )
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = data_folder(arguments.data_dir).absolute()
    ensure_files("mnist", data)
    results: dict = {"machine": machine(), "steps": {}}
    show(results["machine"])
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        print(f"\ntraining step on {device}")
        steps = {layer: training_step(layer, data, torch.device(device)) for layer in LAYERS}
        timings = compare(steps, rounds=arguments.rounds, seconds=arguments.seconds)
        results["steps"][device] = {layer: timing.figures() for layer, timing in timings.items()}
        for layer, f in results["steps"][device].items():
            print(
                f"  {layer:24} {f['ms']:9.3f} ms [{f['ms_low']:.3f}, {f['ms_high']:.3f}]"
                f"   {f['ratio']:7.3f} x [{f['ratio_low']:.3f}, {f['ratio_high']:.3f}]"
            )
    if not arguments.steps_only:
        print("\nwhole runs, one thread each")
        with tempfile.TemporaryDirectory() as folder:
            results["runs"] = whole_runs(data, Path(folder))
        results["table_5_core_minutes"] = SEEDS * sum(results["runs"].values()) / 60
        print(
            f"\nTable 5, {SEEDS * len(TABLE_5)} runs: {results['table_5_core_minutes']:.1f} minutes of one core"
        )
    write_figures(arguments.json, results)


if __name__ == "__main__":
    main()
