"""Half an hour of training: nothing grows. `make test-soak`."""

import time
from collections import defaultdict
from statistics import median

import psutil
import pytest

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from launch.recorder import Recorder
from launch.run_folder import RunFolder

MINUTES, WARM_UP = 30, 6
WINDOW = 3  # minutes at the beginning, after the warm-up, and at the end, that are compared


@pytest.mark.soak
def test_memory_and_files_of_every_process_stay_as_they_are(tmp_path):
    """The object store, too: its pages count to the raylet that holds it."""
    config = A3CConfig(env="Pong", head="neurocoder", workers=2, envs_per_worker=4, total_steps=10**9)
    seen: dict[psutil.Process, list[tuple[float, int, int]]] = defaultdict(list)  # (minutes, bytes, files)
    start = time.monotonic()
    with RunFolder.create(tmp_path / "run") as folder, start_training(config) as training:
        recorder = Recorder(folder, config.to_dict(), config, env_steps=0, checkpoint_every=20_000, keep=2)
        looked = start
        while (now := time.monotonic()) < start + 60 * MINUTES:
            training.advance()
            recorder.look(training)
            if now > looked + 5:
                looked = now
                for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                    minutes = (now - start) / 60
                    seen[process].append((minutes, process.memory_info().rss, process.num_fds()))
        recorder.finish(training)
        assert training.drain().env_steps > 10_000

    watched = {p: looks for p, looks in seen.items() if looks[0][0] < WARM_UP and looks[-1][0] > MINUTES - 1}
    assert len(watched) >= 6  # driver, owner, two workers, Ray's server and raylet
    for process, looks in watched.items():
        early = [look for look in looks if WARM_UP <= look[0] < WARM_UP + WINDOW]
        late = [look for look in looks if look[0] >= MINUTES - WINDOW]
        before, after = (median(memory for _, memory, _ in part) for part in (early, late))
        assert after <= 1.02 * before, f"{process}: {before / 1e6:.1f} MB, then {after / 1e6:.1f} MB"
        before, after = (median(files for _, _, files in part) for part in (early, late))
        assert after <= before, f"{process}: {before} open files, then {after}"
