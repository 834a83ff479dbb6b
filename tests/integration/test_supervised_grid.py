"""Supervised runs as tasks of a real Ray cluster: the same results as in one process, a killed one, a failing one."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from agents.runs.checkpoints import load_newest
from agents.runs.folder import FAILED, RESULT
from agents.supervised.config import SupervisedConfig
from agents.supervised.presets import preset
from launch.experiments.folder import make_runs
from launch.experiments.interruption import Interruption
from launch.experiments.ray_tasks import run_here, run_on_ray
from launch.experiments.run import execute
from tests.commands import curves, signals_as_before, wait_for

STEPS = 500  # with a record, and soon after it a checkpoint, every 100


def configs() -> dict[str, SupervisedConfig]:
    def tiny(layer: str, **changes) -> SupervisedConfig:
        defaults = dict(hidden=4, points=5, batch_size=2, steps=STEPS)
        return replace(preset("polynomials", layer=layer), **defaults | changes)

    failing = tiny("mlp", scale="raw", optimizer="sgd", learning_rate=1e17)
    # A step takes so long that there is no record before Ctrl-C.
    endless = tiny("mlp", steps=10**9, batch_size=20_000)
    return {"killed": tiny("mlp"), "left alone": tiny("film"), "failing": failing, "endless": endless}


def make(experiment: Path, *names: str) -> list[Path]:
    return make_runs(
        experiment,
        {
            name: {
                "label": name,
                "supervised": configs()[name].to_dict(),
                "data": "no data needed",
                "device": "cpu",
                "checkpoint_seconds": 0.001,
            }
            for name in names
        },
    )


@contextmanager
def signals_and_threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a task: sums depend on it
    try:
        with signals_as_before():
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass
class Kill:
    """What was found when the process of a run was killed."""

    pid: int
    name: str
    steps: int
    """The steps of the newest checkpoint."""
    finished: bool


def kill(run: Path) -> Kill:
    """Kills the process that a run is in."""
    process = psutil.Process(process_id(run))
    name = " ".join(process.cmdline())
    process.kill()
    process.wait(timeout=30)
    steps = load_newest(run / "checkpoints", warn=pytest.fail).step
    return Kill(process.pid, name, steps, (run / RESULT).exists())


def is_at_work(process: psutil.Process) -> bool:
    """Whether a process works on a run, as Ray's workers say in their names."""
    try:
        return process.name().startswith("ray::run_as_tas") and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def process_id(run: Path) -> int:
    match = re.fullmatch(r"pid (\d+) on \S+\n", (run / "run.lock").read_text())
    assert match
    return int(match[1])


@dataclass
class Experiment:
    folder: Path
    failures: dict[str, str]
    exit_status: int

    def result(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name / RESULT).read_text())


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Experiment:
    """The runs that end, one after another in this process."""
    folder = tmp_path_factory.mktemp("here")
    with signals_and_threads_as_before():
        interruption = Interruption()
        failures = run_here(make(folder, "killed", "left alone", "failing"), execute, interruption)
    return Experiment(folder, failures, interruption.exit_status)


@dataclass
class OnRay(Experiment):
    kill: Kill
    processes: list[psutil.Process]
    """Everything that Ray had started."""
    most_at_work: int
    """Runs at the same time, for more than the moment in which a process that is done still has its name."""


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory) -> OnRay:
    """All runs as Ray tasks. The process of the first run is killed, and Ctrl-C comes when only the endless run is left."""
    folder, kills, processes, at_work = tmp_path_factory.mktemp("ray"), [], [], []
    runs = make(folder, "killed", "left alone", "failing", "endless")
    before = set(psutil.Process().children(recursive=True))
    over = threading.Event()

    def count(condition: Callable[[], object]) -> object:
        """The condition, and by the way the runs at work."""
        at_work.append(sum(map(is_at_work, psutil.Process().children(recursive=True))))
        return over.is_set() or condition()

    def watch() -> None:
        try:
            wait_for(lambda: count((runs[0] / "checkpoints" / "step-000000000300").exists))
            kills.append(kill(runs[0]))
            ended = [run / name for run in runs[:3] for name in (RESULT, FAILED)]
            wait_for(lambda: count(lambda: sum(path.exists() for path in ended) == 3))
            wait_for(lambda: over.is_set() or list(runs[3].glob("events.*")))
            processes.extend(set(psutil.Process().children(recursive=True)) - before)
        finally:
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=watch)
    with signals_and_threads_as_before():
        interruption = Interruption()
        watcher.start()
        try:
            failures = run_on_ray(runs, execute, interruption, address=None, gpus_per_run=0.0)
        finally:
            over.set()
            watcher.join()
    most_at_work = max(min(at_work[i : i + 20]) for i in range(len(at_work) - 19))
    return OnRay(folder, failures, interruption.exit_status, *kills, processes, most_at_work)


