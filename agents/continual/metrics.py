"""Metrics of continual learning, from the accuracy matrix (Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018).

R[t, i] is the accuracy on task i after training on task t, of T tasks. Every function takes R (..., T, T) and computes
in double precision. The leading axes are for example seeds. Means over no task are nan: with one task there is no
transfer, and a 0 would count as a measurement in averages.
"""

import torch
from torch import Tensor


def average_accuracy(R: Tensor) -> Tensor:
    """Computes mean_i R[T-1, i], the accuracy after the last task: (...)."""
    return _checked(R)[..., -1, :].mean(dim=-1)


def learned(R: Tensor) -> Tensor:
    """Computes mean_i R[i, i], the accuracy on each task right after it: (...)."""
    return _right_after(R).mean(dim=-1)


def backward_transfer(R: Tensor) -> Tensor:
    """Computes mean_{i < T-1} (R[T-1, i] - R[i, i]), negative where tasks are forgotten: (...). nan for T = 1."""
    return (_checked(R)[..., -1, :-1] - _right_after(R)[..., :-1]).mean(dim=-1)


def forgetting(R: Tensor) -> Tensor:
    """Computes mean_{i < T-1} (max_t R[t, i] - R[T-1, i]): (...). nan for T = 1.

    The maximum is over all t, so the result is never negative. Chaudhry et al. leave out t = T-1.
    """
    R = _checked(R)[..., :-1]
    return (R.amax(dim=-2) - R[..., -1, :]).mean(dim=-1)


def forward_transfer(R: Tensor, random: Tensor) -> Tensor:
    """Computes mean_{i > 0} (R[i-1, i] - random[i]): (...). nan for T = 1.

    The metric has a meaning where tasks not yet seen can be answered. With a head for each task, they cannot.

    Args:
        random: accuracies (..., T) of the untrained network.
    """
    before = _checked(R).diagonal(offset=1, dim1=-2, dim2=-1)  # R[i-1, i], (..., T-1)
    if random.shape != R.shape[:-1]:
        raise ValueError(f"random has shape {tuple(random.shape)}; R's calls for {tuple(R.shape[:-1])}")
    return (before - random.double()[..., 1:]).mean(dim=-1)


def all_metrics(R: Tensor, random: Tensor) -> dict[str, Tensor]:
    """Computes every metric above, by name: (...) each. `random` is as in `forward_transfer`."""
    return {
        "average accuracy": average_accuracy(R),
        "learned": learned(R),
        "forgetting": forgetting(R),
        "backward transfer": backward_transfer(R),
        "forward transfer": forward_transfer(R, random),
    }


def accuracy_on_seen_tasks(R: Tensor) -> Tensor:
    """Computes mean_{i <= t} R[t, i] for every t, the curve of the paper's Figure 8: (..., T)."""
    R = _checked(R)
    return R.tril().sum(dim=-1) / torch.arange(1, R.shape[-1] + 1, device=R.device)


def _right_after(R: Tensor) -> Tensor:
    """Returns R[i, i], (..., T)."""
    return _checked(R).diagonal(dim1=-2, dim2=-1)


def _checked(R: Tensor) -> Tensor:
    if R.ndim < 2 or R.shape[-1] != R.shape[-2] or R.shape[-1] == 0:
        raise ValueError(f"R has shape {tuple(R.shape)}; it must be (..., T, T) with T >= 1")
    return R.double()
