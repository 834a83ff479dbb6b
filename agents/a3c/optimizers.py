"""The optimisers of A3C, whose statistics all workers share, on the flat parameter vector."""

import torch
from torch import nn

from agents.a3c.config import A3CConfig

BLOCK_SIZE = 2**18
"""Parameters that are updated at a time. Their intermediate results, a megabyte, stay in the processor's cache."""


class SharedRMSProp(torch.optim.Optimizer):
    """RMSProp of Mnih et al. 2016: g <- decay g + (1 - decay) d^2, theta <- theta - rate d / sqrt(g + epsilon).

    `torch.optim.RMSprop` adds epsilon outside the root. At the paper's 0.1 that is another optimiser.
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
                vectors = (parameter, parameter.grad, state["square_average"])
                for theta, d, g in zip(
                    *(vector.view(-1).split(BLOCK_SIZE) for vector in vectors), strict=True
                ):
                    g.mul_(group["decay"]).addcmul_(d, d, value=1 - group["decay"])
                    theta.addcdiv_(d, (g + group["epsilon"]).sqrt_(), value=-group["lr"])


def build_optimizer(config: A3CConfig, parameter: nn.Parameter) -> torch.optim.Optimizer:
    """Makes the configured optimiser of one parameter vector."""
    if config.optimizer == "rmsprop":
        return SharedRMSProp(
            [parameter], lr=config.learning_rate, decay=config.rmsprop_decay, epsilon=config.rmsprop_epsilon
        )
    return torch.optim.Adam(
        [parameter],
        lr=config.learning_rate,
        eps=config.adam_epsilon,
        amsgrad=config.optimizer == "amsgrad",
        fused=True,
    )
