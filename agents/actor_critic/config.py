"""Settings that every actor-critic run on Atari has, whichever algorithm trains it. torch is not needed."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, get_args

from agents.flags import flag
from agents.stored_settings import read_settings
from envs.atari import AtariSettings, resolve
from neurocoder.checks import check_at_least, check_fraction, check_known, check_not_negative, check_positive
from neurocoder.settings import LAYERS, LayerSettings

Network = Literal["paper", "strided", "nature", "impala"]
NETWORKS: tuple[str, ...] = get_args(Network)
"""Names of the networks. `agents.actor_critic.network.CLASSES` has their classes."""

NETWORK_SETTINGS = ("network", "frames", "motion", "lstm_hidden")
"""Settings that decide what is below the output layers."""

RECENT_EPISODES = 20
"""Finished games that the mean return in training is taken over."""


@dataclass(frozen=True)
class PolicySettings(LayerSettings):
    """What decides a policy: its game and its network. Whoever plays a saved policy needs these and no others."""

    env: str = "Pong"
    """Game: a bare name (Seaquest, MsPacman) or a Gymnasium id of ale-py (ALE/Seaquest-v5)."""
    head: str = "neurocoder"
    """Output layer of the policy: mlp (plain), neurocoder, hypernet, film, moe, nsm or lowrank."""
    head_on: Literal["actor", "critic", "both"] = "actor"
    """Which output layers are of this kind; the other is plain. The paper's parameter count fits the actor alone."""

    network: Network = "paper"
    """Layers before the LSTM: the paper's four convolutions, the same with strides in place of pooling, DQN's
    three, or IMPALA's residual network."""
    frames: int = 1
    """Number of newest frames that the network sees. The LSTM remembers what one does not show."""
    motion: float = 0.0
    """The network sees each frame minus this times the frame before it."""
    lstm_hidden: int = 512
    """Units of the LSTM."""

    life_loss_terminates: bool = True
    """Losing a life ends the episode for the policy, while the game continues. Evaluations treat lives the same way."""
    fire_after_life_loss: bool = True
    """Press FIRE in the step after a lost life, in games that have it."""

    def game(self) -> AtariSettings:
        """The settings of the game. Raises ValueError if `env` is not a game."""
        return replace(
            resolve(self.env),
            life_loss_terminates=self.life_loss_terminates,
            fire_after_life_loss=self.fire_after_life_loss,
            stack=self.frames + (self.motion > 0),
        )

    def check(self) -> None:
        """Raises ValueError, in one line, for the first setting that is out of range."""
        self.game()
        check_known("--head", self.head, LAYERS)
        check_known("--head-on", self.head_on, ("actor", "critic", "both"))
        check_known("--network", self.network, NETWORKS)
        for name in ("frames", "lstm_hidden"):
            check_at_least(flag(name), getattr(self, name), 1)
        check_fraction("--motion", self.motion)
        self.check_layers(flag)

    def policy(self) -> "PolicySettings":
        """These settings alone, without those of the training."""
        return PolicySettings(**{field.name: getattr(self, field.name) for field in fields(PolicySettings)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises ValueError for names that this version does not know or values of another type.
        """
        # Runs from before this setting did not press FIRE there.
        return read_settings(cls, {"fire_after_life_loss": False} | stored)


@dataclass(frozen=True)
class ActorCriticConfig(PolicySettings):
    """A policy, and how it is trained: what A3C and RLlib share."""

    key: ClassVar[str]
    """The name of these settings in a run's config.json."""
    fixed: ClassVar[tuple[str, ...]] = (
        *("env", "head", "head_on", *NETWORK_SETTINGS),
        *(f.name for f in fields(LayerSettings)),
    )
    """Settings that decide the shape of what a checkpoint holds. A resumed run keeps them."""

    total_steps: int = 32_000_000
    """Agent steps to train for. Emulator frames are 4 times as many."""
    seed: int = 1
    """Seed of weights, actions and games. Asynchronous workers make runs differ all the same."""

    rollout_steps: int = 20
    """t_max, steps between updates (Mnih et al. 2016: 5; 20 in the A3C-LSTM port that the parameter counts fit)."""
    gamma: float = 0.99
    """Discount factor."""
    entropy_weight: float = 0.01
    """Weight of the policy's entropy."""
    value_weight: float = 0.5
    """Weight of the value loss, which is half the squared error."""
    reward_clip: float = 1.0
    """The learner sees rewards clipped to [-reward_clip, reward_clip]. Scores are never clipped."""
    gradient_clip: float = 40.0
    """Largest norm of a gradient."""
    learning_rate: float = 7e-4
    """Initial learning rate."""

    def check(self) -> None:
        super().check()
        for name, low in dict(total_steps=1, rollout_steps=1, seed=0).items():
            check_at_least(flag(name), getattr(self, name), low)
        for name in ("learning_rate", "gradient_clip", "reward_clip"):
            check_positive(flag(name), getattr(self, name))
        for name in ("entropy_weight", "value_weight"):
            check_not_negative(flag(name), getattr(self, name))
        check_fraction("--gamma", self.gamma)

    def learning_rate_at(self, env_steps: int) -> float:
        """Returns the learning rate after this many agent steps of the run."""
        return self.learning_rate

    def entropy_weight_at(self, env_steps: int) -> float:
        """Returns the entropy weight after this many agent steps of the run."""
        return self.entropy_weight
