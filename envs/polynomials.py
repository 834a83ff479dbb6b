"""Sequences made of pieces of random polynomials, to be predicted point by point.

Source: the paper's appendix, "Synthetic polynomial auto-regression".

Shapes: B sequences, T points, n_pa pieces, D + 1 = 11 coefficients of a polynomial.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 5.0  # x runs from -5 to 5
LOWEST_DEGREE, HIGHEST_DEGREE = 2, 10
NOISE = 0.3  # variance of the noise, as a share of the largest |y|


def sequences(
    batch: int,
    *,
    points: int = 100,
    pieces: int = 5,
    noise: bool = False,
    scale: Literal["chunk", "sequence", "raw"] = "chunk",
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Fresh sequences: what the network is fed at every step, and what it shall answer.

    The paper gives n_pa as "doubled" only and T not at all: 100 points, and 5 or 10 pieces, are chosen. The network is
    fed x / 5, in [-1, 1], also a choice.

    Args:
        batch: B.
        points: T, from x = -5 to x = 5 at equal distances.
        pieces: n_pa, chunks of T / n_pa points with a polynomial each.
        noise: add N(0, 0.3 max_t |y_t|) to y after scaling, the second number a variance. It is part of y: the
            targets have it and so do the inputs. The paper writes max_t y_t, which may be negative.
        scale: what is divided by its largest |y|: every chunk, every sequence, or nothing ("raw": |y| reaches 1e7).
            The paper names no scaling, but raw values are out of a GRU's reach, and in a sequence scaled as a whole
            one large chunk hides the others.
        generator: source of all randomness, on the CPU.

    Returns:
        Inputs (B, T, 2), of (x_t / 5, y_{t-1}) with y_0 = 0, and targets y (B, T), float32 on the CPU.

    Raises:
        ValueError: a size below 1, points not divisible by pieces, or an unknown scale.
    """
    for name, size in (("batch", batch), ("points", points), ("pieces", pieces)):
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")
    if points % pieces:
        raise ValueError(f"points is {points} and pieces is {pieces}; pieces must divide points")

    x = torch.linspace(-REACH, REACH, points, dtype=torch.float64)
    chunks = evaluate(draw_coefficients(batch, pieces, generator=generator), x)
    if scale == "chunk":
        chunks = chunks / chunks.abs().amax(dim=2, keepdim=True)
    elif scale == "sequence":
        chunks = chunks / chunks.abs().amax(dim=(1, 2), keepdim=True)
    elif scale != "raw":
        raise ValueError(f"scale is {scale!r}; it must be 'chunk', 'sequence' or 'raw'")
    y = chunks.flatten(1)  # (B, T)
    if noise:
        variance = NOISE * y.abs().amax(dim=1, keepdim=True)
        y = y + variance.sqrt() * torch.randn(y.shape, dtype=y.dtype, generator=generator)
    previous = F.pad(y[:, :-1], (1, 0))  # y_0 = 0
    inputs = torch.stack(((x / REACH).expand_as(y), previous), dim=-1)
    return inputs.float(), y.float()


def draw_coefficients(batch: int, pieces: int, *, generator: torch.Generator) -> Tensor:
    """Coefficients (B, n_pa, 11) in float64, the constant first; those above the degree are 0.

    The degree is uniform in 2..10, the coefficients up to it in [-1, 1].
    """
    degrees = torch.randint(LOWEST_DEGREE, HIGHEST_DEGREE + 1, (batch, pieces, 1), generator=generator)
    size = (batch, pieces, HIGHEST_DEGREE + 1)
    coefficients = 2 * torch.rand(size, dtype=torch.float64, generator=generator) - 1
    return coefficients.where(torch.arange(HIGHEST_DEGREE + 1) <= degrees, 0.0)


def evaluate(coefficients: Tensor, x: Tensor) -> Tensor:
    """Values (B, n_pa, T / n_pa) of polynomials (B, n_pa, D + 1) on equal chunks of x (T,), by Horner's rule."""
    x = x.view(coefficients.shape[1], -1)  # (n_pa, T / n_pa)
    y = torch.zeros_like(x)
    for coefficient in reversed(coefficients.unbind(dim=-1)):
        y = y * x + coefficient.unsqueeze(-1)
    return y
