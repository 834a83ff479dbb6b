"""Sequences made of pieces of random polynomials, to be predicted point by point.

Source: the paper's appendix, "Synthetic polynomial auto-regression".

Shapes: B sequences, T points, n_pa pieces, D + 1 = 11 coefficients of a polynomial.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 5.0
"""x runs from -5 to 5."""
LOWEST_DEGREE, HIGHEST_DEGREE = 2, 10
NOISE = 0.3
"""Variance of the noise, as a share of the largest |y|."""


def sequences(
    batch: int,
    *,
    points: int = 100,
    pieces: int = 5,
    noise: bool = False,
    scale: Literal["chunk", "sequence", "raw"] = "chunk",
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draws sequences: the inputs of the network at every step, and the targets.

    The paper does not give T, and says of n_pa only that it is doubled. 100 points, and 5 or 10 pieces, are
    our choice, and so is the input x / 5, in [-1, 1].

    Args:
        batch: B, the number of sequences.
        points: T, from x = -5 to x = 5 at equal distances.
        pieces: n_pa, the number of chunks of T / n_pa points. Each chunk has a polynomial of its own.
        noise: add N(0, 0.3 max_t |y_t|) to y after scaling, where the second number is a variance. Inputs
            and targets have the same noise. The paper writes max_t y_t, which may be negative.
        scale: what is divided by its largest |y|: every "chunk", every "sequence", or nothing ("raw", where
            |y| reaches 1e7). The paper names no scaling. But raw values are too large for a GRU, and in a
            sequence scaled as a whole one large chunk hides the others.
        generator: the source of all randomness, on the CPU.

    Returns:
        Inputs (x_t / 5, y_{t-1}) with y_0 = 0, (B, T, 2), and targets y_t, (B, T), float32 on the CPU.

    Raises:
        ValueError: a size below 1, points not divisible by pieces, or an unknown scale.
    """
    for name, size in (("batch", batch), ("points", points), ("pieces", pieces)):
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")
    if points % pieces:
        raise ValueError(f"points is {points} and pieces is {pieces}; pieces must divide points")

    x = torch.linspace(-REACH, REACH, points, dtype=torch.float64)
    chunks = evaluate(draw_coefficients(batch, pieces, generator=generator), x)  # (B, n_pa, T / n_pa)
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
    previous = F.pad(y[:, :-1], (1, 0))
    inputs = torch.stack(((x / REACH).expand_as(y), previous), dim=-1)  # (B, T, 2)
    return inputs.float(), y.float()


def draw_coefficients(batch: int, pieces: int, *, generator: torch.Generator) -> Tensor:
    """Draws coefficients (B, n_pa, 11) in float64, the constant first.

    The degree is uniform in 2..10. The coefficients up to it are uniform in [-1, 1], and those above it are
    0.
    """
    degrees = torch.randint(LOWEST_DEGREE, HIGHEST_DEGREE + 1, (batch, pieces, 1), generator=generator)
    size = (batch, pieces, HIGHEST_DEGREE + 1)
    coefficients = 2 * torch.rand(size, dtype=torch.float64, generator=generator) - 1
    return coefficients.where(torch.arange(HIGHEST_DEGREE + 1) <= degrees, 0.0)


def evaluate(coefficients: Tensor, x: Tensor) -> Tensor:
    """Evaluates polynomials (B, n_pa, D + 1) on equal chunks of x (T,) by Horner's rule: (B, n_pa, T / n_pa)."""
    x = x.view(coefficients.shape[1], -1)  # (n_pa, T / n_pa)
    y = torch.zeros_like(x)
    for coefficient in reversed(coefficients.unbind(dim=-1)):
        y = y * x + coefficient.unsqueeze(-1)
    return y
