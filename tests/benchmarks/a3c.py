"""Speed of A3C on an Atari game with learning on, against the classic worker, against its own bound and against RLlib's IMPALA.
Run it by `make bench-a3c` on a quiet machine. Rates are agent steps a second of all workers together.

The bound of a worker that plays and learns in turn is 1 / (1 / games only + 1 / gradients only).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import multiprocessing as processes

from agents.a3c.config import A3CConfig
from agents.a3c.precision import faster_precision
from agents.a3c.worker import RolloutWorker
from envs.atari import AtariGames, Step, action_count, resolve
from neurocoder.networks.conv_lstm import ConvLSTM
from tests.benchmarks import classic_a3c
from tests.benchmarks.measure import Count, machine, rates
from tests.benchmarks.training import Trained, train

HEADS = ("mlp", "neurocoder", "hypernet")


@contextmanager
def many(work: Callable[..., None], *arguments: Any, count: int) -> Iterator[Count]:
    """`work(steps, *arguments)` in so many processes, which add to `steps.value`."""
    context = processes.get_context("spawn")
    steps = [context.Value("q", 0) for _ in range(count)]
    children = [context.Process(target=work, args=(each, *arguments), daemon=True) for each in steps]
    for child in children:
        child.start()
    try:
        yield lambda: sum(each.value for each in steps) if all(each.value for each in steps) else 0
    finally:
        for child in children:
            child.kill()
            child.join()


def only_play(steps: Any, env: str, games: int, threads: int = 1) -> None:
    """Random actions."""
    settings, random = resolve(env), np.random.default_rng(0)
    played, actions = AtariGames(settings, games, threads=threads), action_count(settings.rom)
    played.reset([0])
    while True:
        played.step(random.integers(actions, size=games))
        steps.value += games


class Replayed:
    """Games that have been played before: their steps come at no cost."""

    def __init__(self, games: AtariGames, steps: list[Step]):
        self.count, self.steps, self.number = games.count, steps, 0

    def step(self, actions: np.ndarray) -> Step:
        self.number += 1
        return self.steps[self.number % len(self.steps)]


def only_learn(steps: Any, config: A3CConfig) -> None:
    """Rollouts over the same frames again and again: all that a worker does but playing."""
    torch.set_num_threads(1)
    worker = RolloutWorker(config, 0)
    random = np.random.default_rng(0)
    actions = action_count(resolve(config.env).rom)
    played = [worker.games.step(random.integers(actions, size=worker.games.count)) for _ in range(40)]
    worker.games = Replayed(worker.games, played)  # type: ignore[assignment]
    while True:
        steps.value += worker.rollout(0, 0)[1].steps


def by_turns(
    configs: dict[str, A3CConfig], *, windows: int, seconds: float, warm_up: float
) -> dict[str, list[Trained]]:
    """One run of one window for each, round after round: what the machine does meanwhile falls on all of them."""
    runs: dict[str, list[Trained]] = {name: [] for name in configs}
    for number in range(1, windows + 1):
        for name, config in configs.items():
            runs[name].append(train(config, windows=1, seconds=seconds, warm_up=warm_up))
            print(f"    round {number}: {name} {runs[name][-1].speed[0]:.1f}", flush=True)
    return runs


def summary(runs: list[Trained]) -> dict[str, float]:
    """Rates, share of exchange and memory."""
    return figures(np.concatenate([run.speed for run in runs])) | {
        "exchange_share": float(np.mean([run.shares["exchange"] for run in runs])),
        "resident_gb": max(run.resident for run in runs) / 1e9,
    }


def impala(env: str, games: int, timing: dict[str, float]) -> np.ndarray:
    """RLlib's own IMPALA with its own convolutions and LSTM, one runner."""
    import gymnasium
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.env.wrappers.atari_wrappers import wrap_atari_for_new_api_stack
    from ray.tune.registry import register_env

    rom = resolve(env).rom
    name = next(
        i for i in gymnasium.registry if i.startswith("ALE/") and gymnasium.spec(i).kwargs["game"] == rom
    )

    def make(_: Any) -> gymnasium.Env:
        import ale_py

        gymnasium.register_envs(ale_py)
        game = gymnasium.make(name, frameskip=1, repeat_action_probability=0.0)
        return wrap_atari_for_new_api_stack(game, dim=64)

    register_env("stock-atari", make)
    config = (
        IMPALAConfig()
        .environment("stock-atari", clip_rewards=True)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=games, rollout_fragment_length=20)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=20 * games, lr=4e-4, grad_clip=40.0)
        .rl_module(
            model_config=DefaultModelConfig(
                conv_filters=[[16, 4, 2], [32, 4, 2], [64, 4, 2], [128, 4, 2]], conv_activation="relu",
                head_fcnet_hiddens=[256], use_lstm=True, lstm_cell_size=256, max_seq_len=20,
            )
        )
        .reporting(min_time_s_per_iteration=0)
        .debugging(log_level="ERROR")
    )  # fmt: skip
    from agents.ray_cluster import connect

    connect(None, cpus=4)
    algorithm = config.build_algo()
    steps = 0

    def count() -> int:
        nonlocal steps
        learnt = algorithm.train().get("learners", {}).get("__all_modules__", {})
        steps = int(learnt.get("num_env_steps_trained_lifetime", steps))
        return steps

    try:
        return driven_rates(count, **timing)
    finally:
        algorithm.stop()
        ray.shutdown()


