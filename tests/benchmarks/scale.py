"""How far one parameter server carries. Run it by `make bench-scale` on a quiet machine.

Measured: runs with 1, 2, ... workers, what a worker spends on an update, and what a push costs the server while others wait.
Simulated from these times: more workers than there are cores, each on a core of its own. A network is not in it.
"""

import argparse
import csv
import itertools
import json
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
from tests.benchmarks.measure import machine
from tests.benchmarks.server_queue import simulate
from tests.benchmarks.training import PARTS, train

WORKERS = (1, 2, 8, 32, 64, 128, 256, 512)
LARGER = (1, 2, 4)  # pushes: a worker with so many times the games takes so many times as long for a rollout
PUSHES = 20_000


def service_seconds(
    config: A3CConfig, *, in_flight: int = 4, pushes: int = 200, bursts: int = 5
) -> np.ndarray:
    """What a push costs the server while others wait for it, (bursts,): gradient from the object store, update, weights into it."""
    connect(None, cpus=2)
    server = ServerActor.options(num_cpus=0).remote(config, None)  # type: ignore[attr-defined]
    gradient, report = RolloutWorker(replace(config, envs_per_worker=1, rollout_steps=1), 0).rollout(0, 0)
    shared, number, found = ray.put(gradient), 0, []  # to put it there is the worker's own cost
    try:
        for _ in range(bursts):
            start, waiting = time.perf_counter(), []
            for _ in range(pushes):
                number += 1
                waiting.append(server.push.remote(shared, replace(report, number=number)))
                if len(waiting) > in_flight:
                    ray.get(waiting.pop(0))
            ray.get(waiting)
            found.append((time.perf_counter() - start) / pushes)
    finally:
        ray.shutdown()
    return np.array(found)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Agent steps a second and time in the queue against workers, a curve for each optimiser and size of push."""
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
        workers, [curve[0]["steps_per_second"] * n for n in workers], "k:", label="no server to wait for"
    )
    left.set(xlabel="workers", ylabel="agent steps a second")
    left.legend()
    right.set(xlabel="workers", ylabel="% of a worker's time in the server's queue")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Seaquest")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--games", type=int, default=16, help="of each worker")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a window")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--curve", help="write the simulated curve to CURVE.csv and CURVE.png")
    arguments = parser.parse_args()
    timing = {"windows": arguments.windows, "seconds": arguments.seconds, "warm_up": arguments.warm_up}
    results: dict[str, Any] = {"machine": machine(), "env": arguments.env, "games": arguments.games}
    print("  ".join(f"{name} {value}" for name, value in results["machine"].items()), flush=True)

    print(f"\n{arguments.env}, head mlp, {arguments.games} games a worker; share of a worker's time")
    print(
        f"  {'workers':8} {'steps/s':>8} {'':18}" + "".join(f"{part:>10}" for part in PARTS) + "  staleness"
    )
    results["measured"], rollouts = {}, np.empty(0)
    for workers in arguments.workers:
        config = A3CConfig(
            env=arguments.env, head="mlp", workers=workers, envs_per_worker=arguments.games, optimizer="adam"
        )
        run = train(config, **timing)
        results["measured"][workers] = {
            "steps_per_second": run.speed.tolist(), "seconds": run.seconds.mean(0).tolist(), "shares": run.shares,
            "staleness": run.staleness,
        }  # fmt: skip
        print(
            f"  {workers:<8} {np.median(run.speed):8.1f} [{run.speed.min():7.1f},{run.speed.max():8.1f}]"
            + "".join(f"{100 * share:8.1f} %" for share in run.shares.values())
            + f"{run.staleness:11.2f}",
            flush=True,
        )
        if not rollouts.size:
            rollouts = run.seconds[:, :2].sum(1)  # undisturbed by others
    print(f"\na rollout with its gradient {rollouts.mean():.2f} s (standard deviation {rollouts.std():.2f})")

    results["rollouts"], results["service"] = rollouts.tolist(), {}
    for optimizer in ("rmsprop", "adam"):
        taken = service_seconds(replace(config, optimizer=optimizer))
        results["service"][optimizer] = taken.tolist()
        print(f"a push costs the server {1e3 * np.median(taken):.1f} ms with {optimizer} "
              f"[{1e3 * taken.min():.1f}, {1e3 * taken.max():.1f}]")  # fmt: skip
    print(f"\nsimulated: one server, {PUSHES:,} pushes")
    print("  optimiser  games  workers  agent steps/s  of what they could do  waiting  staleness")
    rows = []
    for optimizer, larger, workers in itertools.product(results["service"], LARGER, WORKERS):
        service, games = float(np.median(results["service"][optimizer])), larger * arguments.games
        queue = simulate(workers, larger * rollouts, service, pushes=PUSHES, seed=0)
        speed = games * config.rollout_steps * queue.pushes_per_second
        alone = workers * arguments.games * config.rollout_steps / rollouts.mean()
        rows.append({"optimizer": optimizer, "games": games, "workers": workers, "steps_per_second": speed}
                    | asdict(queue))  # fmt: skip
        print(f"  {optimizer:9}  {games:5}  {workers:7}  {speed:13,.0f}  {100 * speed / alone:19.1f} %  "
              f"{100 * queue.waiting:5.1f} %  {queue.staleness:9.1f}")  # fmt: skip
    results["simulated"] = rows
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))
    if arguments.curve:
        with open(f"{arguments.curve}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        draw(rows, Path(f"{arguments.curve}.png"))


if __name__ == "__main__":
    main()
