"""Plays full Atari games with saved policies, and prints their scores with the settings that make them comparable.

    python -m launch.evaluate runs/Pong-neurocoder-... --episodes 30 --video game.mp4 --json scores.json

A policy is a run folder (its newest checkpoint, or with --best the one with the best mean return in training) or a
checkpoint folder. Scores are the games' own, not clipped, over full games, not lives.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from agents.runs.checkpoints import MANIFEST, CheckpointError, best_checkpoint, list_checkpoints
from agents.runs.score_statistics import interquartile_mean, stratified_bootstrap_interval
from envs.atari import resolve
from envs.atari_scores import human_normalised_score
from launch.command_line import fail


@dataclass(frozen=True)
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders or checkpoint folders."""
    episodes: int = 30
    """Full games to play with each policy."""
    best: bool = False
    """Take the checkpoint with the best mean return in training instead of the newest."""
    sticky: float | None = None
    """Probability of sticky actions; as in training if not given. 0.25 is the setting of Machado et al. 2018."""
    greedy: bool = False
    """Take the likeliest action instead of sampling."""
    seed: int = 1
    """Seed of games and actions."""
    video: Path | None = None
    """Write the first game to this .mp4 file (one policy only)."""
    json: Path | None = None
    """Write the results to this file."""

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
        if self.video is not None:
            if len(self.runs) > 1:
                raise ValueError(f"--video shows one policy, but {len(self.runs)} runs are given")
            if self.video.suffix != ".mp4":
                raise ValueError(f"--video {self.video} must end in .mp4")
            try:
                import launch.video  # noqa: F401
            except ImportError as error:
                raise ValueError(
                    f"--video needs OpenCV, which cannot be loaded here ({error}); on Debian: apt install libgl1 libglib2.0-0"
                ) from error
        for file in (self.video, self.json):
            if file is not None and not file.absolute().parent.is_dir():
                raise ValueError(f"{file}: its folder does not exist; make it or name another file")
            if file is not None and file.is_dir():
                raise ValueError(f"{file}: is a folder; name a file")


def find_checkpoints(run: Path, *, best: bool) -> list[Path]:
    """The checkpoints of a run or checkpoint folder in the order to be tried. ValueError if there is none."""
    if (run / MANIFEST).is_file():
        return [run]
    checkpoints = list_checkpoints(run / "checkpoints")
    if not checkpoints:
        raise ValueError(f"{run} is neither a run folder with checkpoints nor a checkpoint folder")
    if best:
        found = best_checkpoint(run / "checkpoints", lambda state: state.get("mean_return"))
        if found is None:
            raise ValueError(f"{run} has no checkpoint with a mean return yet; leave out --best")
        return [found]
    return checkpoints


def evaluate(
    checkpoint: Path,
    *,
    episodes: int,
    sticky: float | None = None,
    greedy: bool = False,
    seed: int = 1,
    video: Path | None = None,
) -> dict[str, Any]:
    """Plays with one checkpoint: its scores, their statistics and the settings.

    Raises:
        CheckpointError: damaged, or not an A3C policy.
        OSError: the video cannot be written.
    """
    import torch

    from agents.a3c.evaluation import play
    from agents.runs.checkpoints import load_checkpoint
    from agents.runs.snapshots import to_policy

    torch.set_num_threads(1)  # small batches; a second thread fights with a training run on the same machine
    loaded = load_checkpoint(checkpoint)
    network, config = to_policy(loaded)
    settings = resolve(config.env)
    if sticky is not None:
        settings = replace(settings, sticky=sticky)
    if video is None:
        games = play(network, settings, episodes=episodes, seed=seed, greedy=greedy)
    else:
        from launch.video import VideoWriter

        with VideoWriter(video, size=(210, 160), fps=60 / settings.frame_skip) as writer:
            games = play(
                network, settings, episodes=episodes, seed=seed, greedy=greedy, on_screen=writer.write
            )
    scores = [game.score for game in games]
    return {
        "run": str(checkpoint),
        "env": config.env,
        "head": config.head,
        "env_steps": loaded.state["env_steps"],
        "episode_returns": scores,
        "episode_lengths": [game.length for game in games],
        "mean": float(np.mean(scores)),
        "median": float(np.median(scores)),
        "iqm": interquartile_mean(scores),
        "iqm_ci95": list(stratified_bootstrap_interval([scores])),
        "human_normalised_mean": human_normalised_score(settings.rom, float(np.mean(scores))),
        "settings": asdict(settings)
        | {"greedy": greedy, "seed": seed, "full_games": True, "reward_clipping": False},
    }


def show(result: dict[str, Any]) -> None:
    """Prints one policy's result."""
    settings, lengths = result["settings"], result["episode_lengths"]
    low, high = result["iqm_ci95"]
    human = result["human_normalised_mean"]
    print(
        f"{result['run']}\n"
        f"  {result['env']}, {result['head']} head, {result['env_steps']:,} steps "
        f"({result['env_steps'] * settings['frame_skip']:,} frames) of training\n"
        f"  mean {result['mean']:.2f}   median {result['median']:.2f}   "
        f"interquartile mean {result['iqm']:.2f} (95 % interval {low:.2f} to {high:.2f})   "
        f"human-normalised mean {'unknown for this game' if human is None else f'{human:.1%}'}\n"
        f"  length {np.mean(lengths):,.0f} steps (from {min(lengths):,} to {max(lengths):,})\n"
        f"  {len(lengths)} full game{'s' * (len(lengths) > 1)}, scores not clipped; sticky actions {settings['sticky']}, "
        f"frame skip {settings['frame_skip']}, fewer than {settings['noop_max']} no-op frames at the start, "
        f"at most {settings['max_frames']:,} frames, actions {'greedy' if settings['greedy'] else 'sampled'}, "
        f"seed {settings['seed']}",
        flush=True,
    )


def main() -> None:
    arguments = tyro.cli(Arguments, prog="python -m launch.evaluate", description=__doc__)
    try:
        arguments.check()
        candidates = [find_checkpoints(run, best=arguments.best) for run in arguments.runs]
    except ValueError as error:
        fail(error)
    results = []
    for run, checkpoints in zip(arguments.runs, candidates, strict=True):
        for checkpoint in checkpoints:
            try:
                result = evaluate(
                    checkpoint,
                    episodes=arguments.episodes,
                    sticky=arguments.sticky,
                    greedy=arguments.greedy,
                    seed=arguments.seed,
                    video=arguments.video,
                )
                break
            except CheckpointError as error:
                print(f"warning: skipped a checkpoint that cannot be used: {error}", file=sys.stderr)
            except OSError as error:
                fail(error, status=1)
        else:
            fail(f"{run} has no checkpoint that can be used")
        show(result)
        results.append(result)
    if arguments.video is not None:
        print(f"video of the first game: {arguments.video}")
    if arguments.json is not None:
        try:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")
        except OSError as error:
            fail(error, status=1)


if __name__ == "__main__":
    main()
