"""Quadratic penalties against forgetting: L2, EWC, online EWC, SI.

Each adds strength * sum_i Omega_i (theta_i - theta*_i)^2 to the loss; they differ in the importances Omega and the
anchor theta*. Conventions (no factor 1/2, online EWC without decay) are those of GT-RIPL/Continual-Learning-Benchmark
(Hsu et al. 2018), whose strengths the paper's Split MNIST table goes back to.

Parameters theta are one flat vector (n,), or (S, n) for S seeds that train together. No seed sees another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Anchor:
    """The parameters that the penalty pulls towards, and its weights. Both are constants shaped like theta."""

    importance: Tensor  # Omega >= 0
    parameters: Tensor  # theta*


class Regularizer:
    """No penalty; the base of those that have one.

    A training loop calls `add_penalty_gradient` in every step and `end_task` after each task. If the class says
    `uses_task_gradient`, it also calls `before_step` and `after_step` around every step of the optimiser; if it says
    `uses_fisher`, it hands `end_task` the diagonal Fisher information of the task.

    Raises:
        ValueError: the strength is negative or not finite.
    """

    uses_task_gradient: ClassVar[bool] = False
    uses_fisher: ClassVar[bool] = False

    def __init__(self, strength: float = 0.0):
        if not 0 <= strength < float("inf"):
            raise ValueError(f"strength is {strength}; it must be a finite number, 0 or more")
        self.strength = strength
        # None before the first task has ended.
        self.anchor: Anchor | None = None

    def add_penalty_gradient(self, theta: Tensor, gradient: Tensor) -> None:
        """Adds 2 strength Omega (theta - theta*) to the gradient in place, from the second task on."""
        if self.anchor is not None:
            distance = theta - self.anchor.parameters
            gradient.addcmul_(self.anchor.importance, distance, value=2 * self.strength)

    def before_step(self, theta: Tensor, gradient: Tensor) -> None:
        """Takes theta before the optimiser's step, and the gradient of the task's loss alone.

        Neither the penalty nor the auxiliary loss is part of that gradient.
        """

    def after_step(self, theta: Tensor) -> None:
        """Takes theta after the optimiser's step."""

    def end_task(self, theta: Tensor, fisher: Tensor | None = None) -> None:
        """Takes theta at the end of a task and, where `uses_fisher`, the task's Fisher information of the same
        shape.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all that the next steps need. Empty before there is anything of that kind."""
        if self.anchor is None:
            return {}
        return {"importance": self.anchor.importance, "parameters": self.anchor.parameters}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.anchor = Anchor(state["importance"], state["parameters"]) if "importance" in state else None


class L2(Regularizer):
    """The same importance for all parameters. theta* are the parameters after the previous task."""

    def end_task(self, theta: Tensor, fisher: Tensor | None = None) -> None:
        theta = theta.detach()
        self.anchor = Anchor(torch.ones_like(theta), theta.clone())


class EWC(Regularizer):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): a pair (Omega_k, theta*_k) for each task k.

    The sum of their penalties is kept as one: Omega = sum_k Omega_k around the Omega-weighted mean of the theta*_k, in
    time and memory of one task. The gradient is that of the sum.
    """

    uses_fisher = True

    def end_task(self, theta: Tensor, fisher: Tensor | None = None) -> None:
        new = _fisher_anchor(theta, fisher)
        if self.anchor is not None:
            total = self.anchor.importance + new.importance
            # 0 where no parameter has importance.
            share = new.importance / total.clamp_min(torch.finfo(total.dtype).tiny)
            new = Anchor(total, self.anchor.parameters.lerp(new.parameters, share))
        self.anchor = new


class OnlineEWC(Regularizer):
    """EWC with one pair (Schwarz et al. 2018). Omega adds up over the tasks without decay, and theta* is the latest."""

    uses_fisher = True

    def end_task(self, theta: Tensor, fisher: Tensor | None = None) -> None:
        new = _fisher_anchor(theta, fisher)
        earlier = 0 if self.anchor is None else self.anchor.importance
        self.anchor = Anchor(earlier + new.importance, new.parameters)


class SI(Regularizer):
    """Synaptic intelligence (Zenke et al. 2017): how much a parameter's path lowered the loss.

    In a task omega -= g * (change of theta) at every step; after it Omega += omega / ((theta - theta_start)^2 +
    damping) and theta* is the latest. Omega is held at 0 or above. In the authors' released code the orthogonality loss
    is part of g though not of the first task's steps; importances become negative and training diverges. Here g is the
    gradient of the task's loss alone.

    Raises:
        ValueError: the strength is negative or the damping not above 0.
    """

    uses_task_gradient = True

    def __init__(self, strength: float, damping: float = 0.1):
        super().__init__(strength)
        if not 0 < damping < float("inf"):
            raise ValueError(f"damping is {damping}; it must be a finite number above 0")
        self.damping = damping
        # Theta at the start of the task. None between two tasks.
        self._start: Tensor | None = None
        self._omega: Tensor | None = None

    def before_step(self, theta: Tensor, gradient: Tensor) -> None:
        self._before, self._gradient = theta.detach().clone(), gradient.detach().clone()
        if self._start is None:
            self._start, self._omega = self._before.clone(), torch.zeros_like(self._before)

    def after_step(self, theta: Tensor) -> None:
        assert self._omega is not None, "before_step comes first"
        self._omega.addcmul_(self._gradient, self._before.sub_(theta.detach()))

    def end_task(self, theta: Tensor, fisher: Tensor | None = None) -> None:
        assert self._start is not None and self._omega is not None, "a task has at least one step"
        theta = theta.detach()
        importance = self._omega / ((theta - self._start).square() + self.damping)
        if self.anchor is not None:
            importance += self.anchor.importance
        self.anchor = Anchor(importance.clamp_min(0), theta.clone())
        self._start = self._omega = None

    def state_dict(self) -> dict[str, Tensor]:
        if self._start is None or self._omega is None:
            return super().state_dict()
        return super().state_dict() | {"start": self._start, "omega": self._omega}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._start, self._omega = state.get("start"), state.get("omega")


REGULARIZERS: dict[str, type[Regularizer]] = {"l2": L2, "ewc": EWC, "online-ewc": OnlineEWC, "si": SI}
"""The penalty of each method that has one. It is made from its strength."""


def _fisher_anchor(theta: Tensor, fisher: Tensor | None) -> Anchor:
    assert fisher is not None and fisher.shape == theta.shape, "EWC needs the Fisher information of the task"
    return Anchor(fisher.detach().clone(), theta.detach().clone())
