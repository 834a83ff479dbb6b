"""The number of workers that one parameter server can serve.

Run this benchmark with `make bench-scale` on a quiet machine. It measures runs with 1, 2, ... workers: a
worker's time for an update, and a push's cost to the server while others wait. From these times the
benchmark simulates more workers than the machine has cores, each with a core to itself and without a
network.
"""

import argparse
import csv
import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from agents.a3c.config import A3CConfig
from agents.a3c.ray_training import ServerActor
from agents.a3c.worker import RolloutWorker
from agents.ray_cluster import connect
from tests.benchmarks.measure import machine, show, write_figures
from tests.benchmarks.server_queue import simulate
from tests.benchmarks.training import PARTS, Trained, train

WORKERS = (1, 2, 8, 32, 64, 128, 256, 512)
# Factors for the games of a worker. A rollout takes longer by the same factor.
LARGER = (1, 2, 4)
PUSHES = 20_000


def service_seconds(
    config: A3CConfig, *, in_flight: int = 4, pushes: int = 200, bursts: int = 5
) -> np.ndarray:
    """Returns the seconds that a push costs the server while others wait, (bursts,).

    A push takes the gradient from the object store, makes the update and puts the weights into the store.
    """
    gradient, report = RolloutWorker(replace(config, envs_per_worker=1, rollout_steps=1), 0).rollout(0, 0)
    with connect(None, cpus=2):
        server = ServerActor.options(num_cpus=0).remote(config, None)  # type: ignore[attr-defined]
        # Putting the gradient into the object store is the worker's cost.
        shared, number, seconds = ray.put(gradient), 0, []
        for _ in range(bursts):
            start, waiting = time.perf_counter(), []
            for _ in range(pushes):
                number += 1
                waiting.append(server.push.remote(shared, replace(report, number=number)))
                if len(waiting) > in_flight:
                    ray.get(waiting.pop(0))
            ray.get(waiting)
            seconds.append((time.perf_counter() - start) / pushes)
    return np.array(seconds)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws steps a second and time in the queue against workers, for each optimiser and size of push."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (optimizer, games), group in itertools.groupby(
        rows, key=lambda row: (row["optimizer"], row["games"])
    ):
        curve = list(group)
        workers = [row["workers"] for row in curve]
        label = f"{optimizer}, {games} games a worker"
        left.loglog(workers, [row["steps_per_second"] for row in curve], "o-", label=label)
        right.semilogx(workers, [100 * row["waiting"] for row in curve], "o-")
    left.loglog(
        workers,
        [curve[0]["steps_per_second"] * n for n in workers],
        "k:",
        label="without waiting for the server",
    )
    left.set(xlabel="workers", ylabel="agent steps a second")
    left.legend()
    right.set(xlabel="workers", ylabel="% of a worker's time in the server's queue")
    figure.savefig(path, dpi=120)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Seaquest")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--games", type=int, default=16, help="games of each worker")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a window")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds before the first window")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--curve", help="write the simulated curve to CURVE.csv and CURVE.png")
    return parser.parse_args()


def measure_runs(configs: list[A3CConfig], timing: dict[str, Any]) -> dict[int, Trained]:
    """Trains with each number of workers."""
    columns = "".join(f"{part:>10}" for part in PARTS)
    print(
        f"\n{configs[0].env}, head mlp, {configs[0].envs_per_worker} games a worker; share of a worker's time"
    )
    print(f"  {'workers':8} {'steps/s':>8} {'':18}{columns}  staleness")
    runs = {}
    for config in configs:
        run = runs[config.workers] = train(config, **timing)
        shares = "".join(f"{100 * share:8.1f} %" for share in run.shares.values())
        print(
            f"  {config.workers:<8} {np.median(run.speed):8.1f} [{run.speed.min():7.1f},{run.speed.max():8.1f}]"
            f"{shares}{run.staleness:11.2f}",
            flush=True,
        )
    return runs


def measure_service(config: A3CConfig) -> dict[str, np.ndarray]:
    """Measures what a push costs the server with each optimiser."""
    service = {}
    for optimizer in ("rmsprop", "adam"):
        seconds = service[optimizer] = service_seconds(replace(config, optimizer=optimizer))
        print(
            f"a push costs the server {1e3 * np.median(seconds):.1f} ms with {optimizer} "
            f"[{1e3 * seconds.min():.1f}, {1e3 * seconds.max():.1f}]"
        )
    return service


def simulate_runs(
    config: A3CConfig, rollouts: np.ndarray, service: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Simulates every optimiser, size of push and number of workers. Returns the rows of the curve."""
    print(f"\nsimulated: one server, {PUSHES:,} pushes")
    print("  optimiser  games  workers  agent steps/s  of what they could do  waiting  staleness")
    rows = []
    for optimizer, larger, workers in itertools.product(service, LARGER, WORKERS):
        games = larger * config.envs_per_worker
        push_seconds = float(np.median(service[optimizer]))
        queue = simulate(workers, larger * rollouts, push_seconds, pushes=PUSHES, seed=0)
        speed = games * config.rollout_steps * queue.pushes_per_second
        alone = workers * config.envs_per_worker * config.rollout_steps / rollouts.mean()
        row = {"optimizer": optimizer, "games": games, "workers": workers, "steps_per_second": speed}
        rows.append(row | asdict(queue))
        print(
            f"  {optimizer:9}  {games:5}  {workers:7}  {speed:13,.0f}  {100 * speed / alone:19.1f} %  "
            f"{100 * queue.waiting:5.1f} %  {queue.staleness:9.1f}"
        )
    return rows


def write_curve(rows: list[dict[str, Any]], path: str) -> None:
    with open(f"{path}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, Path(f"{path}.png"))


def main() -> None:
    arguments = parse_arguments()
    timing = {"windows": arguments.windows, "seconds": arguments.seconds, "warm_up": arguments.warm_up}
    about = machine()
    show(about)
    config = A3CConfig(env=arguments.env, head="mlp", envs_per_worker=arguments.games, optimizer="adam")
    runs = measure_runs([replace(config, workers=workers) for workers in arguments.workers], timing)
    # The first run has the fewest other workers that disturb a rollout.
    rollouts = runs[arguments.workers[0]].seconds[:, :2].sum(1)
    print(f"\na rollout with its gradient {rollouts.mean():.2f} s (standard deviation {rollouts.std():.2f})")
    service = measure_service(config)
    rows = simulate_runs(config, rollouts, service)
    figures = {
        "machine": about,
        "env": arguments.env,
        "games": arguments.games,
        "measured": {
            workers: {
                "steps_per_second": run.speed.tolist(), "seconds": run.seconds.mean(0).tolist(), "shares": run.shares,
                "staleness": run.staleness,
            }
            for workers, run in runs.items()
        },
        "rollouts": rollouts.tolist(),
        "service": {optimizer: seconds.tolist() for optimizer, seconds in service.items()},
        "simulated": rows,
    }  # fmt: skip
    write_figures(arguments.json, figures)
    if arguments.curve:
        write_curve(rows, arguments.curve)


if __name__ == "__main__":
    main()
