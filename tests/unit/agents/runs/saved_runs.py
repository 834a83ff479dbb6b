"""Checkpoints of Atari runs without training."""

from pathlib import Path

from agents.actor_critic.config import ActorCriticConfig
from agents.actor_critic.training import Snapshot
from agents.runs.snapshots import save_snapshot


def save(folder: Path, snapshot: Snapshot, config: ActorCriticConfig) -> Path:
    """Writes a snapshot in the same way as a run."""
    return save_snapshot(folder, snapshot.env_steps, snapshot, policy=config.policy().to_dict())
