"""Plays full Atari games with saved policies, and prints their scores.

    python -m launch.evaluate runs/Pong-neurocoder-... --episodes 30 --video game.mp4 --json scores.json
    python -m launch.evaluate runs/Pong-neurocoder-... --all --csv scores.csv

A policy is a checkpoint folder or a run folder. Of a run, the newest checkpoint plays, with --best the best
one, with --all every one. A game is played to its end, not to the first lost life, and its score is not
clipped. The human-normalised score is 0 for random play and 1 for human play. The settings that make scores
comparable are printed, too.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agents.runs.best import find_checkpoints
from launch.command_line.command import command
from launch.command_line.errors import check_output, check_paths, fail
from launch.command_line.parsing import read_arguments
from launch.experiments.interruption import Stopped, unwinding
from launch.results.evaluation import mark_best, results_of, show, table, write_scores
from neurocoder.checks import check_at_least, check_fraction


@dataclass(frozen=True)
class Arguments:
    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="", metavar="RUN ...")
    ]
    """Run folders or checkpoint folders, one or more."""
    episodes: int = 30
    """Number of full games to play with each policy."""
    best: bool = False
    """Play with each run's best checkpoint: the one whose evaluation had the highest mean score.
    A run without evaluations is judged by its last training games."""
    all: bool = False
    """Play with every checkpoint of each run, and print a table with the best one marked."""
    sticky: float | None = None
    """Probability that the game repeats the previous action, at every frame. Machado et al. 2018 use 0.25.
    If not given, it is as in training."""
    life_loss_terminates: Annotated[bool | None, tyro.conf.DisallowNone] = None
    """Let a lost life end an episode for the policy: its memory is emptied, and the game continues.
    If not given, lives are treated as in training."""
    greedy: bool = False
    """Take the likeliest action instead of drawing one at random by the policy's probabilities."""
    seed: int = 1
    """Seed of the games and of the random actions."""
    video: Path | None = None
    """File for a video of the first game, ending in .mp4. Possible with a single policy only."""
    json: Path | None = None
    """JSON file for the results."""
    csv: Path | None = None
    """CSV file for the results, with a row for each policy."""

    def check(self) -> None:
        """Raises ValueError, in one line, for a setting out of range."""
        check_paths(self)
        if not self.runs:
            raise ValueError(
                "no run given; name one or more run folders, as in python -m launch.evaluate runs/<run>"
            )
        check_at_least("--episodes", self.episodes, 1)
        check_at_least("--seed", self.seed, 0)
        if self.sticky is not None:
            check_fraction("--sticky", self.sticky)
        if self.all and self.best:
            raise ValueError("--all and --best cannot both be given; --all marks the best checkpoint")
        if self.video is not None:
            self._check_video(self.video)
        for file in (self.video, self.json, self.csv):
            if file is not None:
                check_output(file)

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


@command
def main() -> None:
    arguments = read_arguments(
        Arguments, sys.argv[1:], program="python -m launch.evaluate", description=__doc__
    )
    try:
        arguments.check()
        checkpoints = [find_checkpoints(run, best=arguments.best) for run in arguments.runs]
    except ValueError as error:
        fail(error)
    results: list[dict[str, Any]] = []
    stopped: Stopped | None = None
    for run, candidates in zip(arguments.runs, checkpoints, strict=True):
        played, stopped = play(arguments, candidates)
        if played and arguments.all:
            played = mark_best(played)
            print(table(run, played), flush=True)
        elif played:
            show(played[0])
        elif stopped is None:
            fail(f"{run} has no checkpoint that can be used")
        results += played
        if stopped is not None:
            break
    if results:
        write(arguments, results)
    if stopped is not None:
        print(f"stopped; {len(results)} policies were played to the end of their games", file=sys.stderr)
        raise stopped


def play(arguments: Arguments, checkpoints: list[Path]) -> tuple[list[dict[str, Any]], Stopped | None]:
    """Plays with the checkpoints of a run. Returns the results, and the signal that stopped the games, if one did."""
    # Here, because a module that is being imported may not take the exception of a signal.
    import agents.runs.evaluation  # noqa: F401

    results = []
    with unwinding():
        try:
            for result in results_of(
                checkpoints,
                every=arguments.all,
                episodes=arguments.episodes,
                sticky=arguments.sticky,
                life_loss_terminates=arguments.life_loss_terminates,
                greedy=arguments.greedy,
                seed=arguments.seed,
                video=arguments.video,
            ):
                results.append(result)
        except Stopped as stopped:
            return results, stopped
    return results, None


def write(arguments: Arguments, results: list[dict[str, Any]]) -> None:
    """Writes the files that the arguments name."""
    if arguments.video is not None:
        print(f"video of the first game: {arguments.video}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.csv is not None:
        write_scores(arguments.csv, results)


if __name__ == "__main__":
    main()
