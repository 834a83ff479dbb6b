"""Plays full Atari games with saved policies, and prints their scores with the settings that make them comparable.

    python -m launch.evaluate runs/Pong-neurocoder-... --episodes 30 --video game.mp4 --json scores.json
    python -m launch.evaluate runs/Pong-neurocoder-... --all --csv scores.csv

A policy is a run folder (its newest checkpoint, with --best its best one, with --all every one) or a checkpoint
folder. Scores are the games' own, not clipped, over full games, not lives. The human-normalised score is 0 for
random play and 1 for human play.
"""

import csv
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import CheckpointError
from agents.runs.progress import GamesProgress
from envs.atari import AtariSettings
from launch.command_line.errors import fail


@dataclass(frozen=True)
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders or checkpoint folders, one or more."""
    episodes: int = 30
    """Full games to play with each policy."""
    best: bool = False
    """Take each run's best checkpoint: by its evaluations, or if it has none by its last training games."""
    all: bool = False
    """Play with every checkpoint of each run, and print a table with the best of them marked."""
    sticky: float | None = None
    """Probability of sticky actions; as in training if not given. 0.25 is the setting of Machado et al. 2018."""
    life_loss_terminates: Annotated[bool | None, tyro.conf.DisallowNone] = None
    """Let a lost life end an episode for the policy, whose memory is then empty; as in training if not given."""
    greedy: bool = False
    """Take the likeliest action instead of sampling."""
    seed: int = 1
    """Seed of games and actions."""
    video: Path | None = None
    """Write the first game to this .mp4 file (one policy only)."""
    json: Path | None = None
    """Write the results to this file."""
    csv: Path | None = None
    """Write the results to this file, a row for each policy."""

    def check(self) -> None:
        """ValueError, in one line, for a setting out of range."""
        if not self.runs:
            raise ValueError(
                "no run given; name one or more run folders, as in python -m launch.evaluate runs/<run>"
            )
        if self.episodes < 1:
            raise ValueError(f"--episodes is {self.episodes}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; it must be 0 or more")
        if self.sticky is not None and not 0 <= self.sticky <= 1:
            raise ValueError(f"--sticky is {self.sticky}; it must be a probability from 0 to 1")
        if self.all and self.best:
            raise ValueError("--all and --best cannot both be given; --all marks the best checkpoint")
        if self.video is not None:
            self._check_video(self.video)
        for file in (self.video, self.json, self.csv):
            if file is not None and not file.absolute().parent.is_dir():
                raise ValueError(f"{file}: its folder does not exist; make it or name another file")
            if file is not None and file.is_dir():
                raise ValueError(f"{file}: is a folder; name a file")

    def _check_video(self, video: Path) -> None:
        if self.all or len(self.runs) > 1:
            given = "--all is given" if self.all else f"{len(self.runs)} runs are given"
            raise ValueError(f"--video shows one policy, but {given}")
        if video.suffix != ".mp4":
            raise ValueError(f"--video {video} must end in .mp4")
        try:
            import launch.results.video  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"--video needs OpenCV, which cannot be loaded here ({error}); on Debian: apt install libgl1 libglib2.0-0"
            ) from error


def play_with(checkpoint: Path, arguments: Arguments, *, name: str) -> dict[str, Any]:
    """The result of one checkpoint, with a progress line meanwhile. Raises CheckpointError, or OSError for the video.

    Args:
        name: of the checkpoint in the progress line.
    """
    from agents.runs.evaluation import evaluate

    with ExitStack() as stack:
        on_screen = None
        if arguments.video is not None:
            from launch.results.video import VideoWriter

            writer = VideoWriter(arguments.video, size=(210, 160), fps=60 / AtariSettings.frame_skip)
            on_screen = stack.enter_context(writer).write
        return evaluate(
            checkpoint,
            episodes=arguments.episodes,
            sticky=arguments.sticky,
            life_loss_terminates=arguments.life_loss_terminates,
            greedy=arguments.greedy,
            seed=arguments.seed,
            on_screen=on_screen,
            on_progress=GamesProgress(arguments.episodes, name=name),
        )


def results_of(run: Path, arguments: Arguments, checkpoints: list[Path]) -> Iterator[dict[str, Any]]:
    """The results of a run: of all its checkpoints, oldest first, or of the first that can be used."""
    for number, checkpoint in enumerate(reversed(checkpoints) if arguments.all else checkpoints, start=1):
        name = f"checkpoint {number} of {len(checkpoints)}" if arguments.all else checkpoint.name
        try:
            yield play_with(checkpoint, arguments, name=name)
        except CheckpointError as error:
            print(f"warning: skipped a checkpoint that cannot be used: {error}", file=sys.stderr)
            continue
        except OSError as error:
            fail(error, status=1)
        if not arguments.all:
            return