def curve(path: Path, tag: str) -> list[tuple[int, float]]:
    """Returns a curve from a folder with events, or from one file."""
    return [(point.step, point.value) for point in curves(path).Scalars(tag)]


@pytest.mark.parametrize("name", ["killed", "left alone"])
def test_a_run_on_ray_comes_to_the_very_numbers_of_a_run_in_one_process(here, on_ray, name):
    ours, theirs = on_ray.result(name), here.result(name)
    assert [step for step, _ in ours["curve"]] == list(range(100, STEPS + 1, 100))
    for field in ("final", "curve", "best", "best_step", "parameters", "steps", "config", "label", "seed"):
        assert ours[field] == theirs[field], field
    parameters = [
        load_newest(experiment.folder / name / "checkpoints", warn=pytest.fail).tensors["parameters"]
        for experiment in (on_ray, here)
    ]
    for key, tensor in parameters[0].items():
        assert torch.equal(tensor, parameters[1][key]), key


def test_the_results_of_two_layers_are_not_the_same(here):
    assert here.result("killed")["final"] != here.result("left alone")["final"]


def test_a_killed_run_is_taken_up_by_another_process_from_its_checkpoint(on_ray):
    kill, run = on_ray.kill, on_ray.folder / "killed"
    assert "ray::" in kill.name and not kill.finished
    assert 300 <= kill.steps < STEPS
    assert process_id(run) not in (kill.pid, os.getpid())
    first, second = sorted(run.glob("events.*"), key=lambda file: file.stat().st_mtime)
    assert curve(first, "losses/task")[0][0] == 100
    assert curve(second, "losses/task")[0][0] == kill.steps + 100
    assert "killed" not in on_ray.failures


def test_the_curves_of_a_killed_run_have_neither_a_gap_nor_a_jump_back(on_ray):
    for name in ("killed", "left alone"):
        expected = [(step, pytest.approx(metric)) for step, metric in on_ray.result(name)["curve"]]
        assert curve(on_ray.folder / name, "charts/mse") == expected


def test_no_more_runs_are_at_work_than_there_are_cores(on_ray):
    assert 1 <= on_ray.most_at_work <= os.cpu_count()


def test_the_other_run_is_not_begun_again(on_ray):
    run = on_ray.folder / "left alone"
    assert len(list(run.glob("events.*"))) == 1
    assert process_id(run) != on_ray.kill.pid


def test_a_run_that_fails_is_reported_with_its_step_and_left_unfinished_while_the_others_end(here, on_ray):
    for experiment in (here, on_ray):
        assert list(experiment.failures) == ["failing"]
        line = experiment.failures["failing"]
        assert re.fullmatch(
            r"the loss became (inf|nan) at step \d+; .*--learning-rate.*; last good checkpoint: none", line
        )
        assert json.loads((experiment.folder / "failing" / FAILED).read_text()) == {"error": line}
        assert not list((experiment.folder / "failing" / "checkpoints").iterdir())
        assert not (experiment.folder / "failing" / RESULT).exists()
    assert here.failures == on_ray.failures


def test_ctrl_c_ends_a_run_on_ray_with_a_last_checkpoint_and_leaves_no_process(here, on_ray):
    assert (here.exit_status, on_ray.exit_status) == (0, 130)
    run = on_ray.folder / "endless"
    assert 0 < load_newest(run / "checkpoints", warn=pytest.fail).step < 100
    assert curves(run).Tags()["scalars"] == []
    assert not (run / RESULT).exists() and not (run / FAILED).exists()
    _, alive = psutil.wait_procs(on_ray.processes, timeout=30)
    assert on_ray.processes and alive == []
