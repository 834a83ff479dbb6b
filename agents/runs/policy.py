"""Trained policies from checkpoints."""

import warnings
from pathlib import Path

import torch

from agents.actor_critic.config import PolicySettings
from agents.actor_critic.network import build_network
from agents.actor_critic.policy import Policy
from agents.actor_critic.training import Snapshot
from agents.errors import LOWER_RATE, TrainingError
from agents.finite import first_cause
from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from agents.runs.snapshots import to_snapshot
from agents.stored_settings import select
from neurocoder.networks.recurrent import FRAME, RecurrentActorCritic


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
        CheckpointError: not an Atari run's, settings this version does not know, tensors that do not fit them, or
            that are not finite.
    """
    settings, snapshot = policy_settings(checkpoint), to_snapshot(Snapshot, checkpoint)
    try:
        network = _network(settings, snapshot)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: its policy cannot be built: {' '.join(str(error).split())}"
        ) from error
    return Policy(network.to(device), settings.game(), seed=seed), settings


def _network(settings: PolicySettings, snapshot: Snapshot) -> RecurrentActorCritic:
    with torch.random.fork_rng(devices=[]):
        network = build_network(settings)
    network.load_state_dict(snapshot.parameters)
    return network


def check_gradient(settings: PolicySettings, snapshot: Snapshot) -> None:
    """Raises TrainingError if the policy of a snapshot has diverged: its gradient for a picture of stripes is not finite.

    Weights can be finite, and yet too large for anything to be computed with them.
    """
    network = _network(settings, snapshot).eval()
    numbers = torch.arange(network.channels * FRAME * FRAME) % 256
    frame = numbers.to(torch.uint8).reshape(1, network.channels, FRAME, FRAME)
    start = torch.ones(1, dtype=torch.bool)
    hidden, _ = network.step(network.features(frame), network.initial_state(1), start)
    loss = network.actor(hidden).log_softmax(dim=-1).square().sum() + network.critic(hidden).square().sum()
    loss.backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if not torch.nn.utils.get_total_norm(gradients.values()).isfinite():
        cause = first_cause(network, gradients)
        raise TrainingError(
            f"the run has diverged at step {snapshot.env_steps:,}: {cause} is not finite; {LOWER_RATE}"
        )


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
