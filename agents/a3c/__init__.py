"""A3C (Mnih et al. 2016): asynchronous advantage actor-critic.

with start_training(config) as training:
    while not training.finished:
        training.advance()
        metrics = training.drain()
        snapshot = training.snapshot()
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.a3c.config import A3CConfig
    from agents.actor_critic.training import Snapshot, Training


def start_training(
    config: "A3CConfig", snapshot: "Snapshot | None" = None, *, address: str | None = None
) -> "Training":
    """Starts a run, or continues from `snapshot`: on Ray, or in this process if the config has no workers.

    Args:
        address: of a running Ray cluster ("auto": the one on this machine); None starts a local one.

    Raises:
        TrainingError: no cluster at `address`, or one that is too small.
    """
    # Imported here: torch takes seconds, and Ray is only for those who ask for workers.
    if config.workers == 0:
        from agents.a3c.local_training import LocalTraining

        return LocalTraining(config, snapshot)
    from agents.a3c.ray_training import RayTraining

    return RayTraining(config, snapshot, address=address)


__all__ = ["start_training"]
