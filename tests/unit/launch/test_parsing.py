"""How command lines are read: whole numbers, help, and errors of one line."""

import re
from importlib import import_module

import pytest

from launch.command_line.parsing import one_line, whole_number
from tests.commands import in_this_process


@pytest.mark.parametrize("word", ["1000000", "1_000_000", "1e6", "1E6", "1.0e6", "+1e6", "1000000.0"])
def test_a_whole_number_may_be_written_in_every_usual_way(word):
    number = whole_number(word)
    assert number == 1_000_000 and type(number) is int


def test_large_whole_numbers_are_exact():
    assert whole_number("12345678901234567") == 12_345_678_901_234_567
    assert whole_number("-3") == -3


@pytest.mark.parametrize("word", ["1.5", "1e-3", "many", "", "nan", "inf", "1e999999999", "None"])
def test_what_is_no_whole_number_is_refused(word):
    with pytest.raises(ValueError, match="is not a whole number"):
        whole_number(word)


def test_an_error_in_a_box_becomes_one_line_whatever_its_width():
    box = """\x1b[31m╭─ Unrecognized options ─╮\x1b[0m
│ Unrecognized options:  │
│ --stepss               │
│ ────────────────────── │
│ Perhaps you meant:     │
│     --steps, --no-steps│
│ ────────────────────── │
│ For full helptext, run │
│ prog --help            │
╰────────────────────────╯
"""
    assert one_line(box) == "unrecognized options: --stepss (did you mean --steps?)"


def shown(command: str, *arguments: str) -> str:
    """Returns the help of a command."""
    status, output, errors = in_this_process(import_module(f"launch.{command}").main, *arguments, "--help")
    assert (status, errors) == (0, "")
    return output


def defaults(text: str) -> dict[str, str]:
    """Returns the default of each flag in a help text."""
    options = re.split(r"^│ (?=--)", text, flags=re.MULTILINE)[1:]
    plain = [re.sub(r"[│\s]+", " ", option) for option in options]
    return {
        option.split()[0].rstrip(","): match[1]
        for option in plain
        if (match := re.search(r"\(default: (.*?)\)", option))
    }


COMMANDS = [
    ("train", ()),
    ("rllib", ("--algo", "ppo")),
    ("sweep", ()),
    ("evaluate", ("runs/some",)),
    ("plot", ("runs/some",)),
    ("supervised", ()),
    ("supervised", ("mnist",)),
    ("continual", ("split-mnist",)),
]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_help_fits_the_terminal_and_shows_no_signs_of_python(command, arguments, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown(command, *arguments)
    assert columns - 8 < max(map(len, text.splitlines())) <= columns
    assert "{None}" not in text and "no-no-" not in text and "Optional" not in text


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (
            "supervised",
            ("mnist",),
            {"--optimizer": "sgd", "--learning-rate": "0.01", "--neurocoder.slots": "5", "--epochs": "20"},
        ),
        (
            "supervised",
            ("polynomials", "--preset", "multi-step", "--seeds", "3"),
            {"--hidden": "8", "--neurocoder.slots": "20", "--steps": "10000", "--seeds": "1"},
        ),
        ("supervised", ("polynomials", "--layer", "hypernet,mlp"), {"--hidden": "28"}),
        ("continual", ("split-mnist",), {"--adapt": "heads", "--neurocoder.slots": "50"}),
        (
            "continual",
            ("split-cifar10", "--preset", "table-6", "--method", "ewc"),
            {"--adapt": "all", "--hidden": "500", "--strength": "100.0", "--neurocoder.slots": "100"},
        ),
        ("train", ("--preset", "two-cores"), {"--learning-rate": "0.0005", "--optimizer": "adam"}),
        ("rllib", ("--algo", "ppo"), {"--learning-rate": "0.0004", "--batch-size": "320"}),
    ],
)
def test_help_shows_what_would_run(command, arguments, expected):
    assert defaults(shown(command, *arguments)).items() >= expected.items()


@pytest.mark.parametrize(
    ("command", "name"), [("supervised", "TASK"), ("continual", "BENCHMARK"), ("plot", "RUN ...")]
)
def test_help_names_what_must_be_given(command, name):
    usage, *lines = shown(command).splitlines()
    assert name in usage
    (line,) = (line for line in lines if line.startswith(f"│ {name} "))
    assert "default" not in line


def test_the_learning_rate_has_one_name_in_every_command():
    for command in ("train", "rllib", "sweep", "supervised", "continual"):
        text = shown(command)
        assert "--learning-rate " in text and "--lr" not in text
