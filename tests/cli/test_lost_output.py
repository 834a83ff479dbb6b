"""Commands whose output has no reader any more."""

import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from agents.runs.checkpoints import list_checkpoints
from launch.command_line.output import LastingStream
from tests.commands import ROOT, result_of, start

TRAIN = (
    "--env", "Breakout", "--head", "mlp", "--workers", 0, "--envs-per-worker", 2, "--rollout-steps", 5,
    "--evaluate-every", 0, "--evaluate-episodes", 0,
)  # fmt: skip


def first_line(process) -> str:
    """Reads a line of a command's output, and closes the pipe as `head -1` does."""
    line = process.stdout.readline()
    process.stdout.close()
    return line


def test_a_run_goes_to_its_end_when_nobody_reads_its_output(tmp_path):
    process = start("train", *TRAIN, "--total-steps", 400, "--run-dir", tmp_path / "run")
    assert first_line(process).startswith("run folder")
    errors = process.stderr.read()
    assert (process.wait(120), errors) == (0, "")
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[0].name >= "step-000000000400"


def test_an_experiment_goes_to_its_end_when_nobody_reads_its_output(tmp_path):
    process = start("supervised", "polynomials", "--layer", "mlp", "--steps", 50, "--run-dir", tmp_path)
    assert first_line(process).startswith("run folder")
    errors = process.stderr.read()
    assert (process.wait(120), errors) == (0, "")
    assert result_of(tmp_path / "mlp-seed1")["steps"] == 50


def test_a_terminal_that_closes_ends_a_run_with_its_last_checkpoint(tmp_path):
    arguments = [*TRAIN, "--total-steps", 1_000_000, "--run-dir", tmp_path / "run"]
    command = [sys.executable, "-m", "launch.train", *map(str, arguments)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(sys.executable, command, os.environ | {"OMP_NUM_THREADS": "1"})
    output = b""
    while b"steps/s" not in output:
        output += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == 1


def test_a_full_disk_drops_lines_and_raises_nothing():
    full = Path("/dev/full").open("w")  # noqa: SIM115, it cannot be closed
    stream = LastingStream(full)
    for _ in range(3):
        print("a warning", file=stream, flush=True)
    # What is still buffered goes nowhere when the file is closed.
    os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    full.close()


@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_a_command_ends_without_a_traceback_when_nobody_reads_its_help(command):
    process = start(command, "--help")
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(60), errors) == (0, "")
