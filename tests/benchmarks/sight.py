"""Whether networks still see their frames after their first updates, game by game.

    python -m tests.benchmarks.sight --games Boxing,Breakout --steps 20_000 --csv sight.csv \\
        --variant base: --variant "small rate:--learning-rate 1e-4" -- --preset two-cores --head mlp

Each variant trains in this process, without Ray. Its network then watches 4 games of 200 steps with random actions,
the same for all variants. What counts is the deviation of the LSTM's outputs over these frames, as a share of that of
the fresh network. A network is blind if little is left: its policy is the same for all frames. Settings after `--`
are those of all variants, as for launch.train.
"""

import argparse
import csv
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.a3c.config import A3CConfig
from agents.a3c.local_training import LocalTraining
from agents.actor_critic.diagnostics import describe_network
from envs.atari import AtariGames, action_count
from launch.command_line import atari
from launch.train import PROGRAM, Arguments
from neurocoder.networks.recurrent import RecurrentActorCritic
from tests.benchmarks.measure import machine, split_settings

GAMES, STEPS = 4, 200


def random_play(config: A3CConfig) -> tuple[Tensor, Tensor]:
    """Returns observations (T, N, C, 80, 80) of random play, and where episodes start (T, N)."""
    settings, random = config.game(), np.random.default_rng(0)
    games = AtariGames(settings, GAMES)
    observations, starts = [games.reset([99])], [np.ones(GAMES, dtype=bool)]
    for _ in range(STEPS - 1):
        step = games.step(random.integers(action_count(settings.rom), size=GAMES))
        observations.append(step.observation)
        starts.append(step.start)
    games.close()
    return torch.from_numpy(np.stack(observations)), torch.from_numpy(np.stack(starts))


@torch.no_grad()
def sight(network: RecurrentActorCritic, observations: Tensor, starts: Tensor) -> dict[str, float]:
    """Returns what `describe_network` says of a network that watches random play."""
    features = torch.stack([network.features(frames) for frames in observations])
    hidden, _ = network.recur(features, network.initial_state(GAMES), starts)
    return describe_network(features, hidden, network.lstm_weights())


def look(config: A3CConfig, steps: int) -> dict[str, float]:
    """Trains, and returns the sight of the network, with its deviation as a share of the fresh network's."""
    watched, training = random_play(config), LocalTraining(config)
    try:
        network = training.worker.network
        training.worker.load(training.server.pull().vector)
        fresh = sight(network, *watched)["network/lstm_deviation"]
        while training.server.env_steps < steps:
            training.advance()
        training.worker.load(training.server.pull().vector)
        now = sight(network, *watched)
    finally:
        training.close()
    return {"share": now["network/lstm_deviation"] / fresh} | {tag.split("/")[1]: x for tag, x in now.items()}


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the arguments, and the settings of all variants after `--`."""
    ours, common = split_settings(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--games", default="Boxing,Assault,Breakout,Qbert,Seaquest,Freeway")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--variant", action="append", default=[], help="name:flags of launch.train")
    parser.add_argument("--csv", type=Path)
    return parser.parse_args(ours), common


def rows(arguments: argparse.Namespace, common: list[str]) -> Iterator[dict[str, Any]]:
    for game in arguments.games.split(","):
        for variant in arguments.variant or ["default:"]:
            name, flags = variant.split(":", 1)
            words = ["--env", game, *common, *shlex.split(flags), "--workers", "0"]
            config = atari.parse(PROGRAM, Arguments, words, None).config
            began = time.perf_counter()
            seen = look(
                replace(config, total_steps=max(config.total_steps, arguments.steps)), arguments.steps
            )
            yield dict(
                variant=name,
                game=game,
                head=config.head,
                network=config.network,
                seed=config.seed,
                steps=arguments.steps,
                **{key: round(value, 5) for key, value in seen.items()},
                seconds=round(time.perf_counter() - began),
                commit=machine()["commit"],
                settings=shlex.join([*common, *shlex.split(flags)]),
            )


def main() -> None:
    torch.set_num_threads(1)
    arguments, common = parse(sys.argv[1:])
    for row in rows(arguments, common):
        print("  ".join(f"{name} {value}" for name, value in list(row.items())[:10]), flush=True)
        if arguments.csv:
            new = not arguments.csv.exists()
            with arguments.csv.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
