"""Signals that come at the wrong time: while modules are imported, and while the main thread is in a library."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launch.experiments.interruption import STOPPING
from tests.commands import ROOT, start, wait_for

COMMANDS = ("train", "rllib", "sweep", "supervised", "continual", "evaluate", "plot")

# The library function takes a minute, and no Python handler runs meanwhile.
BUSY = """
import hashlib
from launch.experiments.interruption import Interruption
interruption = Interruption()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", {rounds})
print(interruption.exit_status, flush=True)
"""


def catches_sigterm(pid: int) -> bool:
    """Says whether a process has a handler for SIGTERM. Python itself has one for SIGINT alone."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", status)
    return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_modules_are_imported_says_stopped(command):
    process = start(command)
    wait_for(lambda: catches_sigterm(process.pid), seconds=10)
    # The handler is there before torch, which takes seconds.
    assert not any("torch" in mapped.path for mapped in psutil.Process(process.pid).memory_maps())
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (130, "stopped\n", "")


def busy(rounds: int) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(rounds=rounds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_second_signal_ends_a_process_that_is_in_a_library():
    process = busy(10**8)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 130 and output in ("", f"{STOPPING}\n")


def test_a_signal_that_timeout_sends_twice_at_once_is_one():
    process = busy(3 * 10**5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and output == f"{STOPPING}\n143\n"
