"""Checks of settings and inputs. Each error is one line with the name, the value and the allowed values.

The caller passes the name that the error shows. torch is not needed.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def check_known(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError unless the value is one of the choices. The error suggests the nearest choice."""
    choices = tuple(choices)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"{name} {value!r} is not known; choose one of {', '.join(choices)}{hint}")


def check_at_least(name: str, value: int | None, low: int) -> None:
    """Raises ValueError for a value below `low`. None means that a part is left out, and passes."""
    if value is not None and value < low:
        allowed = "0 or more" if low == 0 else f"at least {low}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")


def check_sizes(**sizes: int | None) -> None:
    """Raises ValueError for a size below 1. None means that a part is left out, and passes."""
    for name, size in sizes.items():
        check_at_least(name, size, 1)


def check_not_negative(name: str, value: float) -> None:
    """Raises ValueError for a number that is negative, infinite or NaN."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}; it must be a finite number, 0 or more")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError for a number that is 0, negative, infinite or NaN."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value}; it must be a finite number above 0")


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError unless the number is from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must be from 0 to 1")


def check_width(name: str, tensor: Tensor, width: int) -> None:
    """Raises ValueError unless the last axis of an input has the layer's width."""
    if tensor.shape[-1:] != (width,):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; its last axis must be {width}")