def show(result: dict[str, Any]) -> None:
    """Prints one policy's result."""
    low, high = result["iqm_ci95"]
    lengths = result["episode_lengths"]
    print(
        f"{result['run']}\n"
        f"  {_policy(result)}, {result['env_steps']:,} steps "
        f"({result['env_steps'] * result['settings']['frame_skip']:,} frames) of training\n"
        f"  mean {result['mean']:.2f}   median {result['median']:.2f}   "
        f"interquartile mean {result['iqm']:.2f} (95 % interval {low:.2f} to {high:.2f})\n"
        f"  human-normalised score {_human(result)} (0: random play, 1: human play)\n"
        f"  length {np.mean(lengths):,.0f} steps (from {min(lengths):,} to {max(lengths):,})\n"
        f"{_conditions(result)}",
        flush=True,
    )


def table(run: Path, results: list[dict[str, Any]]) -> str:
    """All checkpoints of a run, the best marked with a star."""
    lines = [
        f"{run}: {_policy(results[0])}",
        f"{'steps':>13} {'mean':>10}   {'95 % interval':22} {'length':>8} {'human-normalised':>17}",
    ]
    for result in results:
        low, high = result["mean_ci95"]
        lines.append(
            f"{'*' if result['best'] else ' '} {result['env_steps']:>11,} {result['mean']:10.2f}   "
            f"{f'{low:.2f} to {high:.2f}':22} {result['mean_length']:8,.0f} {_human(result):>17}"
        )
    lines += ["* best mean; human-normalised score: 0 is random play, 1 human play", _conditions(results[0])]
    return "\n".join(lines)


def write_csv(path: Path, results: list[dict[str, Any]]) -> None:
    """A row for each result. Raises OSError."""
    rows = [
        {
            "run": result["run"],
            "env": result["env"],
            "head": result["head"],
            "env_steps": result["env_steps"],
            "episodes": len(result["episode_returns"]),
            "mean": result["mean"],
            "mean_low": result["mean_ci95"][0],
            "mean_high": result["mean_ci95"][1],
            "median": result["median"],
            "iqm": result["iqm"],
            "mean_length": result["mean_length"],
            "human_normalised_mean": result["human_normalised_mean"],
            "best": result.get("best", ""),
        }
        for result in results
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _policy(result: dict[str, Any]) -> str:
    return f"{result['env']}, {result['head']} head"


def _human(result: dict[str, Any]) -> str:
    human = result["human_normalised_mean"]
    return "unknown" if human is None else f"{human:.2f}"


def _conditions(result: dict[str, Any]) -> str:
    """What makes scores comparable, in lines of less than 80 characters."""
    settings, games = result["settings"], len(result["episode_returns"])
    life = "ends an episode" if settings["life_loss_terminates"] else "ends no episode"
    return (
        f"  {games} full game{'s' * (games > 1)}, seed {settings['seed']}, "
        f"actions {'greedy' if settings['greedy'] else 'sampled'}, scores not clipped\n"
        f"  sticky actions {settings['sticky']}, frame skip {settings['frame_skip']}, "
        f"fewer than {settings['noop_max']} no-op frames at the start\n"
        f"  at most {settings['max_frames']:,} frames; a lost life {life}, "
        f"FIRE {'pressed' if settings['fire_after_life_loss'] else 'not pressed'} after it"
    )


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python -m launch.evaluate", description=__doc__)
    try:
        arguments.check()
        checkpoints = [find_checkpoints(run, best=arguments.best) for run in arguments.runs]
    except ValueError as error:
        fail(error)
    results: list[dict[str, Any]] = []
    stopped = False
    for run, candidates in zip(arguments.runs, checkpoints, strict=True):
        found: list[dict[str, Any]] = []
        try:
            for result in results_of(run, arguments, candidates):
                found.append(result)
        except KeyboardInterrupt:
            stopped = True
        if found and arguments.all:
            best = max(found, key=lambda result: result["mean"])
            found = [result | {"best": result is best} for result in found]
            print(table(run, found), flush=True)
        elif found:
            show(found[0])
        elif not stopped:
            fail(f"{run} has no checkpoint that can be used")
        results += found
        if stopped:
            break
    if results:
        write(arguments, results)
    if stopped:
        print(f"stopped; {len(results)} policies were played to the end of their games", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT)


def write(arguments: Arguments, results: list[dict[str, Any]]) -> None:
    """Writes the files asked for."""
    if arguments.video is not None:
        print(f"video of the first game: {arguments.video}")
    try:
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        if arguments.csv is not None:
            write_csv(arguments.csv, results)
    except OSError as error:
        fail(error, status=1)


if __name__ == "__main__":
    main()
