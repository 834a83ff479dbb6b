"""Settings of a run with RLlib's learners. Nothing heavy is imported here."""

from dataclasses import asdict, dataclass, field
from typing import Any

from agents.a3c.config import HEADS, A3CConfig
from agents.layer_settings import (
    HyperNetSettings,
    NeurocoderSettings,
    check_at_least,
    check_known,
    check_not_negative,
    check_positive,
    flag,
)
from envs.atari import AtariSettings, resolve

ALGORITHMS = ("impala", "appo", "ppo")


@dataclass(frozen=True)
class RLlibConfig:
    """One run. What is not here is as RLlib has it."""

    algo: str = "impala"
    """impala, appo or ppo."""
    env: str = "Pong"
    """Game: a bare name (Seaquest, MsPacman) or a Gymnasium id of ale-py (ALE/Seaquest-v5)."""
    head: str = "neurocoder"
    """Output layer of the actor: mlp, hypernet or neurocoder."""
    neurocoder: NeurocoderSettings = field(default_factory=NeurocoderSettings)
    """Settings of the Neurocoder head."""
    hypernet: HyperNetSettings = field(default_factory=HyperNetSettings)
    """Settings of the HyperNet head."""

    env_runners: int = 2
    """Processes that play; 0 plays in the algorithm's own."""
    envs_per_runner: int = 8
    """Games each of them plays."""
    learners: int = 0
    """Processes that learn; 0 learns in the algorithm's own."""
    gpus_per_learner: float = 0.0
    """GPUs a learner takes, fractions allowed."""
    total_steps: int = 32_000_000
    """Agent steps to train for; emulator frames are 4 times as many."""
    seed: int = 1
    """Seed of weights, actions and games, as far as RLlib's asynchrony lets it count."""

    rollout_steps: int = 20
    """Steps of a sequence that the LSTM is trained on."""
    batch_size: int = 320
    """Steps an update learns from, for each learner."""
    learning_rate: float = 4e-4
    """Of Adam."""
    gamma: float = 0.99
    """Discount."""
    entropy_weight: float = 0.01
    """Weight of the policy's entropy."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    reward_clip: float = 1.0
    """The learner sees rewards clipped to [-reward_clip, reward_clip]; scores are never clipped."""
    gradient_clip: float = 40.0
    """Largest norm of a gradient."""

    def check(self) -> AtariSettings:
        """The game's settings, if every field is in range.

        Raises:
            ValueError: in one line, the first field that is not, what it may be.
        """
        settings = resolve(self.env)
        check_known("algo", self.algo, ALGORITHMS)
        check_known("head", self.head, HEADS)
        for name, low in dict(
            env_runners=0, envs_per_runner=1, learners=0, total_steps=1, seed=0, rollout_steps=1, batch_size=1
        ).items():
            check_at_least(name, getattr(self, name), low)
        for name in ("learning_rate", "gradient_clip", "reward_clip"):
            check_positive(name, getattr(self, name))
        for name in ("gpus_per_learner", "entropy_weight", "value_weight"):
            check_not_negative(name, getattr(self, name))
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"{flag('gamma')} is {self.gamma}; it must be from 0 to 1")
        self.neurocoder.check()
        self.hypernet.check()
        return settings

    def policy(self) -> A3CConfig:
        """The same policy's settings as an A3C run's, which its checkpoints carry."""
        return A3CConfig(
            env=self.env, head=self.head, neurocoder=self.neurocoder, hypernet=self.hypernet,
            total_steps=self.total_steps, seed=self.seed, rollout_steps=self.rollout_steps, gamma=self.gamma,
            entropy_weight=self.entropy_weight, value_weight=self.value_weight, reward_clip=self.reward_clip,
            gradient_clip=self.gradient_clip, learning_rate=self.learning_rate,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "RLlibConfig":
        """The inverse of `to_dict`. TypeError if there are fields this version does not know."""
        groups = {
            "neurocoder": NeurocoderSettings(**fields["neurocoder"]),
            "hypernet": HyperNetSettings(**fields["hypernet"]),
        }
        return cls(**fields | groups)
