"""Reads settings that were stored as JSON.

A file that somebody sent may hold anything, so names and types are checked.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import msgspec

T = TypeVar("T")


def read_settings(kind: type[T], stored: Any) -> T:
    """Makes a settings dataclass from what `dataclasses.asdict` gave. Settings that are missing have their defaults.

    Raises:
        ValueError: in one line, an unknown name, a missing setting without a default, or a value of another type.
    """
    check_names(kind, stored)
    return msgspec.convert(stored, kind)


def select(kind: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among `stored` that a dataclass has."""
    return {field.name: stored[field.name] for field in fields(kind) if field.name in stored}


def check_names(kind: Any, stored: Any, *, group: str = "") -> None:
    """Raises ValueError for a name that is no field of a dataclass, or of a dataclass in it: msgspec would skip it."""
    if not is_dataclass(kind) or not isinstance(stored, Mapping):
        return
    kinds = {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
    for name, value in stored.items():
        if name not in kinds:
            raise ValueError(f"{group}{name} is no setting that this version knows")
        check_names(kinds[name], value, group=f"{group}{name}.")
