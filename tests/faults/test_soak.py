"""Half an hour of training after a warm-up, in which nothing may grow: `make test-soak`."""

import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import psutil
import pytest

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.runs.folder import RunFolder
from agents.runs.recorder import Recorder
from agents.runs.recording import Recording

WARM_UP, MINUTES = 15, 45
# Minutes after the warm-up, which are compared with as many at the end.
WINDOW = 5
# Most bytes of the object store in use. A snapshot, a gradient and the weights have 13 MB each.
STORE = 500e6


@pytest.mark.soak
def test_memory_and_files_of_every_process_and_the_object_store_do_not_grow(tmp_path):
    """Compares medians of five minutes.

    Pages of the object store count for every process that has looked at them, up to the whole store. They
    are therefore measured apart. A snapshot's 13 MB come and go, and so does the memory that an allocator
    keeps. Ray's raylet reaches its 36 MB in steps of a megabyte during the first quarter of an hour.
    """
    config = A3CConfig(env="Pong", head="neurocoder", workers=2, envs_per_worker=4, total_steps=10**9)
    memory: dict[psutil.Process, list[tuple[float, int]]] = defaultdict(list)  # (minutes, bytes)
    files: dict[psutil.Process, list[tuple[float, int]]] = defaultdict(list)
    names: dict[psutil.Process, str] = {}
    # Most bytes of the object store that one process has looked at.
    touched = 0
    start = looked = time.monotonic()
    with RunFolder.create(tmp_path / "run") as folder, start_training(config) as training:
        recording = Recording(checkpoint_every=2_000, keep=2, evaluate_every=2_000, evaluate_games=2)
        recorder = Recorder(folder, config.to_dict(), config, recording, env_steps=0, on_ray=True)
        while (now := time.monotonic()) < start + 60 * MINUTES:
            training.advance()
            recorder.look(training)
            if now < looked + 5:
                continue
            looked, minutes = now, (now - start) / 60
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                resident, names[process] = resident_bytes(process.pid), process.name()
                touched = max(touched, resident["RssShmem"])
                memory[process].append((minutes, resident["RssAnon"] + resident["RssFile"]))
                files[process].append((minutes, process.num_fds()))
        recorder.finish(training)
        recorder.close()
        assert training.drain().env_steps > 10_000

    watched = [p for p, looks in memory.items() if looks[0][0] < WARM_UP and looks[-1][0] > MINUTES - 1]
    # The driver, the server, two workers, the evaluation, Ray's server and its raylet.
    assert len(watched) >= 7
    grown = [
        f"{names[process]}: {before / 1e6:.1f} MB, then {after / 1e6:.1f} MB"
        for process in watched
        for before, after in [early_and_late(memory[process])]
        if after > 1.02 * before
    ]
    grown += [
        f"{names[process]}: {before} open files, then {after}"
        for process in watched
        for before, after in [early_and_late(files[process])]
        if after > before
    ]
    assert not grown
    assert 0 < touched < STORE


def resident_bytes(pid: int) -> dict[str, int]:
    """Returns resident bytes by kind.

    `RssAnon` is private memory, `RssFile` code and mapped files, `RssShmem` the object store.
    """
    rows = (
        row.split() for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("Rss")
    )
    return {name.rstrip(":"): 1024 * int(kilobytes) for name, kilobytes, _ in rows}


def early_and_late(looks: list[tuple[float, int]]) -> tuple[float, float]:
    """Returns the medians of the first window after the warm-up and of the last window."""
    early = median(value for minutes, value in looks if WARM_UP <= minutes < WARM_UP + WINDOW)
    return early, median(value for minutes, value in looks if minutes >= MINUTES - WINDOW)
