"""Settings that every actor-critic run on Atari has, whichever algorithm trains it.

Nothing heavy is imported here, so that a command line can be checked at once.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

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

RECENT_EPISODES = 20  # finished games that the mean return in training is taken over
HEADS = ("mlp", "hypernet", "neurocoder")


@dataclass(frozen=True)
class ActorCriticConfig:
    key: ClassVar[str]
    """The name of these settings in a run's config.json."""

    env: str = "Pong"
    """Game: a bare name (Seaquest, MsPacman) or a Gymnasium id of ale-py (ALE/Seaquest-v5)."""
    head: str = "neurocoder"
    """Output layer of the policy: mlp, hypernet or neurocoder."""
    neurocoder: NeurocoderSettings = field(default_factory=NeurocoderSettings)
    """Settings of the Neurocoder head."""
    hypernet: HyperNetSettings = field(default_factory=HyperNetSettings)
    """Settings of the HyperNet head."""

    total_steps: int = 32_000_000
    """Agent steps to train for; emulator frames are 4 times as many."""
    seed: int = 1
    """Seed of weights, actions and games, as far as asynchrony lets it count."""

    rollout_steps: int = 20
    """t_max, steps between updates (Mnih et al. 2016: 5; 20 in the A3C-LSTM port that the parameter counts fit)."""
    gamma: float = 0.99
    """Discount."""
    entropy_weight: float = 0.01
    """Weight of the policy's entropy."""
    value_weight: float = 0.5
    """Weight of the value loss, half the squared error."""
    reward_clip: float = 1.0
    """The learner sees rewards clipped to [-reward_clip, reward_clip]; scores are never clipped."""
    gradient_clip: float = 40.0
    """Largest norm of a gradient."""
    learning_rate: float = 7e-4
    """Initial learning rate."""

    life_loss_terminates: bool = True
    """Losing a life ends the episode for the policy, while the game continues. Evaluations treat lives the same way."""
    fire_after_life_loss: bool = True
    """Press FIRE in the step after a lost life, in games that have it."""

    def game(self) -> AtariSettings:
        """The settings of the game. ValueError, in one line, if `env` is not a game."""
        return replace(
            resolve(self.env),
            life_loss_terminates=self.life_loss_terminates,
            fire_after_life_loss=self.fire_after_life_loss,
        )

    def check(self) -> AtariSettings:
        """Returns the game's settings if every field is in range.

        Raises:
            ValueError: in one line, the first field that is out of range, and what it may be.
        """
        settings = self.game()
        check_known("head", self.head, HEADS)
        for name, low in dict(total_steps=1, rollout_steps=1, seed=0).items():
            check_at_least(name, getattr(self, name), low)
        for name in ("learning_rate", "gradient_clip", "reward_clip"):
            check_positive(name, getattr(self, name))
        for name in ("entropy_weight", "value_weight"):
            check_not_negative(name, getattr(self, name))
        check_fraction("gamma", self.gamma)
        self.neurocoder.check()
        self.hypernet.check()
        return settings

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. TypeError if there are fields this version does not know."""
        # Runs from before this field did not press FIRE there.
        fields = {"fire_after_life_loss": False} | fields
        groups = {
            "neurocoder": NeurocoderSettings(**fields["neurocoder"]),
            "hypernet": HyperNetSettings(**fields["hypernet"]),
        }
        return cls(**fields | groups)


def check_fraction(name: str, value: float) -> None:
    """ValueError unless it is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{flag(name)} is {value}; it must be from 0 to 1")
