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
    from agents.rllib.config import RLlibConfig


def start_training(
    config: "A3CConfig | RLlibConfig", snapshot: "Snapshot | None" = None, *, address: str | None = None
) -> "Training":
    """Starts, or continues from `snapshot`: on Ray, or in this process if the config has no workers.

    Args:
        config: of an A3C run, or of one that RLlib trains.
        address: of a running Ray cluster ("auto": the one on this machine); None starts a local one.

    Raises:
        TrainingError: no cluster at `address`, or one that is too small.
    """
    # Imported here: torch takes seconds, and Ray is only for those who ask for workers.
    from agents.rllib.config import RLlibConfig

    if isinstance(config, RLlibConfig):
        from agents.rllib.training import RLlibTraining

        return RLlibTraining(config, snapshot, address=address)
    if config.workers == 0:
        from agents.a3c.local_training import LocalTraining

        return LocalTraining(config, snapshot)
    from agents.a3c.ray_training import RayTraining

    return RayTraining(config, snapshot, address=address)


__all__ = ["start_training"]
