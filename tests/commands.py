"""Commands run as a person runs them, and readers of the files that they leave."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
NO_NETWORK = {"https_proxy": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
NOT_A_FOLDER = sys.executable


def start(
    module: str,
    *arguments: object,
    folder: Path = ROOT,
    options: tuple[str, ...] = (),
    stderr: int = subprocess.PIPE,
    **environment: str,
) -> subprocess.Popen:
    """Starts `python options -m launch.module arguments` in a folder, with a new process group."""
    command = [sys.executable, *options, "-m", f"launch.{module}", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


def run_in(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Runs Python with these arguments in a folder, whose packages are imported."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(process: subprocess.Popen) -> str:
    """Waits for a command that must succeed. Returns its output."""
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0 and "Traceback" not in errors and "error:" not in errors, errors
    return output


def refusal(module: str, *arguments: object) -> str:
    """Runs a command in this process that must refuse its arguments. Returns the one line of its error."""
    status, output, errors = in_this_process(import_module(f"launch.{module}").main, *arguments)
    assert (status, output) == (2, ""), errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


@contextlib.contextmanager
def signals_as_before() -> Iterator[None]:
    """Takes the signals back, in the end, from a command in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def in_this_process(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
    """Runs a command without the seconds that imports take. Returns its exit status, output and errors."""
    status = 0
    output, errors = io.StringIO(), io.StringIO()
    try:
        with (
            signals_as_before(),
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            patch.setattr(sys, "argv", ["command", *map(str, arguments)])
            main()
    except SystemExit as ended:
        status = ended.code
    return status, output.getvalue(), errors.getvalue()


def wait_for(condition: Callable[[], object], *, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def read_terminal(descriptor: int) -> str:
    """Returns all that is written to a pseudo-terminal until its last writer has gone."""
    written = b""
    try:
        while data := os.read(descriptor, 4096):
            written += data
    except OSError:
        # Linux reports the end so.
        pass
    return written.decode()


def curves(path: Path) -> EventAccumulator:
    """Reads what was written for TensorBoard to a folder or a file."""
    accumulator = EventAccumulator(str(path))
    accumulator.Reload()
    return accumulator


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))
