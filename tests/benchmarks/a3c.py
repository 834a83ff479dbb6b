"""Speed of A3C on an Atari game with learning on.

Run this benchmark with `make bench-a3c` on a quiet machine. It compares A3C with the classic worker, with the
bound of a worker and with RLlib's IMPALA. Rates are agent steps a second of all workers together. The
bound of a worker that plays and learns in turn is 1 / (1 / games only + 1 / gradients only).
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from agents.a3c.config import A3CConfig
from agents.a3c.precision import faster_precision
from neurocoder.networks.conv_lstm import ConvLSTM
from tests.benchmarks.classic_a3c import classic_workers
from tests.benchmarks.measure import machine, rate_figures, rates, show, write_figures
from tests.benchmarks.rllib_impala import impala_rates
from tests.benchmarks.training import Trained, train
from tests.benchmarks.worker_parts import in_processes, only_learn, only_play

HEADS = ("mlp", "neurocoder", "hypernet")
CLASSIC, GAMES, LEARNING = "classic worker, 1 game", "games only", "acting and gradients only"

Figures = dict[str, float]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Seaquest")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--games", type=int, default=32, help="games of each worker")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a window")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds before the first window")
    parser.add_argument(
        "--rllib-games",
        type=int,
        nargs="*",
        default=[8, 16, 32],
        help="games of RLlib's IMPALA, a run for each number; without a number IMPALA is left out",
    )
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args()


def measure_parts(config: A3CConfig, timing: dict[str, Any]) -> Iterator[tuple[str, Figures]]:
    """Measures the classic worker, and the two parts of a worker's work alone."""
    with classic_workers(config.env, config.workers) as count:
        yield CLASSIC, rate_figures(rates(count, **timing))
    with in_processes(only_play, config.env, config.envs_per_worker, count=config.workers) as count:
        yield GAMES, rate_figures(rates(count, **timing))
    with in_processes(only_learn, config, count=config.workers) as count:
        yield LEARNING, rate_figures(rates(count, **timing))


def measure_by_turns(
    configs: dict[str, A3CConfig], *, windows: int, seconds: float, warm_up: float
) -> dict[str, list[Trained]]:
    """Makes one run of one window for each, round after round, so that disturbances fall on all of them."""
    runs: dict[str, list[Trained]] = {name: [] for name in configs}
    for number in range(1, windows + 1):
        for name, config in configs.items():
            runs[name].append(train(config, windows=1, seconds=seconds, warm_up=warm_up))
            print(f"    round {number}: {name} {runs[name][-1].speed[0]:.1f}", flush=True)
    return runs


def summarise(runs: list[Trained]) -> Figures:
    """Returns the rates, the share of the exchange and the memory."""
    return rate_figures(np.concatenate([run.speed for run in runs])) | {
        "exchange_share": float(np.mean([run.shares["exchange"] for run in runs])),
        "resident_gb": max(run.resident for run in runs) / 1e9,
    }


def show_rows(rows: Iterable[tuple[str, Figures]]) -> dict[str, Figures]:
    """Prints each row as soon as it is measured. Returns all of them."""
    shown = {}
    for name, row in rows:
        shown[name] = row
        rate, low, high, *_ = row.values()
        more = "".join(f"   {key} {value:.3f}" for key, value in list(row.items())[3:])
        print(f"  {name:32} {rate:8.1f} [{low:.1f}, {high:.1f}]{more}", flush=True)
    return shown


def compare_rounds(runs: dict[str, list[Trained]]) -> dict[str, list[float]]:
    """Returns the ratio of each head's speed to the plain head's, round by round."""
    plain = [run.speed[0] for run in runs["mlp"]]
    return {
        f"head {head} against mlp": [
            run.speed[0] / speed for run, speed in zip(runs[head], plain, strict=True)
        ]
        for head in HEADS[1:]
    }


def compare_rows(rows: dict[str, Figures], rounds: dict[str, list[float]]) -> dict[str, float]:
    speed = {name: row["steps_per_second"] for name, row in rows.items()}
    a3c, bound = speed["A3C, mlp"], 1 / (1 / speed[GAMES] + 1 / speed[LEARNING])
    ratios = {"against the classic worker": a3c / speed[CLASSIC], "of the bound": a3c / bound}
    ratios |= {name: float(np.median(values)) for name, values in rounds.items()}
    if stock := [rate for name, rate in speed.items() if name.startswith("RLlib")]:
        ratios["against RLlib's best IMPALA"] = a3c / max(stock)
    return ratios


def show_ratios(ratios: dict[str, float], rounds: dict[str, list[float]]) -> None:
    print()
    for name, ratio in ratios.items():
        spread = f" [{min(rounds[name]):.2f}, {max(rounds[name]):.2f}]" if name in rounds else ""
        print(f"  {name:32} {ratio:6.2f}{spread}")


def main() -> None:
    arguments = parse_arguments()
    env, workers, games, precision = arguments.env, arguments.workers, arguments.games, arguments.precision
    timing = {"windows": arguments.windows, "seconds": arguments.seconds, "warm_up": arguments.warm_up}
    if precision == "auto":
        precision = faster_precision(ConvLSTM(6), games=games)
    about = machine() | {"precision": precision}
    show(about)
    print(
        f"\n{env}, {workers} workers, agent steps a second: "
        f"median of {arguments.windows} windows [lowest, highest]"
    )
    config = A3CConfig(env=env, head="mlp", workers=workers, envs_per_worker=games, precision=precision)
    rows = show_rows(measure_parts(config, timing))
    runs = measure_by_turns({head: replace(config, head=head) for head in HEADS}, **timing)
    rows |= show_rows((f"A3C, {head}", summarise(runs[head])) for head in HEADS)
    rows |= show_rows(
        (f"RLlib IMPALA, 1 x {count} games", rate_figures(impala_rates(env, count, timing)))
        for count in arguments.rllib_games
    )
    rounds = compare_rounds(runs)
    ratios = compare_rows(rows, rounds)
    show_ratios(ratios, rounds)
    figures = {"machine": about, "env": env, "workers": workers, "rows": rows}
    write_figures(arguments.json, figures | {"ratios": ratios, "ratios_of_rounds": rounds})


if __name__ == "__main__":
    main()
