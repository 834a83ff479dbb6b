"""`python -m launch.supervised` as a person types it: a run and its results, Ctrl-C and --resume, mistakes."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import tyro
from matplotlib import pyplot

from agents.runs.checkpoints import list_checkpoints, load_newest
from agents.supervised.config import SupervisedConfig
from agents.supervised.presets import preset
from launch.results.experiment import conclude, draw, read_groups
from launch.supervised import Arguments, main
from tests import commands
from tests.commands import ROOT, curves, in_this_process, result_of, rows_of, wait_for

STEPS = 1_550  # of a run that lasts long enough to be stopped
RECORDS = [*range(100, STEPS, 100), STEPS]
TINY = ("polynomials", "--hidden", 4, "--points", 5, "--batch-size", 2, "--device", "cpu")


def start(*arguments: object) -> subprocess.Popen:
    return commands.start("supervised", *arguments)


def refusal(*arguments: object) -> str:
    return commands.refusal("supervised", *arguments)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, int, str, str]:
    """A run in one process that Ctrl-C came to: the experiment's folder, exit status, output and errors."""
    folder = tmp_path_factory.mktemp("runs") / "polynomials"
    process = start(
        *TINY, "--layer", "film", "--first-seed", 5, "--steps", STEPS, "--checkpoint-seconds", 0.01,
        "--run-dir", folder,
    )  # fmt: skip
    wait_for(lambda: list_checkpoints(folder / "film-seed5" / "checkpoints") or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    output, errors = process.communicate(timeout=60)
    return folder, process.returncode, output, errors


@pytest.fixture(scope="module")
def finished(stopped) -> tuple[Path, int, str]:
    """The same run after --resume: the experiment's folder, the step from which it continued, and what was printed."""
    folder = stopped[0]
    step = load_newest(folder / "film-seed5" / "checkpoints", warn=pytest.fail).step
    return folder, step, commands.finished(start("--resume", folder))


def test_ctrl_c_ends_a_run_with_status_130_a_checkpoint_and_the_command_to_continue(stopped):
    folder, status, output, errors = stopped
    assert status == 130 and errors == ""
    assert (
        output.count("stopping: waiting for the step in progress and the last checkpoint; a second signal")
        == 1
    )
    assert output.splitlines()[-1] == f"stopped; continue with python -m launch.supervised --resume {folder}"


def test_ctrl_c_while_torch_is_imported_is_not_lost(tmp_path):
    process = start(*TINY, "--steps", 100_000, "--run-dir", tmp_path)
    wait_for((tmp_path / "neurocoder-seed1" / "config.json").exists)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert (
        output.splitlines()[-1] == f"stopped; continue with python -m launch.supervised --resume {tmp_path}"
    )


def test_resume_finishes_a_run_from_where_it_was_stopped(finished):
    folder, step, output = finished
    assert 0 < step < STEPS and "stopped" not in output
    first, second = sorted((folder / "film-seed5").glob("events.*"), key=lambda file: file.stat().st_mtime)
    for file, begin, end in ((first, 0, step), (second, step, STEPS)):
        steps = [point.step for point in curves(file).Scalars("losses/task")]
        assert steps == [record for record in RECORDS if begin < record <= end]


def test_a_run_ends_with_a_table_of_its_layer_parameters_and_metric(finished):
    folder, _, output = finished
    result = result_of(folder / "film-seed5")
    assert f"tensorboard --logdir {folder}" in output
    *_, title, head, row = output.splitlines()
    assert title == "mse: mean ± sample deviation over n seeds"
    columns = ["label", "parameters", "n", "failed", "final", "best", "best step", "steps per second"]
    assert re.split("  +", head) == columns
    # GRU: 3 gates of 2 + 4 inputs and two biases for 4 units; output and modulation: 5 and 2 x 5
    assert row.split()[:4] == ["film", str(3 * 4 * (2 + 4 + 2) + 5 + 10), "1", "0"]
    # One seed has no deviation.
    assert row.split()[4:6] == [f"{result['final']:.5g}", f"{result['best']:.5g}"] and "±" not in row


def test_a_result_says_what_was_run_what_it_came_to_and_with_which_software(finished):
    folder, *_ = finished
    result = result_of(folder / "film-seed5")
    assert result["label"] == "film" and result["seed"] == 5
    assert result["metric"] == "mse" and result["larger_is_better"] is False
    assert result["steps"] == STEPS and [step for step, _ in result["curve"]] == RECORDS
    metrics = [metric for _, metric in result["curve"]]
    assert result["final"] == metrics[-1] and result["best"] == min(metrics) > 0
    assert result["scalars"] == {name: result[name] for name in ("final", "best", "best_step")} | {
        "steps_per_second": pytest.approx(result["steps"] / result["seconds"], rel=1e-2)
    }
    assert result["best_step"] == result["curve"][metrics.index(min(metrics))][0]
    assert result["parameters"] == 111 and result["seconds"] > 0 and result["device"] == "cpu"
    config = SupervisedConfig.from_dict(result["config"])
    assert (config.layer, config.network, config.seed) == ("film", "gru", 5)
    assert (config.hidden, config.points, config.batch_size, config.steps) == (4, 5, 2, STEPS)
    assert config.film.hidden is None  # the paper's
    software = result["software"]
    assert software["python"] == platform.python_version() and software["torch"] == torch.__version__
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = software["commit"] and software["commit"].removesuffix("-dirty")
    assert git.stdout.startswith(commit) if git.returncode == 0 else commit is None


def test_a_run_folder_holds_its_settings_its_curves_and_its_last_state(finished):
    folder, *_ = finished
    run = folder / "film-seed5"
    described = json.loads((run / "config.json").read_text())
    assert described["supervised"] == result_of(run)["config"]
    written = curves(run)
    tags = {"charts/mse", "losses/task", "losses/extra", "charts/samples_per_second", "charts/learning_rate"}
    assert set(written.Tags()["scalars"]) == tags
    for tag in tags:
        assert [point.step for point in written.Scalars(tag)] == RECORDS
    values = [point.value for point in written.Scalars("charts/mse")]
    assert values == [pytest.approx(metric) for _, metric in result_of(run)["curve"]]
    assert all(point.value > 0 for point in written.Scalars("charts/samples_per_second"))
    assert load_newest(run / "checkpoints", warn=pytest.fail).step == STEPS


def test_the_finished_runs_of_an_experiment_are_a_table_for_other_programs(finished):
    folder, *_ = finished
    (row,) = rows_of(folder / "results.csv")
    result = result_of(folder / "film-seed5")
    for column in ("label", "seed", "metric", "final", "best", "best_step", "parameters", "steps", "device"):
        assert row[column] == str(result[column])
    rows = rows_of(folder / "curves.csv")
    assert {(row["label"], row["seed"]) for row in rows} == {("film", "5")}
    curve = [(int(row["step"]), pytest.approx(float(row["mse"]), rel=1e-5)) for row in rows]
    assert [tuple(point) for point in result["curve"]] == curve


def test_runs_with_other_settings_join_a_folder_under_a_tag_and_all_are_in_its_table_and_picture(
    finished, tmp_path, monkeypatch
):
    folder = tmp_path / "joined"
    shutil.copytree(finished[0], folder)
    noisy = start(*TINY, "--layer", "film", "--steps", 100, "--noise", "--tag", "noisy", "--run-dir", folder)
    output = commands.finished(noisy)
    rows = rows_of(folder / "results.csv")
    assert [(row["label"], row["steps"]) for row in rows] == [("film", str(STEPS)), ("noisy-film", "100")]
    assert result_of(folder / "noisy-film-seed1")["config"]["noise"] is True
    assert [line.split()[0] for line in output.splitlines()[-2:]] == ["film", "noisy-film"]
    assert lines_drawn(folder, monkeypatch, tmp_path) == {"film (n = 1)": STEPS, "noisy-film (n = 1)": 100}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def lines_drawn(folder: Path, monkeypatch, tmp_path: Path) -> dict[str, float]:
    """Label and last step of each line that is drawn of a folder's runs."""
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    draw(read_groups(folder), tmp_path / "again.png")
    (figure,) = figures
    monkeypatch.undo()
    pyplot.close(figure)
    return {line.get_label(): line.get_xdata()[-1] for line in figure.axes[0].lines}


def test_a_finished_experiment_has_nothing_to_resume_and_its_run_is_not_overwritten(finished):
    folder, *_ = finished
    before = (folder / "film-seed5" / "result.json").read_bytes()
    table = (folder / "results.md").read_text().splitlines()[3:-1]
    status, output, errors = in_this_process(main, "--resume", folder)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [f"all 1 runs of {folder} are finished", "", *table]
    line = refusal(*TINY, "--layer", "film", "--first-seed", 5, "--steps", 9, "--run-dir", folder)
    assert f"this run exists already; continue it by --resume {folder}" in line
    assert (folder / "film-seed5" / "result.json").read_bytes() == before


def test_a_loss_that_is_not_finite_ends_the_command_with_status_1_and_its_step(tmp_path):
    raw = ("--scale", "raw", "--optimizer", "sgd", "--learning-rate", "1e17", "--steps", 50)
    process = start(*TINY, "--layer", "mlp", *raw, "--run-dir", tmp_path / "experiment")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("error: mlp-seed1: the loss became inf at step ") and errors.count("\n") == 1


def test_a_loss_that_is_not_finite_is_reported_with_the_last_checkpoint_before_it(tmp_path):
    commands.finished(
        start(*TINY, "--layer", "mlp", "--optimizer", "sgd", "--steps", 20, "--run-dir", tmp_path)
    )
    run = tmp_path / "mlp-seed1"
    (run / "result.json").unlink()
    described = json.loads((run / "config.json").read_text())
    described["supervised"] |= {"steps": 40, "scale": "raw", "learning_rate": 1e17}
    (run / "config.json").write_text(json.dumps(described))
    process = start("--resume", tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    line = r"error: mlp-seed1: the loss became (inf|nan) at step 2\d; .+; last good checkpoint: step-0+20\n"
    assert re.fullmatch(line, errors)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("polynomials --momentum 0.5", "--momentum is for sgd and rmsprop, not for adam"),
        *(
            (f"mnist --{flag}", f"--{flag.split()[0]} is for polynomials, not for mnist")
            for flag in ("pieces 4", "points 50", "noise", "scale raw")
        ),
        ("polynomials --tasks-per-sequence 3", "--tasks-per-sequence is for algorithms, not for polynomials"),
        ("cifar10 --hidden 5", "--hidden is for the networks gru and ntm, not for mlp"),
        *((f"polynomials --layer {layer} --no-bias", f"--no-bias: the layer {layer} always has a bias")
          for layer in ("hypernet", "film", "moe")),
        ("mnist --epochs=3 --steps 5", "--epochs and --steps are both given; leave out one of them"),
        ("polynomials --layer mlp,moe --film.hidden 3", "--film.hidden: film is not among the layers of these runs (mlp, moe)"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused_by_name(typed, line, tmp_path):
    status, output, errors = in_this_process(main, *typed.split(), "--run-dir", tmp_path / "runs")
    assert (status, output, errors) == (2, "", f"error: {line}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "typed",
    [
        "polynomials --layer mlp --optimizer sgd --momentum 0.5 --no-bias --hidden 3 --scale raw",
        "polynomials --layer mlp --momentum 0 --tasks-per-sequence 8",
        "mnist --network linear --layer mlp --steps 5 --hidden 32 --points 100",
        "cifar10 --network densenet --layer mlp --optimizer adam",
        "algorithms --layer lowrank --tasks-per-sequence 3 --neurocoder.slots 4",
    ],
)
def test_a_setting_that_has_an_effect_or_its_default_value_is_not_refused(typed):
    argv = typed.split()
    assert len(tyro.cli(Arguments, args=argv).expand(argv)) == 1


# what --resume obeys and refuses


@pytest.fixture
def unfinished(finished, tmp_path) -> Path:
    """The experiment, whose run lacks its result."""
    folder = tmp_path / "unfinished"
    shutil.copytree(finished[0], folder)
    (folder / "film-seed5" / "result.json").unlink()
    return folder


@pytest.mark.parametrize(
    "typed", ["--learning-rate 0.5", "--layer mlp --no-noise", "polynomials --seeds=3", "--run_dir elsewhere"]
)
def test_a_setting_given_with_resume_is_refused_as_it_was_typed(typed, unfinished):
    words = [word for word in typed.split() if word.startswith("-") or word == "polynomials"]
    status, output, errors = in_this_process(main, *typed.split(), "--resume", unfinished)
    assert (status, output) == (2, "")
    assert errors == f"error: --resume: the runs keep their own settings; leave out {' '.join(words)}\n"
    assert not (unfinished / "film-seed5" / "result.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_run_made_on_a_gpu_continues_on_a_cpu_if_asked_to(unfinished):
    run = unfinished / "film-seed5"
    described = json.loads((run / "config.json").read_text()) | {"device": "cuda"}
    (run / "config.json").write_text(json.dumps(described))
    status, output, errors = in_this_process(main, "--resume", unfinished)
    assert (status, output) == (2, "")
    assert errors == (
        f"error: --resume {unfinished}: film-seed5 was made on a GPU, but PyTorch sees none here; "
        "give --device cpu\n"
    )
    status, _, errors = in_this_process(main, "--resume", unfinished, "--device", "cpu")
    assert (status, errors) == (0, "") and result_of(run)["device"] == "cpu"
    assert json.loads((run / "config.json").read_text()) == described


def test_the_time_between_checkpoints_given_with_resume_is_obeyed(tmp_path, monkeypatch):
    arguments = (*TINY, "--layer", "mlp", "--steps", 300, "--checkpoint-seconds", 1000, "--run-dir", tmp_path)
    steps: list[int] = []
    monkeypatch.setattr(
        "launch.experiments.run.save_snapshot", lambda folder, step, *_, **__: steps.append(step)
    )
    assert in_this_process(main, *arguments)[0] == 0
    assert steps == [300]
    (tmp_path / "mlp-seed1" / "result.json").unlink()
    assert in_this_process(main, "--resume", tmp_path, "--checkpoint-seconds", 1e-9)[0] == 0
    assert steps == [300, 100, 200, 300]


def test_results_of_an_earlier_version_are_read_with_the_same_numbers(finished, tmp_path):
    folder = tmp_path / "earlier"
    shutil.copytree(finished[0], folder)
    path = folder / "film-seed5" / "result.json"
    result = json.loads(path.read_text())
    del result["scalars"]
    path.write_text(json.dumps(result))
    conclude(folder)
    assert (folder / "curves.csv").read_text() == (finished[0] / "curves.csv").read_text()
    (ours,), (theirs,) = rows_of(folder / "results.csv"), rows_of(finished[0] / "results.csv")
    assert float(ours.pop("steps_per_second")) == pytest.approx(
        float(theirs.pop("steps_per_second")), rel=1e-2
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ('{"a3c": {}}', "it has no 'supervised'"),
        ('{"supervised": {"task": "mnist"', "Expecting"),
        ('{"supervised": {"invented": 1}}', "invented is no setting that this version knows"),
        (
            json.dumps({"supervised": preset("polynomials", layer="mlp").to_dict() | {"layer": "x"}}),
            "--layer 'x' is not known",
        ),
    ],
    ids=["a3c", "half", "unknown", "layer"],
)
def test_a_folder_with_runs_of_another_kind_is_not_resumed_and_left_as_it_is(settings, reason, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(settings)
    line = refusal("--resume", tmp_path)
    assert f"--resume {tmp_path}: run/config.json cannot be used" in line and reason in line
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "config.json"]
