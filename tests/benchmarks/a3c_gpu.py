"""Speed of A3C with learning on and its workers on one GPU.

1, 2 and 4 workers share the GPU and all cores. Rates are agent steps a second of all workers together. The
use of the GPU, as nvidia-smi reports it, is the share of time in which the GPU has work.

    python -m tests.benchmarks.a3c_gpu
"""

import argparse
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
import torch

from agents.a3c.config import A3CConfig
from tests.benchmarks.measure import machine, rate_figures, rates, show, write_figures
from tests.benchmarks.training import train
from tests.benchmarks.worker_parts import in_processes, only_play


@contextmanager
def gpu_use() -> Iterator[list[tuple[float, float, float]]]:
    """Looks at the GPU twice a second. Yields a list that is filled at the end.

    An entry is the time as by `time.time()`, the use in per cent and the memory in MiB.
    """
    command = [
        "nvidia-smi",
        "--query-gpu=timestamp,utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
    ]
    looks: list[tuple[float, float, float]] = []
    watcher = subprocess.Popen([*command, "--loop-ms=500"], stdout=subprocess.PIPE, text=True)
    try:
        yield looks
    finally:
        watcher.terminate()
        for line in watcher.communicate()[0].splitlines():
            local_time, used, memory = line.split(", ")
            moment = datetime.strptime(local_time, "%Y/%m/%d %H:%M:%S.%f").timestamp()
            looks.append((moment, float(used), float(memory)))


def measure(config: A3CConfig, timing: dict[str, Any]) -> dict[str, float]:
    """Measures games alone, and then a run with the use of the GPU."""
    games, threads = config.envs_per_worker, config.cpus_per_worker
    with in_processes(only_play, config.env, games, threads, count=config.workers) as count:
        play = rate_figures(rates(count, **timing))
    with gpu_use() as looks:
        run = train(config, **timing)
    begin = run.ended - timing["windows"] * timing["seconds"]
    _, used, memory = np.array([look for look in looks if begin <= look[0] <= run.ended]).mean(0)
    row = rate_figures(run.speed) | {"games only": play["steps_per_second"], "gpu_percent": used}
    return row | {"gpu_gb": memory / 1024} | run.shares | {"resident_gb": run.resident / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Seaquest")
    parser.add_argument("--head", default="neurocoder")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--games", type=int, default=512, help="games of all workers together")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a window")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds before the first window")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no CUDA device")
    timing = {"windows": arguments.windows, "seconds": arguments.seconds, "warm_up": arguments.warm_up}
    about, rows = machine(), {}
    show(about)
    for workers in arguments.workers:
        config = A3CConfig(
            env=arguments.env,
            head=arguments.head,
            workers=workers,
            envs_per_worker=arguments.games // workers,
            cpus_per_worker=(os.cpu_count() or 1) // workers,
            gpus_per_worker=1 / workers,
        )
        name = f"{workers} x {config.envs_per_worker} games"
        row = rows[name] = measure(config, timing)
        show({f"  {name}": ""} | {key: f"{value:.4g}" for key, value in row.items()})
    write_figures(arguments.json, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
