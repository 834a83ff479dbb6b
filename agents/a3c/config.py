"""Settings of an A3C run. Defaults are the paper's: those of Mnih et al. 2016, with Table 6 for the Neurocoder head.

Nothing heavy is imported here, so that a command line can be checked at once.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agents.layer_settings import (
    HyperNetSettings,
    NeurocoderSettings,
    check_at_least,
    check_choice,
    check_known,
    check_not_negative,
    check_positive,
    flag,
)
from envs.atari import AtariSettings, resolve

HEADS = ("mlp", "hypernet", "neurocoder")


@dataclass(frozen=True)
class A3CConfig:
    """One A3C run."""

    env: str = "Pong"
    """Game: a bare name (Seaquest, MsPacman) or a Gymnasium id of ale-py (ALE/Seaquest-v5)."""
    head: str = "neurocoder"
    """Output layer of the policy: mlp, hypernet or neurocoder."""
    head_on: Literal["actor", "critic", "both"] = "actor"
    """Which output layers the head replaces; the other stays linear. The paper's parameter count fits the actor alone."""
    neurocoder: NeurocoderSettings = field(default_factory=NeurocoderSettings)
    """Settings of the Neurocoder head."""
    hypernet: HyperNetSettings = field(default_factory=HyperNetSettings)
    """Settings of the HyperNet head."""

    workers: int | Literal["auto"] = 2
    """Rollout workers, each a Ray actor; 0 trains in this process, without Ray; auto takes all free cores of the cluster,
    also those that join later."""
    envs_per_worker: int = 16
    """Games a worker steps together."""
    cpus_per_worker: int = 1
    """Cores a worker takes, and threads it computes with."""
    gpus_per_worker: float = 0.0
    """GPUs a worker takes, fractions allowed; 0 runs it on the CPU."""
    total_steps: int = 32_000_000
    """Agent steps to train for, over all workers; emulator frames are 4 times as many."""
    seed: int = 1
    """Seed of weights, actions and games."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What workers compute the convolutions in: auto times both at their start (with --deterministic it is fp32). Weights and
    statistics are always fp32."""
    deterministic: bool = False
    """With --workers 0: two runs give bit-identical parameters."""

    rollout_steps: int = 20
    """t_max, steps between updates (Mnih et al. 2016: 5; 20 in the A3C-LSTM port that the parameter counts fit)."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation; 1 is the plain n-step advantage of A3C."""
    entropy_weight: float = 0.01
    """Weight of the policy's entropy."""
    value_weight: float = 0.5
    """Weight of the value loss, half the squared error."""
    reward_clip: float = 1.0
    """The learner sees rewards clipped to [-reward_clip, reward_clip]; scores are never clipped."""
    life_loss_terminates: bool = True
    """In training, losing a life ends the episode for the learner, while the game goes on."""
    gradient_clip: float = 40.0
    """Largest norm of a pushed gradient."""

    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """Shared statistics: RMSProp as in Mnih et al. 2016, or Adam."""
    learning_rate: float = 7e-4
    """Initial learning rate."""
    anneal: bool = True
    """Lower the learning rate linearly to 0 over total_steps."""
    rmsprop_decay: float = 0.99
    """Decay of RMSProp's statistics."""
    rmsprop_epsilon: float = 0.1
    """Added to the statistics under the root (Mnih et al. 2016)."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""

    max_restarts: int = 5
    """How often in a row a worker may die without a push in between before the run ends."""
    stall_seconds: float = 300.0
    """A worker that pushes nothing for so long is killed and started anew."""
    max_staleness: int = 1_000
    """A gradient whose weights are more versions behind is dropped."""
    max_bad_updates: int = 10
    """Gradients that are not finite are refused; one more than so many ends the run."""

    def check(self) -> AtariSettings:
        """The game's settings, if every field is in range.

        Raises:
            ValueError: in one line, the first field that is not, what it may be.
        """
        settings = resolve(self.env)
        check_known("head", self.head, HEADS)
        if self.workers != "auto":
            check_at_least("workers", self.workers, 0)
        for name, low in dict(
            envs_per_worker=1, cpus_per_worker=1, total_steps=1, rollout_steps=1, seed=0,
            max_restarts=0, max_staleness=0, max_bad_updates=0,
        ).items():  # fmt: skip
            check_at_least(name, getattr(self, name), low)
        for name in (
            "learning_rate", "gradient_clip", "reward_clip", "rmsprop_epsilon", "adam_epsilon", "stall_seconds",
        ):  # fmt: skip
            check_positive(name, getattr(self, name))
        for name in ("gpus_per_worker", "entropy_weight", "value_weight"):
            check_not_negative(name, getattr(self, name))
        for name in ("gamma", "gae_lambda", "rmsprop_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{flag(name)} is {getattr(self, name)}; it must be from 0 to 1")
        check_choice("head_on", self.head_on, ("actor", "critic", "both"))
        check_choice("optimizer", self.optimizer, ("rmsprop", "adam"))
        check_choice("precision", self.precision, ("auto", "fp32", "bf16"))
        self.neurocoder.check()
        self.hypernet.check()
        if self.deterministic and self.workers:
            raise ValueError(
                f"--deterministic needs --workers 0, but --workers is {self.workers}: asynchronous workers push in any order"
            )
        return settings

    def policy(self) -> "A3CConfig":
        """What a checkpoint carries for those who play its policy."""
        return self

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "A3CConfig":
        """The inverse of `to_dict`. TypeError if there are fields this version does not know."""
        return cls(
            **fields
            | {
                "neurocoder": NeurocoderSettings(**fields["neurocoder"]),
                "hypernet": HyperNetSettings(**fields["hypernet"]),
            }
        )
