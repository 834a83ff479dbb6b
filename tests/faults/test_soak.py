"""Half an hour of training after a warm-up, in which nothing may grow: `make test-soak`."""

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil
import pytest

from agents.a3c.config import A3CConfig
from agents.runs.atari_run import AtariRun
from agents.runs.folder import RunFolder
from agents.runs.recording import Recording

WARM_UP, MINUTES = 15, 45
# Minutes after the warm-up and at the end, which are compared.
WINDOW = 5
# Most bytes of the object store in use. A snapshot, a gradient and the weights have 13 MB each.
STORE = 500e6

Looks = dict[psutil.Process, list[tuple[float, int]]]
"""Values of each process with their time in minutes."""


@pytest.mark.soak
def test_memory_and_files_of_every_process_and_the_object_store_do_not_grow(tmp_path):
    """Compares medians of five minutes.

    Pages of the object store count for every process that has looked at them, up to the whole store. They
    are therefore measured apart. A snapshot's 13 MB come and go, and so does the memory that an allocator
    keeps. Ray's raylet reaches its 36 MB in steps of a megabyte during the first quarter of an hour.
    """
    config = A3CConfig(env="Pong", head="neurocoder", workers=2, envs_per_worker=4, total_steps=10**9)
    recording = Recording(checkpoint_every=2_000, keep=2, evaluate_every=2_000, evaluate_games=2)
    memory: Looks = defaultdict(list)
    files: Looks = defaultdict(list)
    names: dict[psutil.Process, str] = {}
    # Most bytes of the object store that one process has looked at.
    touched = 0
    start = looked = time.monotonic()
    with RunFolder.create(tmp_path / "run") as folder, AtariRun(folder, config, recording) as run:
        while (now := time.monotonic()) < start + 60 * MINUTES:
            run.advance()
            if now < looked + 5:
                continue
            looked, minutes = now, (now - start) / 60
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                resident, names[process] = resident_bytes(process.pid), process.name()
                touched = max(touched, resident["RssShmem"])
                memory[process].append((minutes, resident["RssAnon"] + resident["RssFile"]))
                files[process].append((minutes, process.num_fds()))
        run.finish()
        assert run.training.drain().env_steps > 10_000

    watched = [p for p, looks in memory.items() if looks[0][0] < WARM_UP and looks[-1][0] > MINUTES - 1]
    # The driver, the server, two workers, the evaluation, Ray's server and its raylet.
    assert len(watched) >= 7
    for process, before, after in medians(memory, watched):
        assert after <= 1.02 * before, f"{names[process]}: {before / 1e6:.1f} MB, then {after / 1e6:.1f} MB"
    for process, before, after in medians(files, watched):
        assert after <= before, f"{names[process]}: {before} open files, then {after}"
    assert 0 < touched < STORE


def resident_bytes(pid: int) -> dict[str, int]:
    """Returns resident bytes by kind.

    `RssAnon` is private memory, `RssFile` code and mapped files, `RssShmem` the object store.
    """
    rows = (
        row.split() for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("Rss")
    )
    return {name.rstrip(":"): 1024 * int(kilobytes) for name, kilobytes, _ in rows}


def medians(looks: Looks, watched: list[psutil.Process]) -> Iterator[tuple[psutil.Process, float, float]]:
    """Yields each process with its medians of the first window after the warm-up and of the last window."""
    for process in watched:
        early = median(value for minutes, value in looks[process] if WARM_UP <= minutes < WARM_UP + WINDOW)
        yield (
            process,
            early,
            median(value for minutes, value in looks[process] if minutes >= MINUTES - WINDOW),
        )
