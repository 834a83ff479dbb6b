"""Settings of an A3C run. Defaults are the paper's: those of Mnih et al. 2016, with Table 6 for the Neurocoder head."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from agents.actor_critic.config import ActorCriticConfig
from agents.flags import flag
from neurocoder.checks import check_at_least, check_fraction, check_known, check_not_negative, check_positive


@dataclass(frozen=True)
class A3CConfig(ActorCriticConfig):
    """One A3C run."""

    key: ClassVar[str] = "a3c"
    fixed: ClassVar[tuple[str, ...]] = (*ActorCriticConfig.fixed, "optimizer")

    workers: int | Literal["auto"] = 2
    """Rollout workers, each a Ray actor. 0: train in this process. auto: take all free cores of the cluster."""
    envs_per_worker: int = 16
    """Games that a worker plays together."""
    cpus_per_worker: int = 1
    """Cores that a worker takes, and the number of threads it computes with."""
    gpus_per_worker: float = 0.0
    """GPUs that a worker takes; a fraction shares a GPU, 0 runs on the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of convolutions and LSTM. auto times both and takes the faster one (with --deterministic: fp32)."""
    deterministic: bool = False
    """Make two runs with the same settings give bit-identical parameters. Needs --workers 0."""

    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation. 1 is the plain n-step advantage of A3C."""

    optimizer: Literal["rmsprop", "adam", "amsgrad"] = "rmsprop"
    """Optimiser with shared statistics: RMSProp as in Mnih et al. 2016, Adam, or AMSGrad (Reddi et al. 2018)."""
    anneal: bool = True
    """Lower the learning rate linearly to 0 over total_steps."""
    anneal_entropy: bool = False
    """Lower the entropy weight linearly to 0 over total_steps."""
    rmsprop_decay: float = 0.99
    """Decay of RMSProp's mean of squared gradients."""
    rmsprop_epsilon: float = 0.1
    """Number added to RMSProp's mean of squared gradients before the root (Mnih et al. 2016)."""
    adam_epsilon: float = 1e-5
    """Epsilon of Adam and AMSGrad."""

    max_restarts: int = 5
    """Consecutive failures of one worker, without a gradient in between, before the run is stopped."""
    stall_seconds: float = 300.0
    """A worker that sends no gradient for this long is killed and restarted."""
    max_staleness: int = 1_000
    """Updates that a gradient may be behind. An older one is discarded."""
    max_bad_updates: int = 10
    """Number of non-finite gradients to discard before the run is stopped."""

    def check(self) -> None:
        super().check()
        if self.workers != "auto":
            check_at_least("--workers", self.workers, 0)
        for name, low in dict(
            envs_per_worker=1, cpus_per_worker=1, max_restarts=0, max_staleness=0, max_bad_updates=0
        ).items():
            check_at_least(flag(name), getattr(self, name), low)
        for name in ("rmsprop_epsilon", "adam_epsilon", "stall_seconds"):
            check_positive(flag(name), getattr(self, name))
        check_not_negative("--gpus-per-worker", self.gpus_per_worker)
        for name in ("gae_lambda", "rmsprop_decay"):
            check_fraction(flag(name), getattr(self, name))
        check_known("--optimizer", self.optimizer, ("rmsprop", "adam", "amsgrad"))
        check_known("--precision", self.precision, ("auto", "fp32", "bf16"))
        if self.deterministic and self.workers:
            raise ValueError(
                f"--deterministic needs --workers 0, but --workers is {self.workers}: workers push in any order"
            )

    def learning_rate_at(self, env_steps: int) -> float:
        return self.learning_rate * (self._remaining(env_steps) if self.anneal else 1.0)

    def entropy_weight_at(self, env_steps: int) -> float:
        return self.entropy_weight * (self._remaining(env_steps) if self.anneal_entropy else 1.0)

    def _remaining(self, env_steps: int) -> float:
        """Returns the share of total_steps that is still to be taken."""
        return max(0.0, 1 - env_steps / self.total_steps)
