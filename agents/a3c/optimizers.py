"""Shared optimisers of A3C, on the flat parameter vector."""

import torch
from torch import nn

from agents.a3c.config import A3CConfig


class SharedRMSProp(torch.optim.Optimizer):
    """RMSProp of Mnih et al. 2016: g <- decay g + (1 - decay) d^2, theta <- theta - rate d / sqrt(g + epsilon).

    `torch.optim.RMSprop` adds epsilon outside the root, which at the paper's 0.1 is another optimiser.
    """

    def __init__(self, parameters: list[nn.Parameter], *, lr: float, decay: float, epsilon: float):
        super().__init__(parameters, dict(lr=lr, decay=decay, epsilon=epsilon))

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["square_average"] = torch.zeros_like(parameter)
                square = state["square_average"]
                square.mul_(group["decay"]).addcmul_(parameter.grad, parameter.grad, value=1 - group["decay"])
                parameter.addcdiv_(parameter.grad, (square + group["epsilon"]).sqrt_(), value=-group["lr"])


def build_optimizer(config: A3CConfig, parameter: nn.Parameter) -> torch.optim.Optimizer:
    if config.optimizer == "rmsprop":
        return SharedRMSProp(
            [parameter], lr=config.learning_rate, decay=config.rmsprop_decay, epsilon=config.rmsprop_epsilon
        )
    return torch.optim.Adam([parameter], lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
