"""The progress lines of many runs: redrawn on a terminal, repeated in a file."""

import re
from pathlib import Path

import pytest

from launch.experiments.board import Board

RUNS = [Path("runs") / name for name in ("a", "longer", "c", "d")]


@pytest.fixture(params=[False, True], ids=["file", "terminal"])
def terminal(request, monkeypatch) -> bool:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")
    return request.param


def screen(output: str) -> list[str]:
    """The lines that a terminal shows, which understands "up n lines" and "clear to the end"."""
    lines: list[str] = []
    for part in re.split(r"(\x1b\[\d+A\x1b\[J)", output):
        up = re.fullmatch(r"\x1b\[(\d+)A\x1b\[J", part)
        if up:
            del lines[len(lines) - int(up[1]) :]
        else:
            lines += part.splitlines()
    return lines


def test_a_file_has_whole_lines_and_a_terminal_lines_that_fit(terminal, capsys, monkeypatch):
    board = Board(RUNS)
    board.terminal = terminal
    long_line = "step 1 of 100,000  loss 0.5  ETA 1:00:00"
    board.update({"a": "loading"})
    monkeypatch.setattr(board, "shown", -float("inf"))
    board.update({"a": long_line, "longer": "loading", "c": "loading"})
    board.end("a", "done")
    output = capsys.readouterr().out
    running = ["longer  loading", "c       loading", "1 waiting"]
    ended = f"a       done     {long_line}"
    if terminal:
        assert screen(output) == [ended, *running]
        redrawn = [line for line in output.splitlines() if "done" not in line]
        assert f"a       {long_line}"[:19] in output and f"a       {long_line}" not in output
        assert max(len(re.sub(r"\x1b\[\w+", "", line)) for line in redrawn) < 20
    else:
        first = ["a       loading", "3 waiting"]
        second = [f"a       {long_line}", *running]
        assert output.splitlines() == [*first, *second, ended, *running]


def test_a_run_that_ends_before_its_first_line_no_longer_waits(terminal, capsys):
    board = Board(RUNS)
    board.terminal = terminal
    for run in RUNS:
        board.end(run.name, "failed")
    ended = ["a       failed", "longer  failed", "c       failed", "d       failed"]
    waiting = ["3 waiting", "2 waiting", "1 waiting"]
    lines = screen(capsys.readouterr().out)
    assert [line for line in lines if "failed" in line] == ended
    assert [line for line in lines if "waiting" in line] == ([] if terminal else waiting)
