"""Looks at a command line beyond its parsed values: the flags that were given, and presets as defaults."""

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from launch.command_line.parsing import read_arguments
from neurocoder.settings import SETTINGS

Config = TypeVar("Config")
Settings = TypeVar("Settings")


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
    defaults = settings_of(config, type(arguments.settings))
    given = read_arguments(
        type(arguments), argv, program=program, default=replace(arguments, settings=defaults)
    )
    return replace(config, **{field.name: getattr(given.settings, field.name) for field in fields(defaults)})


def settings_of(config: Any, kind: type[Settings]) -> Settings:
    """Returns those fields of `config` that the dataclass `kind` has, too."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})  # type: ignore[arg-type]
