"""Metrics of continual learning, from the accuracy matrix (Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018).

R[t, i] is the accuracy on task i after training on task t, of T tasks. Every function takes R (..., T, T), the leading
axes being e.g. seeds, and computes in double precision. Means over no task are nan: with one task there is no transfer
to speak of, and a 0 would count as a measurement in averages.
"""

import torch
from torch import Tensor


def average_accuracy(R: Tensor) -> Tensor:
    """mean_i R[T-1, i], after the last task: (...)."""
    return _checked(R)[..., -1, :].mean(dim=-1)


def learned(R: Tensor) -> Tensor:
    """mean_i R[i, i], on each task right after it: (...)."""
    return _right_after(R).mean(dim=-1)


def backward_transfer(R: Tensor) -> Tensor:
    """mean_{i < T-1} (R[T-1, i] - R[i, i]), negative where tasks are forgotten: (...); nan for T = 1."""
    return (_checked(R)[..., -1, :-1] - _right_after(R)[..., :-1]).mean(dim=-1)


def forgetting(R: Tensor) -> Tensor:
    """mean_{i < T-1} (max_t R[t, i] - R[T-1, i]): (...); nan for T = 1.

    The maximum is over all t, so it is never negative; Chaudhry et al. leave out t = T-1.
    """
    R = _checked(R)[..., :-1]
    return (R.amax(dim=-2) - R[..., -1, :]).mean(dim=-1)


def forward_transfer(R: Tensor, random: Tensor) -> Tensor:
    """mean_{i > 0} (R[i-1, i] - random[i]): (...); nan for T = 1.

    It means something where a task not yet seen can be answered, so not with an untrained head for each task.

    Args:
        random: (..., T), accuracies of the untrained network.
    """
    before = _checked(R).diagonal(offset=1, dim1=-2, dim2=-1)  # R[i-1, i], (..., T-1)
    if random.shape != R.shape[:-1]:
        raise ValueError(f"random has shape {tuple(random.shape)}; R's calls for {tuple(R.shape[:-1])}")
    return (before - random.double()[..., 1:]).mean(dim=-1)


def accuracy_on_seen_tasks(R: Tensor) -> Tensor:
    """mean_{i <= t} R[t, i] for every t, the curve of the paper's Figure 8: (..., T)."""
    R = _checked(R)
    return R.tril().sum(dim=-1) / torch.arange(1, R.shape[-1] + 1, device=R.device)


def _right_after(R: Tensor) -> Tensor:
    """R[i, i], (..., T)."""
    return _checked(R).diagonal(dim1=-2, dim2=-1)


def _checked(R: Tensor) -> Tensor:
    if R.ndim < 2 or R.shape[-1] != R.shape[-2] or R.shape[-1] == 0:
        raise ValueError(f"R has shape {tuple(R.shape)}; it must be (..., T, T) with T >= 1")
    return R.double()
