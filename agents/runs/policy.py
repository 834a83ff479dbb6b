"""Trained policies from checkpoints."""

import warnings
from pathlib import Path

import torch

from agents.actor_critic.config import PolicySettings
from agents.actor_critic.network import build_network
from agents.actor_critic.policy import Policy
from agents.actor_critic.training import Snapshot
from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from agents.runs.snapshots import to_snapshot
from agents.stored_settings import select


def policy_settings(checkpoint: Checkpoint) -> PolicySettings:
    """The settings of a checkpoint's policy. Raises CheckpointError if they cannot be used."""
    try:
        stored = checkpoint.state.get("policy")
        if stored is None:  # an older version wrote it
            stored = select(PolicySettings, checkpoint.state["config"])
        settings = PolicySettings.from_dict(stored)
        settings.check()
        return settings
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: its settings cannot be used: {error}") from error


def to_policy(checkpoint: Checkpoint, *, device: str = "cpu", seed: int = 0) -> tuple[Policy, PolicySettings]:
    """Makes the policy of a checkpoint. torch's random state stays as it is.

    Raises:
        CheckpointError: not an Atari run's, settings this version does not know, or tensors that do not fit them.
    """
    settings, snapshot = policy_settings(checkpoint), to_snapshot(Snapshot, checkpoint)
    try:
        with torch.random.fork_rng(devices=[]):
            network = build_network(settings)
        network.load_state_dict(snapshot.parameters)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: its policy cannot be built: {' '.join(str(error).split())}"
        ) from error
    return Policy(network.to(device), settings.game(), seed=seed), settings


def load_policy(run: str | Path, *, best: bool = False, device: str = "cpu", seed: int = 0) -> Policy:
    """Loads a trained policy.

    Args:
        run: a run folder, whose newest whole checkpoint is taken, or a checkpoint folder.
        best: take the run's best checkpoint instead: the one whose evaluation had the highest mean return.
        device: the device the policy computes on, "cpu" or "cuda".
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
