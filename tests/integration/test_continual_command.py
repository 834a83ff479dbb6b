"""`python -m launch.continual` as a person types it: runs on Ray and their tables, Ctrl-C, kill and --resume, mistakes, CIFAR's features."""

import contextlib
import csv
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.continual.config import ContinualConfig, preset
from envs import images
from launch.checkpoints import list_checkpoints, load_newest
from launch.continual import main
from launch.continual_data import OFFICIAL, TRUNK, cifar_features, load_stream
from launch.continual_results import conclude
from launch.continual_run import execute, prepare
from launch.experiment import make_runs
from neurocoder.networks.resnet import ResNet18Trunk

ROOT = Path(__file__).parents[2]
NO_NETWORK = {"https_proxy": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
METRICS = ("average accuracy", "learned", "forgetting", "backward transfer", "forward transfer")


def start(
    *arguments: object, folder: Path = ROOT, options: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen:
    command = [sys.executable, *options, "-m", "launch.continual", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> str:
    """What a command that succeeds has printed."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "Traceback" not in errors and "error:" not in errors, errors
    return output


def refusal(*arguments: object, folder: Path = ROOT, **environment: str) -> str:
    """The line that a mistake is answered with."""
    process = start(*arguments, folder=folder, **environment)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and output == ""
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


def in_this_process(*arguments: object) -> tuple[int, str, str]:
    """The command's exit status, output and errors, without the seconds that imports take."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    output, errors = io.StringIO(), io.StringIO()
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            patch.setattr(sys, "argv", ["continual", *map(str, arguments)])
            main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ended.value.code, output.getvalue(), errors.getvalue()


def wait_for(condition, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """MNIST's files with 30 noisy copies of a pattern for every digit, and 20 to test on."""
    folder, draw = tmp_path_factory.mktemp("digits"), random.Random(0)
    patterns = [draw.randbytes(784) for _ in range(10)]
    for name, each in (("train", 30), ("t10k", 20)):
        labels = [digit for digit in range(10) for _ in range(each)]
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
    """Eight runs, on Ray: their folder, and the process, which is at work while other tests go on."""
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
    return Broken(folder, tasks, (process.returncode, output, errors), finished(start("--resume", folder)))


def test_ctrl_c_ends_a_run_with_status_130_and_the_command_to_go_on_with(broken):
    status, output, errors = broken.stopped
    assert status == 130 and errors == ""
    last = output.splitlines()[-1]
    assert last == f"stopped; continue with python -m launch.continual --resume {broken.folder}"


def test_a_run_killed_or_stopped_loses_at_most_the_task_in_progress(broken):
    first, second = broken.tasks
    assert 1 <= first < second < 5
    events = sorted(broken.run.glob("events.*"), key=lambda file: file.stat().st_mtime)
    assert len(events) == 3
    for file, done in zip(events, (0, first, second), strict=True):
        assert steps(file, "losses/task")[0] == STEPS * done + 50
    assert steps(events[1], "losses/task")[-1] >= STEPS * second


def steps(path: Path, tag: str) -> list[int]:
    """Of a folder with events, or of one file."""
    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    return [point.step for point in accumulator.Scalars(tag)]


def test_the_curves_of_a_broken_run_have_neither_a_gap_nor_a_jump_back(broken):
    assert steps(broken.run, "losses/task") == list(range(50, 5 * STEPS + 1, 50))
    assert steps(broken.run, "charts/average_accuracy") == [STEPS * task for task in range(1, 6)]
    for task in range(1, 6):
        assert steps(broken.run, f"accuracy/task_{task}") == [STEPS * t for t in range(task, 6)]


def test_a_broken_run_comes_to_the_very_numbers_of_one_that_never_stopped(broken, tmp_path):
    (path,) = make_runs(tmp_path, {"whole": json.loads((broken.run / "config.json").read_text())})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    execute(path, lambda line: False)
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
    assert "all of its 1 runs are finished" in refusal("--resume", broken.folder)
    line = refusal(
        "split-mnist", "--layer", "mlp", "--method", "si", "--seeds", 2, "--together", 2, "--data-dir", digits,
        "--run-dir", broken.folder,
    )  # fmt: skip
    assert f"there is such a run already; go on with it by --resume {broken.folder}" in line
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
    execute(path, lambda line: False)
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
    found = {(r["label"], r["seed"], r["after_task"], r["on_task"]): float(r["accuracy"]) for r in rows}
    assert found == pytest.approx(expected, abs=1e-4) and len(found) == len(rows)


def slow_metrics(result: dict[str, Any]) -> dict[str, float]:
    """Of a run with one seed."""
    (R,), (untrained,) = result["accuracy"], result["untrained"]
    return {
        "average accuracy": statistics.mean(R[4]),
        "learned": statistics.mean(R[i][i] for i in range(5)),
        "forgetting": statistics.mean(max(R[t][i] for t in range(5)) - R[4][i] for i in range(4)),
        "backward transfer": statistics.mean(R[4][i] - R[i][i] for i in range(4)),
        "forward transfer": statistics.mean(R[i - 1][i] - untrained[i] for i in range(1, 5)),
    }


def means_and_deviations(folder: Path, label: str) -> dict[str, tuple[float, float]]:
    of_seeds = [slow_metrics(result_of(folder / f"{label}-seed{seed}")) for seed in (1, 2)]
    values = {name: [metrics[name] for metrics in of_seeds] for name in METRICS}
    return {name: (statistics.mean(of), statistics.pstdev(of)) for name, of in values.items()}


def test_the_summary_has_mean_and_population_deviation_over_seeds_of_every_metric(grid):
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
    head, *lines = output.splitlines()[-5:]
    assert re.split(r"  +", head.strip()) == ["parameters", "n", *METRICS]
    for line, label in zip(lines, LABELS, strict=True):
        cells = [f"{m:.2f} ± {d:.2f}" for m, d in means_and_deviations(folder, label).values()]
        parameters = result_of(folder / f"{label}-seed1")["parameters"]
        assert re.split(r"  +", line) == [label, f"{parameters:,}", "2", *cells]


def test_the_curves_are_a_picture_with_a_line_for_every_layer_and_method(grid):
    picture = matplotlib.image.imread(grid[0] / "curves.png")[..., :3]
    colours = {tuple(colour) for colour in (255 * picture).round().astype(int).reshape(-1, 3).tolist()}
    first_four = {(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40)}  # of matplotlib's cycle
    assert first_four <= colours and (148, 103, 189) not in colours


# a run that fails


@pytest.fixture(scope="module")
def with_failure(grid, digits, tmp_path_factory) -> tuple[Path, int, str, str]:
    """A third seed joins the runs, with a learning rate with which it cannot end: folder, exit status, output and errors."""
    folder = tmp_path_factory.mktemp("joined") / "grid"
    shutil.copytree(grid[0], folder)
    return folder, *in_this_process(
        "split-mnist", "--layer", "mlp", "--method", "adam", "--first-seed", 3, "--learning-rate", 1e30, "--hidden", 8,
        "--scenario", "domain", "--epochs", 1, "--batch-size", 20, "--device", "cpu", "--data-dir", digits,
        "--run-dir", folder,
    )  # fmt: skip


def test_a_run_that_fails_ends_the_command_with_status_1_and_says_where_it_failed(with_failure):
    folder, status, _, errors = with_failure
    assert status == 1
    line = r"error: mlp-adam-seed3: (the loss of seed 3 became (nan|inf) in task 1 at step [23])\n"
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
    lines = {line.split()[0]: line for line in output.splitlines()[-4:]}
    assert lines["mlp-adam"].endswith("   1 failed") and lines["mlp-adam"].split()[2] == "2"
    assert not any("failed" in lines[label] for label in LABELS if label != "mlp-adam")


def test_an_experiment_of_which_every_run_failed_has_a_table_without_numbers(tmp_path, capsys):
    for seed in (1, 2):
        run = tmp_path / f"mlp-sgd-seed{seed}"
        run.mkdir()
        (run / "config.json").write_text('{"label": "mlp-sgd"}')
        (run / "failed.json").write_text('{"error": "the loss became nan"}')
    conclude(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == "mlp-sgd   2 failed"
    assert rows_of(tmp_path / "accuracy.csv") == rows_of(tmp_path / "summary.csv") == []
    assert not (tmp_path / "curves.png").exists()


# mistakes


NOT_A_FOLDER = sys.executable
MISTAKES = {
    "no benchmark": ([], "no benchmark given; name one of split-mnist, split-cifar10, split-cifar100"),
    "unknown benchmark": (["split-mnits"], "--benchmark 'split-mnits' .* (did you mean split-mnist?)"),
    "unknown scenario": (["split-mnist", "--scenario", "tasks"], "--scenario 'tasks' is not known"),
    "unknown preset": (["split-mnist", "--preset", "table6"], "--preset 'table6' .* (did you mean table-6?)"),
    "unknown method": (["split-mnist", "--method", "adam,ewcc"], "--method 'ewcc' .* (did you mean ewc?)"),
    "unknown layer": (
        ["split-mnist", "--layer", "mlp,lowrnk"],
        "--layer 'lowrnk' .* (did you mean lowrank?)",
    ),
    "negative strength": (
        ["split-mnist", "--method", "ewc", "--strength", "-1"],
        "--strength is -1.0; it must be 0 or more",
    ),
    "strength without penalty": (
        ["split-mnist", "--method", "l2,adam", "--strength", "5"],
        "--strength 5.0: adam has no penalty; it is for l2, si, ewc, online-ewc",
    ),
    "no seeds": (["split-mnist", "--seeds", "0"], "--seeds is 0; it must be at least 1"),
    "seeds too large": (["split-mnist", "--first-seed", "4294967296"], "--first-seed is 4294967296"),
    "none together": (["split-mnist", "--together", "0"], "--together is 0; it must be at least 1"),
    "unknown device": (["split-mnist", "--device", "gpu"], "--device 'gpu' is not known"),
    "data folder that is a file": (
        ["split-mnist", "--data-dir", NOT_A_FOLDER],
        f"{NOT_A_FOLDER}: cannot be used as data folder .* name a folder",
    ),
    "resume of nothing": (["--resume", "nowhere"], "--resume nowhere: not a folder of runs"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_in_one_line_with_status_2_and_leaves_nothing_behind(
    arguments, message, tmp_path
):
    line = refusal(*arguments, folder=tmp_path)
    position = 0
    for part in message.split(" .* "):
        assert part in line[position:], line
        position = line.index(part, position)
    assert not list(tmp_path.iterdir())


def test_data_that_are_missing_and_cannot_be_downloaded_are_named_and_no_run_is_made(tmp_path):
    process = start("split-mnist", "--data-dir", "data", folder=tmp_path, **NO_NETWORK)
    output, errors = process.communicate(timeout=60)
    *tried, line = errors.splitlines()
    assert process.returncode == 2 and output == ""
    assert all(other.startswith("downloading https://") for other in tried)
    assert line.startswith("error: mnist: cannot be downloaded from https://") and "--data-dir" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"supervised": {"task": "mnist"}}, "it has no 'continual'"),
        ({"continual": {"benchmark": "split-mnist"}}, "it has no 'seeds'"),
        ({"continual": {"seeds": [1], "invented": 1}}, "it has no 'neurocoder'"),
        ([], "list indices must be integers"),
        (
            {"continual": preset("split-mnist", scenario="task", method="adam", layer="mlp").to_dict() | {"layer": "x"}},
            "--layer 'x' is not known",
        ),
    ],
    ids=["supervised", "half", "unknown", "list", "layer"],
)  # fmt: skip
def test_a_folder_with_runs_of_another_kind_is_not_resumed_and_left_as_it_is(settings, reason, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    line = refusal("--resume", tmp_path)
    assert f"--resume {tmp_path}: run/config.json cannot be used" in line and reason in line
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "config.json"]


def test_a_mistake_is_found_before_torch_or_ray_is_imported(tmp_path):
    process = start("split-mnist", "--layer", "neurocodr", folder=tmp_path, options=("-X", "importtime"))
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if line.startswith("import time:")]
    imported = {line.split("|")[-1].strip() for line in lines}
    assert {"tyro", "agents.continual.config"} <= imported  # the list is a list of imports
    assert not imported & {"torch", "ray", "tensorboard"}


# features of CIFAR


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """CIFAR-10's files with two images a class, and one to test on; no weights."""
    folder, draw = tmp_path_factory.mktemp("pictures"), random.Random(0)
    for i in range(1, 6):
        records = [bytes([(4 * i + j) % 10]) + draw.randbytes(3072) for j in range(4)]
        (folder / f"data_batch_{i}.bin").write_bytes(b"".join(records))
    (folder / "test_batch.bin").write_bytes(b"".join(bytes([c]) + draw.randbytes(3072) for c in range(10)))
    return folder


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory) -> Path:
    """The trunk of the folder NEUROCODER_DATA or of shared/data beside the checkout, else one with random weights."""
    folder = Path(os.environ.get("NEUROCODER_DATA") or ROOT.parent / "shared" / "data")
    path = folder / "resnet18" / TRUNK
    if not path.is_file():
        path = tmp_path_factory.mktemp("weights") / TRUNK
        np.savez(path, **{name: tensor.numpy() for name, tensor in ResNet18Trunk().state_dict().items()})
    return path


@pytest.fixture
def with_trunk(pictures, trunk_file, tmp_path, monkeypatch) -> Path:
    """The data folder with pictures and trunk, and a cache folder of its own beside it."""
    folder = tmp_path / "data"
    shutil.copytree(pictures, folder)
    (folder / "resnet18").mkdir()
    (folder / "resnet18" / TRUNK).symlink_to(trunk_file)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def cached(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache" / "neurocoder").glob("*/*/features.safetensors"))


def features(folder: Path, device: str = "cpu") -> list[torch.Tensor]:
    train, test, source = cifar_features("cifar10", folder, torch.device(device))
    assert source == "ResNet-18 trunk to layer3, 256 features"
    return [train.x, train.labels, test.x, test.labels]


def test_features_of_cifar_are_those_of_the_trunk_and_computed_once(with_trunk, trunk_file, capsys):
    found = features(with_trunk)
    assert capsys.readouterr().out.startswith("computing the features of cifar10 by ResNet-18 trunk")
    trunk = ResNet18Trunk()
    with np.load(trunk_file) as arrays:
        trunk.load_state_dict({name: torch.tensor(arrays[name]) for name in trunk.state_dict()})
    mean, deviation = torch.tensor([[0.491, 0.482, 0.447], [0.247, 0.243, 0.262]]).view(2, 3, 1, 1)
    expected = []
    for pictures, labels in images.load("cifar10", with_trunk, download=False):
        with torch.no_grad():
            one_by_one = [trunk((picture / 255 - mean)[None] / deviation)[0] for picture in pictures]
        expected += [torch.stack(one_by_one), labels]
    assert [len(tensor) for tensor in found] == [20, 20, 10, 10] and found[0].shape == (20, 256)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected[0].abs().max().item())
    assert not found[0].requires_grad and found[0].std(dim=0).max() > 0

    (file,) = cached(with_trunk)
    written = file.stat().st_mtime_ns
    again = features(with_trunk)
    assert capsys.readouterr().out == "" and file.stat().st_mtime_ns == written
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_damaged_features_are_computed_again_and_those_of_other_images_apart(with_trunk, capsys):
    found = features(with_trunk)
    (file,) = cached(with_trunk)
    whole = bytearray(file.read_bytes())
    for damage in (whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(damage)
        again = features(with_trunk)
        assert capsys.readouterr().out.count("computing the features") >= 1
        assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
        assert file.read_bytes() == whole
    batch = bytearray((with_trunk / "data_batch_3.bin").read_bytes())
    batch[5] ^= 255
    (with_trunk / "data_batch_3.bin").write_bytes(batch)
    others = features(with_trunk)
    assert (others[0] != found[0]).any(dim=1).nonzero().flatten().tolist() == [8]
    assert len(cached(with_trunk)) == 2


def test_a_split_of_cifar_is_made_of_its_features(with_trunk):
    config = preset("split-cifar10", scenario="task", method="adam", layer="mlp")
    stream, source = load_stream(config.benchmark, config.scenario, with_trunk, torch.device("cpu"))
    x, labels, *_ = features(with_trunk)
    assert source == "ResNet-18 trunk to layer3, 256 features" and len(stream.tasks) == 5
    for number, task in enumerate(stream.tasks):
        chosen = [i for i, label in enumerate(labels.tolist()) if label in (2 * number, 2 * number + 1)]
        assert torch.equal(task.train.x, x[chosen]) and task.test.x.shape == (2, 256)


def test_features_for_runs_on_another_machine_s_gpu_are_computed_on_what_there_is(with_trunk, tmp_path):
    config = preset("split-cifar10", scenario="task", method="adam", layer="mlp")
    described = {"label": "mlp", "continual": config.to_dict(), "data": str(with_trunk), "device": "cuda"}
    (path,) = make_runs(tmp_path / "runs", {"mlp": described})
    prepare(path)
    assert len(cached(with_trunk)) == 1


def reason(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        cifar_features("cifar10", folder, torch.device("cpu"))
    return " ".join(str(caught.value).split())


@pytest.mark.parametrize("damage", ["empty", "text", "cut off", "bit", "without an array"])
def test_a_damaged_trunk_is_refused_by_name(damage, with_trunk, trunk_file):
    path = with_trunk / "resnet18" / TRUNK
    path.unlink()
    whole = trunk_file.read_bytes()
    if damage == "without an array":
        with np.load(trunk_file) as arrays, path.open("wb") as file:
            np.savez(file, **{name: arrays[name] for name in arrays.files if name != "conv1.bias"})
    else:
        flipped = bytearray(whole)
        with zipfile.ZipFile(trunk_file) as arrays:
            flipped[arrays.getinfo("layer3.0.conv1.weight.npy").header_offset + 10_000] ^= 1
        path.write_bytes({"empty": b"", "text": b"<html>", "cut off": whole[:-1000], "bit": flipped}[damage])
    assert reason(with_trunk).startswith(f"{path}: is damaged (")
    assert cached(with_trunk) == []


def test_another_file_under_the_name_of_the_official_weights_is_refused(with_trunk):
    path = with_trunk / "resnet18" / OFFICIAL
    path.write_bytes(b"anything")  # goes before the trunk
    assert reason(with_trunk).startswith(f"{path}: is not torchvision's file, its SHA-256 begins with ")


def test_a_cache_folder_that_cannot_be_written_is_refused_with_what_to_do(with_trunk, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", NOT_A_FOLDER)
    line = reason(with_trunk)
    assert line.startswith(f"{NOT_A_FOLDER}/neurocoder/cifar10-") and "XDG_CACHE_HOME" in line


def test_without_weights_and_without_network_a_run_is_refused_and_can_go_on_when_they_are_there(
    pictures, trunk_file, tmp_path, monkeypatch
):
    data, folder = tmp_path / "data", tmp_path / "runs"
    shutil.copytree(pictures, data)
    for name, value in (NO_NETWORK | {"XDG_CACHE_HOME": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    status, output, errors = in_this_process(
        "split-cifar10", "--layer", "mlp", "--epochs", 1, "--data-dir", data, "--run-dir", folder, "--device", "cpu"
    )  # fmt: skip
    assert (status, output) == (2, "") and errors.count("\n") == 1
    file = data / "resnet18" / OFFICIAL
    assert errors.startswith(f"error: {file}: is not there and cannot be downloaded (") and OFFICIAL in errors
    shutil.copy(trunk_file, data / "resnet18" / TRUNK)
    status, output, errors = in_this_process("--resume", folder)
    assert (status, errors) == (0, "") and "computing the features of cifar10" in output
    result = result_of(folder / "mlp-adam-seed1")
    assert result["features"] == "ResNet-18 trunk to layer3, 256 features"
    assert result["parameters"] == 500 * (256 + 500 + 500) + 5 * 2 * (500 + 1)
    assert len(rows_of(folder / "accuracy.csv")) == 25
