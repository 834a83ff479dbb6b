"""Checks of a layer's settings and inputs: errors that name the thing, what it is and what it may be."""

import math

from torch import Tensor


def check_sizes(**sizes: int | None) -> None:
    """ValueError for a size below 1. None stands for a part that is left out."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def check_weights(**weights: float) -> None:
    """ValueError for a weight of a loss that is below 0, infinite or not a number."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} is {weight}; it must be a finite number, 0 or more")


def check_scale(name: str, scale: float) -> None:
    """ValueError for a factor that is not above 0, infinite or not a number."""
    if not 0 < scale < math.inf:
        raise ValueError(f"{name} is {scale}; it must be a finite number above 0")


def check_width(name: str, tensor: Tensor, width: int) -> None:
    """ValueError for an input whose last axis is not as wide as the layer."""
    if tensor.shape[-1:] != (width,):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; its last axis must be {width}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """ValueError for a value that is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