def driven_rates(count: Count, *, windows: int, seconds: float, warm_up: float) -> np.ndarray:
    """As `rates`, of something that goes on only while it is asked."""
    while count() == 0:
        pass
    found, until = [], time.perf_counter() + warm_up
    while time.perf_counter() < until:
        count()
    for _ in range(windows):
        before, start = count(), time.perf_counter()
        while time.perf_counter() < start + seconds:
            after = count()
        found.append((after - before) / (time.perf_counter() - start))
    return np.array(found)


def figures(speed: np.ndarray) -> dict[str, float]:
    return {
        "steps_per_second": float(np.median(speed)),
        "low": float(speed.min()),
        "high": float(speed.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="Seaquest")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--games", type=int, default=32, help="of each worker")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of a window")
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds")
    parser.add_argument(
        "--rllib-games",
        type=int,
        nargs="*",
        default=[8, 16, 32],
        help="of RLlib's IMPALA; none: leave it out",
    )
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--json", help="write the figures here")
    arguments = parser.parse_args()
    precision = arguments.precision
    if precision == "auto":
        precision = faster_precision(ConvLSTM(6), games=arguments.games)
    timing = {"windows": arguments.windows, "seconds": arguments.seconds, "warm_up": arguments.warm_up}
    env, workers = arguments.env, arguments.workers
    results: dict[str, Any] = {
        "machine": machine() | {"precision": precision},
        "env": env,
        "workers": workers,
        "rows": {},
    }
    print("  ".join(f"{name} {value}" for name, value in results["machine"].items()), flush=True)
    rows = results["rows"]

    def show(name: str, row: dict[str, Any]) -> None:
        rows[name] = row
        more = "".join(
            f"   {key} {value:.3f}"
            for key, value in row.items()
            if key not in ("steps_per_second", "low", "high")
        )
        print(
            f"  {name:32} {row['steps_per_second']:8.1f} [{row['low']:.1f}, {row['high']:.1f}]{more}",
            flush=True,
        )

    print(
        f"\n{env}, {workers} workers, agent steps a second: median of {arguments.windows} windows [lowest, highest]"
    )
    count, end = classic_a3c.start(env, workers)
    try:
        show("classic worker, 1 game", figures(rates(count, **timing)))
    finally:
        end()
    config = A3CConfig(
        env=env, head="mlp", workers=workers, envs_per_worker=arguments.games, precision=precision
    )
    with many(only_play, env, arguments.games, count=workers) as count:
        show("games only", figures(rates(count, **timing)))
    with many(only_learn, config, count=workers) as count:
        show("acting and gradients only", figures(rates(count, **timing)))
    runs = by_turns({head: replace(config, head=head) for head in HEADS}, **timing)
    for head in HEADS:
        show(f"A3C, {head}", summary(runs[head]))
    for games in arguments.rllib_games:
        show(f"RLlib IMPALA, 1 x {games} games", figures(impala(env, games, timing)))

    speed = {name: row["steps_per_second"] for name, row in rows.items()}
    bound = 1 / (1 / speed["games only"] + 1 / speed["acting and gradients only"])
    a3c = speed["A3C, mlp"]
    ratios = {
        "against the classic worker": a3c / speed["classic worker, 1 game"],
        "of the bound": a3c / bound,
    }
    rounds = {
        f"head {head} against mlp": [
            run.speed[0] / plain.speed[0] for run, plain in zip(runs[head], runs["mlp"], strict=True)
        ]
        for head in HEADS[1:]
    }
    ratios |= {name: float(np.median(of_rounds)) for name, of_rounds in rounds.items()}
    if stock := [rate for name, rate in speed.items() if name.startswith("RLlib")]:
        ratios["against RLlib's best IMPALA"] = a3c / max(stock)
    results |= {"ratios": ratios, "ratios_of_rounds": rounds}
    print()
    for name, ratio in ratios.items():
        spread = f" [{min(rounds[name]):.2f}, {max(rounds[name]):.2f}]" if name in rounds else ""
        print(f"  {name:32} {ratio:6.2f}{spread}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
