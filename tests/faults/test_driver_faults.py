"""Faults of the command itself: its driver or its parameter server is killed, or its disk is full."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from agents.runs.checkpoints import list_checkpoints, load_checkpoint, load_newest
from tests import commands
from tests.commands import curves, wait_for

SMALL = (
    "--env", "Pong", "--head", "mlp", "--envs-per-worker", "2", "--rollout-steps", "5", "--evaluate-episodes", "0",
)  # fmt: skip


def start(*arguments: object) -> subprocess.Popen:
    return commands.start("train", *arguments, stderr=subprocess.STDOUT)


def steps(folder: Path) -> list[int]:
    """Returns the steps of a run's checkpoints, newest first."""
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder / "checkpoints")]


@pytest.mark.slow
def test_the_death_of_the_parameter_server_ends_a_run_with_the_command_to_resume_it(tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, "--checkpoint-every", 50, "--run-dir", folder)
    wait_for(lambda: steps(folder))
    (server,) = (
        child for child in psutil.Process(process.pid).children(recursive=True)
        if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::ServerActor")
    )  # fmt: skip
    server.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    last = output.strip().splitlines()[-1]
    assert "the parameter server failed" in last and f"python -m launch.train --resume {folder}" in last
    before = load_newest(folder / "checkpoints", warn=pytest.fail)
    process = start("--resume", folder, "--total-steps", before.step + 40)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"resuming at {before.step:,} steps" in output


@pytest.mark.slow
def test_the_logs_of_ray_stay_where_ray_died(tmp_path):
    folder = tmp_path / "run"
    with tempfile.TemporaryDirectory(prefix="logs-") as place:
        process = commands.start(
            "train", *SMALL, "--checkpoint-every", 50, "--run-dir", folder, RAY_TMPDIR=place
        )
        wait_for(lambda: steps(folder))
        (raylet,) = (child for child in psutil.Process(process.pid).children() if child.name() == "raylet")
        raylet.kill()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        (left,) = Path(place).iterdir()
        assert f"warning: raylet of Ray died; the logs are in {left}" in errors
        assert list(left.glob("r/session_*/logs/raylet.out"))


def test_a_full_disk_costs_checkpoints_and_curves_but_not_the_run(tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, "--workers", 0, "--checkpoint-every", 30, "--keep", 1_000, "--run-dir", folder)
    wait_for(lambda: steps(folder))
    # From now on no file may grow.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    before, deadline, lines = steps(folder), time.monotonic() + 60, []
    assert process.stdout is not None
    while sum(line.startswith("warning: no checkpoint at") for line in lines) < 2:
        lines.append(process.stdout.readline())
        assert time.monotonic() < deadline, lines
    assert any(line.startswith(f"warning: curves cannot be written to {folder}") for line in lines)
    # All checkpoints are whole.
    for path in list_checkpoints(folder / "checkpoints"):
        load_checkpoint(path)
    # A checkpoint may have been under way when the disk became full.
    assert len(before) <= len(steps(folder)) <= len(before) + 1
    assert list((folder / "checkpoints").glob(".step-*")) == []

    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    full = time.time()
    wait_for(lambda: len(steps(folder)) >= len(before) + 2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in "".join(lines) + output
    points = curves(folder).Scalars("charts/frames")
    assert any(point.wall_time < full for point in points) and any(point.wall_time > full for point in points)


def living_names(family: list[psutil.Process]) -> list[str]:
    """Returns the names of the actors and of Ray's servers that still live.

    Other processes may take longer to end. Workers that were just starting look for their parent from time
    to time. Ray's two agents first try for 60 s to report to the dead server that the raylet has died.
    """
    names = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            name = process.name()
            if process.status() != psutil.STATUS_ZOMBIE and (
                "Actor" in name or name in ("raylet", "gcs_server")
            ):
                names.append(name)
    return names


@pytest.mark.slow
def test_a_driver_killed_fifty_times_always_resumes_from_its_newest_whole_checkpoint(tmp_path):
    folder, chance, kills, resumed_at = tmp_path / "run", random.Random(0), 0, [0]
    families: list[psutil.Process] = []
    while kills < 50:
        known = steps(folder)
        # Two of four drivers train on Ray. The others have no worker and start in a third of the time.
        workers = int(kills % 4 < 2)
        first = ("--resume", folder) if known else (*SMALL, "--run-dir", folder)
        process = start(*first, "--workers", workers, "--checkpoint-every", 20)
        if not known:
            wait_for(lambda: steps(folder))
        elif kills % 2:
            # This kill comes at any time, perhaps while the driver starts.
            time.sleep(chance.uniform(0, 12 if workers else 6))
        else:
            # This kill comes while the driver trains and saves, however long it takes to start.
            wait_for(lambda known=known: steps(folder)[0] > known[0])
            time.sleep(chance.uniform(0, 3))
        family = psutil.Process(process.pid).children(recursive=True)
        families += family
        os.kill(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        # The driver was alive until the kill.
        assert process.returncode == -signal.SIGKILL, output
        kills += 1
        for line in output.splitlines():
            assert not line.startswith(("warning", "error")), line
            if line.startswith("resuming at"):
                assert int(line.split()[2].replace(",", "")) == known[0]
                resumed_at.append(known[0])
        for path in list_checkpoints(folder / "checkpoints"):
            load_checkpoint(path)
        deadline = time.monotonic() + 15
        while living_names(family) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert living_names(family) == []
    wait_for(lambda: not any(process.is_running() for process in families), seconds=90)
    assert len(resumed_at) > 25 and resumed_at == sorted(resumed_at) and len(set(resumed_at)) > 10
