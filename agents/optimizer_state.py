"""An optimiser's statistics as named tensors, as checkpoints hold them."""

import torch
from torch import Tensor


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the statistics of all parameters, named <number of the parameter>.<statistic>."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, statistics in state.items()
        for name, value in statistics.items()
        if value is not None
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Gives an optimiser the statistics that `optimizer_state` returned."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape:
            # Fused optimisers ignore strides, so the statistics need the parameter's layout, which may be channels last.
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
