"""Speed of A3C with its workers on one GPU, learning on: 1, 2 and 4 workers that share it and all cores. Rates are agent
steps a second of all workers together; the use of the GPU is what nvidia-smi says, the share of time in which it has work.

    python -m tests.benchmarks.a3c_gpu
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.a3c.config import A3CConfig
from tests.benchmarks.a3c import figures, many, only_play
from tests.benchmarks.measure import machine, rates
from tests.benchmarks.training import train


@contextmanager
def gpu_use() -> Iterator[list[tuple[float, float, float]]]:
    """When (as `time.time()`), per cent of the time and MiB, looked at twice a second; the list is full at the end."""
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
            at, used, memory = line.split(", ")
            when = datetime.strptime(at, "%Y/%m/%d %H:%M:%S.%f").timestamp()  # local time
            looks.append((when, float(used), float(memory)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Seaquest")
    parser.add_argument("--head", default="neurocoder")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--games", type=int, default=512, help="of all workers together")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a window")
    parser.add_argument("--warm-up", type=float, default=5.0, help="seconds")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no CUDA device")
    timing = {"windows": arguments.windows, "seconds": arguments.seconds, "warm_up": arguments.warm_up}
    results: dict[str, Any] = {"machine": machine(), "rows": {}}
    print("  ".join(f"{name} {value}" for name, value in results["machine"].items()), flush=True)
    cores = os.cpu_count() or 1
    for workers in arguments.workers:
        games, threads = arguments.games // workers, cores // workers
        with many(only_play, arguments.env, games, threads, count=workers) as count:
            play = figures(rates(count, **timing))
        config = A3CConfig(
            env=arguments.env,
            head=arguments.head,
            workers=workers,
            envs_per_worker=games,
            cpus_per_worker=threads,
            gpus_per_worker=1 / workers,
        )
        with gpu_use() as looks:
            run = train(config, **timing)
        begin = run.ended - timing["windows"] * timing["seconds"]
        _, used, memory = np.array([look for look in looks if begin <= look[0] <= run.ended]).mean(0)
        row = figures(run.speed) | {"games only": play["steps_per_second"], "gpu_percent": used}
        row |= {"gpu_gb": memory / 1024} | run.shares | {"resident_gb": run.resident / 1e9}
        results["rows"][f"{workers} x {games} games"] = row
        print(
            f"  {workers} x {games:3} games  " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
