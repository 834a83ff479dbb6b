"""The scores of saved policies over full games: how they are played, printed and written as a table."""

import csv
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.checkpoints import CheckpointError
from agents.runs.progress import GamesProgress
from envs.atari import AtariSettings
from launch.results.tables import interval_words


def results_of(checkpoints: list[Path], *, every: bool, **settings: Any) -> Iterator[dict[str, Any]]:
    """Plays with the checkpoints of a run, and yields their results. Damaged ones are reported and skipped.

    Args:
        checkpoints: the newest first.
        every: play with all checkpoints, the oldest first. Otherwise play with the first one that can be
            used.
        settings: the arguments of `play_with`.
    """
    for number, checkpoint in enumerate(reversed(checkpoints) if every else checkpoints, start=1):
        name = f"checkpoint {number} of {len(checkpoints)}" if every else checkpoint.name
        try:
            yield play_with(checkpoint, name=name, **settings)
        except CheckpointError as error:
            print(f"warning: skipped a checkpoint that cannot be used: {error}", file=sys.stderr)
            continue
        if not every:
            return


def play_with(
    checkpoint: Path, *, name: str, episodes: int, video: Path | None = None, **settings: Any
) -> dict[str, Any]:
    """Plays with one checkpoint, and returns what `agents.runs.evaluation.evaluate` gives.

    Args:
        name: the checkpoint's name in the progress line.
        episodes: the number of full games.
        video: the .mp4 file that shows the first game.
        settings: more arguments of `evaluate`.

    Raises:
        CheckpointError: the checkpoint is damaged, or no policy.
        OSError: the video cannot be written.
    """
    from agents.runs.evaluation import evaluate

    with ExitStack() as stack:
        on_screen = None
        if video is not None:
            from launch.results.video import VideoWriter

            writer = VideoWriter(video, size=(210, 160), fps=60 / AtariSettings.frame_skip)
            on_screen = stack.enter_context(writer).write
        progress = GamesProgress(episodes, name=name)
        return evaluate(checkpoint, episodes=episodes, on_screen=on_screen, on_progress=progress, **settings)


def mark_best(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the results with an entry `best`, which is true for the one with the highest mean."""
    best = max(results, key=lambda result: result["mean"])
    return [result | {"best": result is best} for result in results]


def show(result: dict[str, Any]) -> None:
    """Prints the result of one policy."""
    interval = interval_words(result["iqm_ci95"], 2)
    lengths = result["episode_lengths"]
    print(
        f"{result['run']}\n"
        f"  {_policy(result)}, {result['env_steps']:,} steps "
        f"({result['env_steps'] * result['settings']['frame_skip']:,} frames) of training\n"
        f"  mean {result['mean']:.2f}   median {result['median']:.2f}   "
        f"interquartile mean {result['iqm']:.2f}{f' (95 % interval {interval})' if interval else ''}\n"
        f"  human-normalised score {_human(result)} (0: random play, 1: human play)\n"
        f"  length {np.mean(lengths):,.0f} steps (from {min(lengths):,} to {max(lengths):,})\n"
        f"{_conditions(result)}",
        flush=True,
    )


def table(run: Path, results: list[dict[str, Any]]) -> str:
    """Returns the table of a run's checkpoints, whose best one `mark_best` has marked. The best has a star."""
    lines = [
        f"{run}: {_policy(results[0])}",
        f"{'steps':>13} {'mean':>10}   {'95 % interval':22} {'length':>8} {'human-normalised':>17}",
    ]
    for result in results:
        lines.append(
            f"{'*' if result['best'] else ' '} {result['env_steps']:>11,} {result['mean']:10.2f}   "
            f"{interval_words(result['mean_ci95'], 2):22} {result['mean_length']:8,.0f} {_human(result):>17}"
        )
    lines += ["* best mean; human-normalised score: 0 is random play, 1 human play", _conditions(results[0])]
    return "\n".join(lines)


def write_scores(path: Path, results: list[dict[str, Any]]) -> None:
    """Writes a row for each result. Raises OSError."""
    rows = [
        {
            "run": result["run"],
            "env": result["env"],
            "head": result["head"],
            "env_steps": result["env_steps"],
            "episodes": len(result["episode_returns"]),
            "mean": result["mean"],
            "mean_low": low,
            "mean_high": high,
            "median": result["median"],
            "iqm": result["iqm"],
            "mean_length": result["mean_length"],
            "human_normalised_mean": result["human_normalised_mean"],
            "best": result.get("best", ""),
        }
        for result in results
        for low, high in [result["mean_ci95"] or ("", "")]
    ]
    with path.open("w", newline="") as file:  # not atomically: it may be /dev/stdout
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _policy(result: dict[str, Any]) -> str:
    return f"{result['env']}, {result['head']} head"


def _human(result: dict[str, Any]) -> str:
    human = result["human_normalised_mean"]
    return "unknown" if human is None else f"{human:.2f}"


def _conditions(result: dict[str, Any]) -> str:
    """Returns what makes scores comparable, in lines of less than 80 characters."""
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
