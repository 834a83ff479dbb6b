"""Checkpoints of Atari runs that were not trained."""

from pathlib import Path

from agents.actor_critic.config import ActorCriticConfig
from agents.actor_critic.training import Snapshot
from agents.runs.snapshots import save_snapshot


def save(folder: Path, snapshot: Snapshot, config: ActorCriticConfig) -> Path:
    """Writes a snapshot as a run does."""
    return save_snapshot(folder, snapshot.env_steps, snapshot, policy=config.policy().to_dict())
