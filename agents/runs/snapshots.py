"""Snapshots of Atari runs as checkpoints, and policies out of them again."""

import warnings
from pathlib import Path

import torch

from agents.a3c.config import A3CConfig
from agents.actor_critic.network import build_policy
from agents.actor_critic.policy import Policy
from agents.actor_critic.training import Snapshot
from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from envs.atari import action_count


def save(
    folder: Path, snapshot: Snapshot, config: A3CConfig, software: dict[str, str | None] | None = None
) -> Path:
    """Writes a snapshot with all that is needed to play its policy: the settings of run and games.

    Args:
        software: versions of what computed it.
    """
    tensors = {
        "parameters": snapshot.parameters,
        "optimizer": snapshot.optimizer,
        "random_states": snapshot.random_states,
    }
    state = {
        "agent": "a3c",
        "env_steps": snapshot.env_steps,
        "updates": snapshot.updates,
        "episodes": snapshot.episodes,
        "recent_returns": snapshot.recent_returns,
        "mean_return": snapshot.mean_return,
        "precisions": snapshot.precisions,
        "config": config.to_dict(),
        "software": software,
    }
    return save_checkpoint(folder, snapshot.env_steps, tensors, state)


def to_snapshot(checkpoint: Checkpoint) -> Snapshot:
    """The inverse of `save`. CheckpointError if the checkpoint is not of an A3C run."""
    state = checkpoint.state
    try:
        return Snapshot(
            env_steps=state["env_steps"],
            updates=state["updates"],
            episodes=state["episodes"],
            recent_returns=state["recent_returns"],
            parameters=checkpoint.tensors["parameters"],
            optimizer=checkpoint.tensors["optimizer"],
            random_states=checkpoint.tensors["random_states"],
            precisions=state.get("precisions", {}),
        )
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path}: not a checkpoint of an A3C run, it has no {error}"
        ) from error


def to_policy(checkpoint: Checkpoint, *, device: str = "cpu", seed: int = 0) -> tuple[Policy, A3CConfig]:
    """The policy with the checkpoint's weights, and its run's settings. Torch's random state stays as it is.

    Raises:
        CheckpointError: not an A3C run's, of settings this version does not know, or tensors that do not fit them.
    """
    snapshot = to_snapshot(checkpoint)
    try:
        config = A3CConfig.from_dict(checkpoint.state["config"])
        settings = config.game()
        with torch.random.fork_rng(devices=[]):
            network = build_policy(config, action_count(settings.rom))
        network.load_state_dict(snapshot.parameters)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: its policy cannot be built: {' '.join(str(error).split())}"
        ) from error
    return Policy(network.to(device), settings, seed=seed), config


def load_policy(run: str | Path, *, best: bool = False, device: str = "cpu", seed: int = 0) -> Policy:
    """Loads a trained policy.

    Args:
        run: a run folder, whose newest whole checkpoint is taken, or a checkpoint folder.
        best: take the run's best checkpoint instead: the one whose evaluation had the highest mean return.
        device: what the policy computes on, "cpu" or "cuda".
        seed: decides which actions are sampled.

    Raises:
        ValueError: no checkpoint there, or none that can be used.
    """
    errors = []
    for path in find_checkpoints(Path(run), best=best):
        try:
            return to_policy(load_checkpoint(path), device=device, seed=seed)[0]
        except CheckpointError as error:
            errors.append(error)
            warnings.warn(f"skipped a checkpoint that cannot be used: {error}", stacklevel=2)
    raise errors[0]
