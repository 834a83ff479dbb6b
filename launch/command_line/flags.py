"""Looks at a command line beyond its parsed values: the flags that were given, and presets as defaults."""

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import tyro

from neurocoder.settings import SETTINGS

Config = TypeVar("Config")


def given_flags(argv: Iterable[str]) -> list[str]:
    """Names the flags on a command line, each once: "--batch-size" for "--batch_size=5", "--bias" for "--no-bias"."""
    names = [word.split("=")[0].replace("_", "-") for word in argv if re.match("--[A-Za-z]", word)]
    return list(dict.fromkeys(re.sub(r"^(--|--.*\.)no-", r"\1", name) for name in names))


def refuse_unused_layers(argv: Iterable[str], layers: Iterable[str]) -> None:
    """Raises ValueError for a flag of a layer that is not among `layers`. "lowrank" uses the Neurocoder's settings."""
    layers = tuple(layers)
    used = {"neurocoder" if layer == "lowrank" else layer for layer in layers}
    for name in given_flags(argv):
        group, dot, _ = name.removeprefix("--").partition(".")
        if dot and group in SETTINGS and group not in used:
            raise ValueError(f"{name}: {group} is not among the layers of these runs ({', '.join(layers)})")


def parse_with_defaults(config: Config, arguments: Any, argv: list[str], *, program: str) -> Config:
    """Returns `config` with those of its settings that are on the command line.

    A preset depends on other arguments, such as the layer. So the command line is parsed once to know these, and once
    more with the preset as the defaults.

    Args:
        config: the preset, a dataclass.
        arguments: the parsed command line, a dataclass. Its field `settings` is a dataclass of some fields of `config`.
    """
    assert is_dataclass(config) and not isinstance(config, type)
    kind = type(arguments.settings)
    names = [field.name for field in fields(kind)]
    defaults = kind(**{name: getattr(config, name) for name in names})
    given = tyro.cli(type(arguments), args=argv, default=replace(arguments, settings=defaults), prog=program)
    return replace(config, **{name: getattr(given.settings, name) for name in names})
