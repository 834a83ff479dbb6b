"""`python -m launch.continual` as a person types it: runs on Ray, their tables, Ctrl-C, kill, --resume, mistakes."""

import gzip
import json
import os
import random
import re
import shutil
import signal
import statistics
import struct
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch

from agents.continual.config import ContinualConfig
from agents.continual.presets import preset
from agents.runs.checkpoints import list_checkpoints, load_newest
from launch.continual import main
from launch.experiments.folder import make_runs
from launch.experiments.ray_tasks import Progress
from launch.experiments.run import execute
from launch.results.experiment import conclude
from tests import commands
from tests.commands import curves, finished, in_this_process, result_of, rows_of, wait_for

METRICS = ("average accuracy", "learned", "forgetting", "backward transfer", "forward transfer")


def start(*arguments: object, **options) -> subprocess.Popen:
    return commands.start("continual", *arguments, **options)


def refusal(*arguments: object) -> str:
    return commands.refusal("continual", *arguments)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """MNIST's files with 30 noisy copies of a pattern for every digit, and 20 to test on."""
    folder, draw = tmp_path_factory.mktemp("digits"), random.Random(0)
    patterns = [draw.randbytes(784) for _ in range(10)]
    for name, count in (("train", 30), ("t10k", 20)):
        labels = [digit for digit in range(10) for _ in range(count)]
        pixels = b"".join(
            bytes(p if draw.random() < 0.3 else draw.randrange(256) for p in patterns[digit])
            for digit in labels
        )
        for kind, magic, sizes, data in (
            ("images-idx3", 0x803, (len(labels), 28, 28), pixels),
            ("labels-idx1", 0x801, (len(labels),), bytes(labels)),
        ):
            header = struct.pack(f">{1 + len(sizes)}I", magic, *sizes)
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + data, 1))
    return folder


@pytest.fixture(scope="module")
def grid_command(digits, tmp_path_factory) -> tuple[Path, subprocess.Popen]:
    """Eight runs on Ray: their folder, and the process, which works while other tests run."""
    folder = tmp_path_factory.mktemp("runs") / "grid"
    return folder, start(
        "split-mnist", "--layer", "mlp,lowrank", "--method", "adam,l2", "--seeds", 2, "--epochs", 1, "--hidden", 8,
        "--scenario", "domain", "--batch-size", 20, "--device", "cpu", "--data-dir", digits, "--run-dir", folder,
    )  # fmt: skip


# one run, killed and stopped


STEPS = 15 * 10  # of a task: 60 images, 4 a step, 10 epochs


@dataclass
class Broken:
    """A run of two seeds in one process: killed, resumed, stopped by Ctrl-C, resumed, finished."""

    folder: Path
    tasks: list[int]
    """Done when it was killed, and when it had stopped."""
    steps: int
    """Taken of the task in progress when it had stopped."""
    stopped: tuple[int, str, str]
    """Exit status, output and errors."""
    last: str
    """What was printed at last."""

    @property
    def run(self) -> Path:
        return self.folder / "mlp-si-seed1-2"


