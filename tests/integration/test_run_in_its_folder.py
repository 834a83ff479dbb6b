"""Supervised and continual runs in their folders: asked to stop at any step, and on a disk that is full for a while."""

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents.continual.presets import preset as continual_preset
from agents.runs.checkpoints import list_checkpoints, load_checkpoint, load_newest, save_checkpoint
from agents.supervised.presets import preset as supervised_preset
from launch.experiments.folder import make_runs
from launch.experiments.ray_tasks import Progress, attempt
from launch.experiments.run import execute
from tests.commands import curves, result_of
from tests.unit.envs.image_files import write_few


class AtStep(Progress):
    """Calls a function each time that a run asks whether to stop, which it does at every step and every batch."""

    def __init__(self, at_step: Callable[[int], bool | None]):
        self.at_step, self.asked, self.warnings = at_step, 0, list[str]()

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def should_stop(self) -> bool:
        self.asked += 1
        return bool(self.at_step(self.asked))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_few(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def one_thread():
    """Sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(kind: str) -> dict[str, dict]:
    """Short runs, by the key of their settings."""
    if kind == "images":
        # Five steps and an evaluation of two batches, three times.
        return {
            "supervised": replace(supervised_preset("mnist", layer="mlp"), batch_size=5, epochs=3).to_dict()
        }
    if kind == "sequences":
        tiny = replace(
            supervised_preset("polynomials", layer="mlp"), hidden=4, points=5, batch_size=2, steps=450
        )
        return {"supervised": tiny.to_dict()}
    config = continual_preset("split-mnist", scenario="task", method=kind, layer="lowrank")
    return {"continual": replace(config, hidden=4, batch_size=2, epochs=30).to_dict()}


def make(folder: Path, kind: str, data: Path, *, checkpoint_seconds: float = 1e9) -> Path:
    described = {"label": kind, "data": str(data), "device": "cpu", "checkpoint_seconds": checkpoint_seconds}
    (run,) = make_runs(folder, {kind: settings(kind) | described})
    return run


KINDS = ("images", "sequences", "si", "online-ewc")


@pytest.fixture(scope="module", params=KINDS)
def whole(request, data, tmp_path_factory) -> tuple[str, Path, int]:
    """A run that nothing stopped: its kind, its folder, and how often it asked whether to stop."""
    run = make(tmp_path_factory.mktemp("whole"), request.param, data)
    progress = AtStep(lambda asked: None)
    torch.set_num_threads(1)
    assert attempt(execute, run, progress) is None
    return request.param, run, progress.asked


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the curves of a run, without those that measure time."""
    written = curves(run)
    tags = [tag for tag in written.Tags()["scalars"] if "second" not in tag]
    return {tag: [(point.step, point.value) for point in written.Scalars(tag)] for tag in tags}


def test_a_run_stopped_anywhere_saves_at_once_and_continues_as_if_nothing_had_been(whole, data, tmp_path):
    kind, expected, asked = whole
    run = make(tmp_path, kind, data)
    stops = 0
    # About nine stops, within records, tasks and evaluations. Two of them come with nothing in between.
    every = asked // 8 | 1
    while not (run / "result.json").exists():
        steps = 0 if stops == 3 else every
        progress = AtStep(lambda now, steps=steps: now > steps)
        assert attempt(execute, run, progress) is None
        # It has asked once more in vain, and no further step was taken.
        assert progress.asked <= steps + 1 and progress.warnings == []
        stops += 1
        assert stops < 40 and list_checkpoints(run / "checkpoints")
    assert stops >= 8
    ours, theirs = result_of(run), result_of(expected)
    for name in ("curve", "final", "accuracy", "untrained", "steps"):
        assert ours.get(name) == theirs.get(name), name
    newest = [load_newest(path / "checkpoints", warn=pytest.fail).tensors for path in (run, expected)]
    for group in newest[1]:
        for name, tensor in newest[1][group].items():
            assert torch.equal(newest[0][group][name], tensor), (group, name)
    assert points(run) == points(expected)


def limit_files(size: int) -> None:
    """Limits the size of the files that this process writes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def disk():
    yield limit_files
    limit_files(resource.RLIM_INFINITY)


@pytest.mark.parametrize("kind", ["sequences", "si"])
def test_a_full_disk_costs_checkpoints_and_curves_but_not_the_run(kind, data, tmp_path, disk):
    run = make(tmp_path, kind, data, checkpoint_seconds=1e-9)
    before: list[str] = []

    def fill_for_a_while(asked: int) -> None:
        if asked == 120:
            before.extend(path.name for path in list_checkpoints(run / "checkpoints"))
            disk(1)
        if asked == 320:
            disk(resource.RLIM_INFINITY)

    progress = AtStep(fill_for_a_while)
    assert attempt(execute, run, progress) is None
    no_curves, *no_checkpoints = sorted(progress.warnings)
    assert no_curves.startswith(f"curves cannot be written to {run} ([Errno 27] File too large)")
    assert no_checkpoints and all(line.startswith("no checkpoint at ") for line in no_checkpoints)
    assert (run / "result.json").exists() and len(before) == 1
    newest = list_checkpoints(run / "checkpoints")
    for path in newest:
        load_checkpoint(path)
    assert newest[0].name > before[0] and not list((run / "checkpoints").glob(".step-*"))
    steps = [point.step for point in curves(run).Scalars("losses/task")]
    assert steps[0] in (50, 100) and steps[-1] == result_of(run)["steps"]


def test_a_result_that_cannot_be_written_is_the_failure_of_the_run_which_can_continue(data, tmp_path, disk):
    run = make(tmp_path, "sequences", data, checkpoint_seconds=1e-9)
    progress = AtStep(lambda asked: disk(1) if asked == 420 else None)
    failure = attempt(execute, run, progress)
    disk(resource.RLIM_INFINITY)
    assert failure == (
        f"[Errno 27] File too large: '{run / 'result.json'}'; make room and continue by --resume"
    )
    assert not (run / "result.json").exists() and not list(run.glob(".*"))


def test_runs_that_cannot_be_made_on_a_full_disk_are_refused_and_leave_nothing(data, tmp_path, disk):
    described = {name: settings("sequences") for name in ("a", "b")}
    disk(1)
    with pytest.raises(ValueError) as refusal:
        make_runs(tmp_path / "experiment", described)
    disk(resource.RLIM_INFINITY)
    path = tmp_path / "experiment" / "a" / "config.json"
    advice = "make room or name another --run-dir"
    assert str(refusal.value) == f"[Errno 27] File too large: '{path}'; {advice}"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("kind", "steps"), [("images", 15), ("si", 360)])
def test_a_checkpoint_of_an_earlier_version_is_continued(kind, steps, data, tmp_path):
    """That version saved at records and between tasks only, and had neither losses nor steps within a task."""
    run = make(tmp_path, kind, data, checkpoint_seconds=1e-9)
    assert attempt(execute, run, AtStep(lambda asked: len(list_checkpoints(run / "checkpoints")) > 0)) is None
    newest = load_newest(run / "checkpoints", warn=pytest.fail)
    tensors = {group: named for group, named in newest.tensors.items() if group != "losses"}
    state = {name: value for name, value in newest.state.items() if name != "task_step"}
    save_checkpoint(run / "checkpoints", newest.step, tensors, state)
    assert attempt(execute, run, Progress()) is None
    assert result_of(run)["steps"] == steps
