"""Settings of a run with RLlib's learners. torch and Ray are not needed."""

from dataclasses import dataclass
from typing import ClassVar

from agents.actor_critic.config import ActorCriticConfig
from agents.flags import flag
from neurocoder.checks import check_at_least, check_known, check_not_negative

ALGORITHMS = ("impala", "appo", "ppo")


@dataclass(frozen=True)
class RLlibConfig(ActorCriticConfig):
    """One run. All other settings are RLlib's defaults."""

    key: ClassVar[str] = "rllib"
    fixed: ClassVar[tuple[str, ...]] = (*ActorCriticConfig.fixed, "algo")

    algo: str = "impala"
    """Algorithm of RLlib: impala, appo or ppo."""
    env_runners: int = 2
    """Processes that play games. 0 plays in the process of the algorithm."""
    envs_per_runner: int = 8
    """Games that each of these processes plays."""
    learners: int = 0
    """Processes that learn. 0 learns in the process of the algorithm."""
    gpus_per_learner: float = 0.0
    """GPUs that a learner takes; a fraction shares a GPU."""
    batch_size: int = 320
    """Agent steps in an update, for each learner."""
    learning_rate: float = 4e-4
    """Learning rate of Adam."""

    def check(self) -> None:
        super().check()
        check_known("--algo", self.algo, ALGORITHMS)
        for name, low in dict(env_runners=0, envs_per_runner=1, learners=0, batch_size=1).items():
            check_at_least(flag(name), getattr(self, name), low)
        check_not_negative("--gpus-per-learner", self.gpus_per_learner)