@pytest.fixture(scope="module")
def broken(grid_command, digits, tmp_path_factory) -> Broken:
    folder = tmp_path_factory.mktemp("runs") / "broken"
    checkpoints = folder / "mlp-si-seed1-2" / "checkpoints"

    def task() -> int:
        return load_newest(checkpoints, warn=pytest.fail).step

    process = start(
        "split-mnist", "--layer", "mlp", "--method", "si", "--seeds", 2, "--together", 2, "--epochs", 10,
        "--batch-size", 4, "--hidden", 8, "--device", "cpu", "--data-dir", digits, "--run-dir", folder,
    )  # fmt: skip
    wait_for(lambda: list_checkpoints(checkpoints) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    tasks = [task()]

    process = start("--resume", folder)
    later = [checkpoints / f"step-{number:012}" for number in range(tasks[0] + 1, 6)]
    wait_for(lambda: any(path.exists() for path in later) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    output, errors = process.communicate(timeout=60)
    tasks.append(task())
    taken = load_newest(checkpoints, warn=pytest.fail).state["task_step"]
    return Broken(
        folder, tasks, taken, (process.returncode, output, errors), finished(start("--resume", folder))
    )


def test_ctrl_c_ends_a_run_with_status_130_and_the_command_to_continue(broken):
    status, output, errors = broken.stopped
    assert status == 130 and errors == ""
    last = output.splitlines()[-1]
    assert last == f"stopped; continue with python -m launch.continual --resume {broken.folder}"


def test_a_killed_run_loses_at_most_the_task_in_progress_and_a_stopped_one_nothing(broken):
    first, second = broken.tasks
    assert 1 <= first < second < 5
    events = sorted(broken.run.glob("events.*"), key=lambda file: file.stat().st_mtime)
    assert len(events) == 3
    next_record = STEPS * second + 50 * (broken.steps // 50 + 1)
    for file, record in zip(events, (50, STEPS * first + 50, next_record), strict=True):
        assert steps(file, "losses/task")[0] == record
    assert steps(events[1], "losses/task")[-1] == next_record - 50


def steps(path: Path, tag: str) -> list[int]:
    """Returns the steps of a curve in a folder with events, or in one file."""
    return [point.step for point in curves(path).Scalars(tag)]


def test_the_curves_of_a_broken_run_have_neither_a_gap_nor_a_jump_back(broken):
    assert steps(broken.run, "losses/task") == list(range(50, 5 * STEPS + 1, 50))
    assert steps(broken.run, "charts/average_accuracy") == [STEPS * task for task in range(1, 6)]
    for task in range(1, 6):
        assert steps(broken.run, f"accuracy/task_{task}") == [STEPS * t for t in range(task, 6)]


def test_a_broken_run_comes_to_the_very_numbers_of_one_that_never_stopped(broken, tmp_path):
    (path,) = make_runs(tmp_path, {"whole": json.loads((broken.run / "config.json").read_text())})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    execute(path, Progress())
    torch.set_num_threads(threads)
    ours, theirs = result_of(broken.run), result_of(path)
    for field in ("accuracy", "untrained", "seeds", "parameters", "config"):
        assert ours[field] == theirs[field], field
    assert len(ours["accuracy"]) == 2 and ours["accuracy"][0] != ours["accuracy"][1]
    assert ours["seconds"] > 0
    tensors = [load_newest(p / "checkpoints", warn=pytest.fail).tensors for p in (broken.run, path)]
    for group in ("parameters", "optimizer", "regularizer"):
        for name, tensor in tensors[0][group].items():
            assert torch.equal(tensor, tensors[1][group][name]), name
    assert broken.last.splitlines()[-1].split()[:3] == ["mlp-si", f"{ours['parameters']:,}", "2"]


def test_a_finished_experiment_has_nothing_to_resume_and_its_run_is_not_overwritten(broken, digits):
    before = (broken.run / "result.json").read_bytes()
    table = (broken.folder / "results.md").read_text().splitlines()[3:-1]
    status, output, errors = in_this_process(main, "--resume", broken.folder)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [f"all 1 runs of {broken.folder} are finished", "", *table]
    line = refusal(
        "split-mnist", "--layer", "mlp", "--method", "si", "--seeds", 2, "--together", 2, "--data-dir", digits,
        "--run-dir", broken.folder,
    )  # fmt: skip
    assert f"this run exists already; continue it by --resume {broken.folder}" in line
    assert (broken.run / "result.json").read_bytes() == before


# many runs, on Ray


@pytest.fixture(scope="module")
def grid(grid_command) -> tuple[Path, str]:
    """The eight runs at their end: their folder, and what was printed."""
    folder, process = grid_command
    return folder, finished(process)


LABELS = ("lowrank-adam", "lowrank-l2", "mlp-adam", "mlp-l2")


def test_every_layer_method_and_seed_is_a_run_in_a_folder_of_its_own(grid):
    folder, _ = grid
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert runs == [f"{label}-seed{seed}" for label in LABELS for seed in (1, 2)]
    for name in runs:
        result = result_of(folder / name)
        layer, method, seed = re.fullmatch(r"(\w+)-(\w+)-seed(\d)", name).groups()
        config = ContinualConfig.from_dict(result["config"])
        expected = preset("split-mnist", scenario="domain", method=method, layer=layer)
        assert config == replace(expected, epochs=1, hidden=8, batch_size=20, seeds=(int(seed),))
        assert config.strength == (0.5 if method == "l2" else 0)
        assert (result["label"], result["seeds"]) == (f"{layer}-{method}", [int(seed)])
        assert result["device"] == "cpu" and result["features"] == "pixels, padded to 32 x 32"
        assert not list((folder / name).glob("failed.json"))
        assert [path.name for path in list_checkpoints(folder / name / "checkpoints")] == [
            "step-000000000005"
        ]
    plain, low_rank = (
        result_of(folder / f"{layer}-adam-seed1")["parameters"] for layer in ("mlp", "lowrank")
    )
    assert plain == 1024 * 8 + 8 * 8 + 2 * 8 + 2 and low_rank == 1024 * 8 + 8 * 8 + 10 * (8 + 2)
    thetas = [
        load_newest(folder / name / "checkpoints", warn=pytest.fail).tensors["parameters"]["theta"]
        for name in runs
    ]
    assert len({theta.numpy().tobytes() for theta in thetas}) == 8


def test_a_run_on_ray_comes_to_the_very_numbers_of_a_run_in_this_process(grid, tmp_path):
    theirs = grid[0] / "lowrank-l2-seed2"
    (path,) = make_runs(tmp_path, {"here": json.loads((theirs / "config.json").read_text())})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a task: sums depend on it
    execute(path, Progress())
    torch.set_num_threads(threads)
    assert result_of(path)["accuracy"] == result_of(theirs)["accuracy"]
    ours, others = (load_newest(p / "checkpoints", warn=pytest.fail).tensors for p in (path, theirs))
    assert torch.equal(ours["parameters"]["theta"], others["parameters"]["theta"])


def test_the_table_of_accuracies_has_those_of_all_results(grid):
    folder, _ = grid
    rows = rows_of(folder / "accuracy.csv")
    assert len(rows) == 4 * 2 * 5 * 5
    expected = {}
    for label in LABELS:
        for seed in (1, 2):
            (matrix,) = result_of(folder / f"{label}-seed{seed}")["accuracy"]
            for t in range(5):
                for i in range(5):
                    expected[label, str(seed), str(t + 1), str(i + 1)] = matrix[t][i]
    accuracies = {(r["label"], r["seed"], r["after_task"], r["on_task"]): float(r["accuracy"]) for r in rows}
    assert accuracies == pytest.approx(expected, abs=1e-4) and len(accuracies) == len(rows)


def slow_metrics(result: dict[str, Any]) -> dict[str, float]:
    """Computes the metrics of a run with one seed by plain loops."""
    (R,), (untrained,) = result["accuracy"], result["untrained"]
    return {
        "average accuracy": statistics.mean(R[4]),
        "learned": statistics.mean(R[i][i] for i in range(5)),
        "forgetting": statistics.mean(max(R[t][i] for t in range(5)) - R[4][i] for i in range(4)),
        "backward transfer": statistics.mean(R[4][i] - R[i][i] for i in range(4)),
        "forward transfer": statistics.mean(R[i - 1][i] - untrained[i] for i in range(1, 5)),
    }


def means_and_deviations(folder: Path, label: str) -> dict[str, tuple[float, float]]:
    by_seed = [slow_metrics(result_of(folder / f"{label}-seed{seed}")) for seed in (1, 2)]
    values = {name: [metrics[name] for metrics in by_seed] for name in METRICS}
    return {name: (statistics.mean(numbers), statistics.stdev(numbers)) for name, numbers in values.items()}


def test_the_summary_has_mean_and_sample_deviation_over_seeds_of_every_metric(grid):
    folder, _ = grid
    rows = rows_of(folder / "summary.csv")
    assert [(row["label"], row["metric"]) for row in rows] == [
        (label, m) for label in LABELS for m in METRICS
    ]
    for row in rows:
        mean, deviation = means_and_deviations(folder, row["label"])[row["metric"]]
        assert float(row["mean"]) == pytest.approx(mean, abs=1e-4)
        assert float(row["deviation"]) == pytest.approx(deviation, abs=1e-4)
        assert int(row["parameters"]) == result_of(folder / f"{row['label']}-seed1")["parameters"]
        assert (row["n"], row["failed"]) == ("2", "0")
    assert any(float(row["deviation"]) > 0 for row in rows)


def test_the_table_is_printed_with_a_line_for_every_layer_and_method(grid):
    folder, output = grid
    title, head, *lines = output.splitlines()[-6:]
    assert title == "average accuracy: mean ± sample deviation over n seeds"
    assert re.split(r"  +", head) == ["label", "parameters", "n", "failed", *METRICS]
    for line, label in zip(lines, LABELS, strict=True):
        cells = [f"{m:.5g} ± {d:.3g}" for m, d in means_and_deviations(folder, label).values()]
        parameters = result_of(folder / f"{label}-seed1")["parameters"]
        assert re.split(r"  +", line) == [label, f"{parameters:,}", "2", "0", *cells]


def test_a_result_has_the_metrics_and_the_curve_over_tasks_seen_as_means_over_its_seeds(broken):
    result = result_of(broken.run)
    seeds = [
        result | {"accuracy": [R], "untrained": [row]}
        for R, row in zip(result["accuracy"], result["untrained"], strict=True)
    ]
    by_seed = [slow_metrics(seed) for seed in seeds]
    assert len(by_seed) == 2
    assert result["scalars"] == pytest.approx(
        {name: statistics.mean(metrics[name] for metrics in by_seed) for name in METRICS}
    )
    seen = [[statistics.mean(R[t][: t + 1]) for t in range(5)] for R in result["accuracy"]]
    assert result["curve"] == [[t + 1, pytest.approx((seen[0][t] + seen[1][t]) / 2)] for t in range(5)]
    rows = rows_of(broken.folder / "curves.csv")
    assert [(row["seed"], row["tasks_seen"]) for row in rows] == [
        (s, str(t)) for s in "12" for t in range(1, 6)
    ]
    assert [float(row["average accuracy"]) for row in rows] == pytest.approx(seen[0] + seen[1], rel=1e-5)


def test_a_result_of_an_earlier_version_is_read_with_the_same_numbers(broken, tmp_path):
    folder = tmp_path / "earlier"
    shutil.copytree(broken.folder, folder)
    path = folder / broken.run.name / "result.json"
    new = ("scalars", "curve", "metric", "larger_is_better", "steps")
    earlier = {name: value for name, value in json.loads(path.read_text()).items() if name not in new}
    path.write_text(json.dumps(earlier))
    conclude(folder)
    for name in ("summary.csv", "curves.csv", "accuracy.csv"):
        assert (folder / name).read_text() == (broken.folder / name).read_text()


def test_the_curves_are_a_picture_with_a_colour_for_every_layer(grid):
    picture = matplotlib.image.imread(grid[0] / "curves.png")[..., :3]
    colours = {tuple(colour) for colour in (255 * picture).round().astype(int).reshape(-1, 3).tolist()}
    mlp, neurocoder, lowrank = (31, 119, 180), (255, 127, 14), (227, 119, 194)
    assert {mlp, lowrank} <= colours and neurocoder not in colours


# a run that fails


@pytest.fixture(scope="module")
def with_failure(grid, digits, tmp_path_factory) -> tuple[Path, int, str, str]:
    """A third seed whose learning rate is too large joins the runs: folder, exit status, output and errors."""
    folder = tmp_path_factory.mktemp("joined") / "grid"
    shutil.copytree(grid[0], folder)
    return folder, *in_this_process(
        main, "split-mnist", "--layer", "mlp", "--method", "adam", "--first-seed", 3, "--learning-rate", 1e30, "--hidden", 8,
        "--scenario", "domain", "--epochs", 1, "--batch-size", 20, "--device", "cpu", "--data-dir", digits,
        "--run-dir", folder,
    )  # fmt: skip


def test_a_run_that_fails_ends_the_command_with_status_1_and_says_where_it_failed(with_failure):
    folder, status, _, errors = with_failure
    assert status == 1
    line = r"error: mlp-adam-seed3: (the loss of seed 3 became (nan|inf) in task 1 at step [23]; .+; last good checkpoint: none)\n"
    failure = re.fullmatch(line, errors)
    assert failure, errors
    run = folder / "mlp-adam-seed3"
    assert json.loads((run / "failed.json").read_text()) == {"error": failure[1]}
    assert not (run / "result.json").exists() and not list_checkpoints(run / "checkpoints")


def test_a_run_that_fails_is_counted_and_in_no_mean(grid, with_failure):
    folder, _, output, _ = with_failure
    before, after = rows_of(grid[0] / "summary.csv"), rows_of(folder / "summary.csv")
    for row in before:
        row["failed"] = "1" if row["label"] == "mlp-adam" else "0"
    assert after == before
    assert rows_of(folder / "accuracy.csv") == rows_of(grid[0] / "accuracy.csv")
    *table, last = output.splitlines()
    assert last == "failed, and in no mean: mlp-adam-seed3"
    lines = {line.split()[0]: line for line in table[-4:]}
    assert lines["mlp-adam"].split()[2:4] == ["2", "1"]
    assert all(lines[label].split()[3] == "0" for label in LABELS if label != "mlp-adam")


# what --resume obeys


def test_a_resumed_run_takes_its_data_from_the_folder_that_is_given(grid, digits, tmp_path):
    folder, data = tmp_path / "moved", tmp_path / "data"
    shutil.copytree(grid[0] / "mlp-adam-seed1", folder / "mlp-adam-seed1")
    run = folder / "mlp-adam-seed1"
    expected = result_of(run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-000000000005")
    described = json.loads((run / "config.json").read_text()) | {"data": str(tmp_path / "nowhere")}
    (run / "config.json").write_text(json.dumps(described))
    shutil.copytree(digits, data)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a task: sums depend on it
    status, _, errors = in_this_process(main, "--resume", folder, "--data-dir", data)
    torch.set_num_threads(threads)
    assert (status, errors) == (0, "")
    assert result_of(run)["accuracy"] == expected["accuracy"]
