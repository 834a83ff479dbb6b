"""Reads a command line into a dataclass with tyro.

Whole numbers may be written as 1e6. Help is as wide as the terminal. A mistake is refused in one line.
"""

import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, TextIO, TypeVar, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from launch.command_line.errors import fail

T = TypeVar("T")
Rule = PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None

HELP = {"-h", "--help"}
RULES = ConstructorRegistry()
"""How values are read. What has no rule here is read as tyro does it."""


@RULES.primitive_rule
def _whole_number_rule(kind: PrimitiveTypeInfo) -> Rule:
    if kind.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole_number(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


@RULES.primitive_rule
def _none_rule(kind: PrimitiveTypeInfo) -> Rule:
    if kind.type is not NoneType:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="None",
        instance_from_str=lambda words: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda value: ["None"],
        choices=("None",),
    )


@RULES.primitive_rule
def _optional_rule(kind: PrimitiveTypeInfo) -> Rule:
    """Takes a path or a word that need not be given. "None" is then a name like any other."""
    if set(get_args(kind.type)) not in ({Path, NoneType}, {str, NoneType}):
        return None
    if tyro.conf.DisallowNone in kind.markers:
        return None
    given = replace(kind, markers=kind.markers | {tyro.conf.DisallowNone})
    return ConstructorRegistry.get_primitive_spec(given)


def whole_number(word: str) -> int:
    """Reads 1000000, 1_000_000 or 1e6. Raises ValueError for what is not a whole number."""
    try:
        number = Decimal(word)
        if abs(number) < 10**18 and number == int(number):
            return int(number)
    except (ArithmeticError, ValueError):
        pass
    raise ValueError(f"{word!r} is not a whole number below 10^18")


def read_arguments(
    kind: type[T],
    argv: Sequence[str],
    *,
    program: str,
    description: str | None = None,
    default: T | None = None,
) -> T:
    """Reads a command line. Prints help and exits if it asks for that, and refuses a mistake.

    Args:
        kind: a dataclass.
        program: the command as it is typed.
        default: has the values of flags that are not given. None stands for the defaults of `kind`.
    """
    if not HELP.isdisjoint(argv):
        # Beside other words, tyro would show no help about those that it has read.
        argv = ["--help"]
    defaults = {} if default is None else {"default": default}
    return _run_tyro(kind, argv, prog=program, description=description, **defaults)


def read_known_arguments(kind: type[T], argv: Sequence[str], *, program: str) -> tuple[T, list[str]]:
    """Reads the flags of `kind`. Returns the other words, too, even --help. Refuses a mistake in those of `kind`."""
    return _run_tyro(kind, argv, prog=program, return_unknown_args=True, add_help=False)


def _run_tyro(kind: type[T], argv: Sequence[str], **options: Any) -> Any:
    wants_help = not HELP.isdisjoint(argv)
    output, errors = _Captured(like=sys.stdout), _Captured(like=sys.stderr)
    try:
        with redirect_stdout(output), redirect_stderr(errors), _columns(None if wants_help else 10_000):
            return tyro.cli(kind, args=argv, registry=RULES, **options)
    except SystemExit as ended:
        if ended.code:
            fail(one_line(errors.getvalue()))
        text = output.getvalue()
        print(wrapped(text, width=shutil.get_terminal_size().columns) if wants_help else text, end="")
        raise


class _Captured(io.StringIO):
    """Takes what tyro prints for a stream. tyro asks it for colours and for the letters to draw boxes with."""

    encoding = "utf-8"

    def __init__(self, *, like: TextIO):
        super().__init__()
        self.isatty = like.isatty  # type: ignore[method-assign]


@contextmanager
def _columns(count: int | None) -> Iterator[None]:
    """Makes tyro format for a terminal of this many columns. With None it uses the width of the terminal."""
    before = os.environ.get("COLUMNS")
    if count is not None:
        os.environ["COLUMNS"] = str(count)
    try:
        yield
    finally:
        if count is not None:
            del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def one_line(box: str) -> str:
    """Returns the message in a box that tyro has drawn around an error, with the nearest flag if it names any."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()[1:-1]]
    sections = [section.split() for section in re.split(r"^─+$", "\n".join(lines), flags=re.MULTILINE)]
    message = " ".join(sections[0]).removeprefix("Error parsing ")
    # Where several types are possible: "--steps: no type matching {None}|INT could be instantiated from ['x']. ..."
    if several := re.match(
        r"(\S+): no type matching (\S+) could be instantiated from \['(.*?)'\]\.", message
    ):
        message = f"{several[1]}: {several[3]!r} is not {several[2].replace('|', ' or ')}"
    near = re.findall(
        r"--[\w.-]+", " ".join(word for section in sections if section[0] == "Perhaps" for word in section)
    )
    unknown = next((word for word in sections[0] if word.startswith("--")), "")
    hint = "".join(f" (did you mean {flag}?)" for flag in get_close_matches(unknown, near, n=1, cutoff=0.0))
    return message[0].lower() + message[1:] + hint


def wrapped(text: str, *, width: int) -> str:
    """Breaks the lines of help that are wider than the terminal. tyro breaks those in boxes only."""
    lines = [
        line if len(line) <= width or line[:1] in "╭│╰\x1b" else _broken(line, width)
        for line in re.sub(r"\n{3,}", "\n\n", text).splitlines()
    ]
    return "\n".join(lines) + "\n"


def _broken(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(line, width, subsequent_indent=indent)
