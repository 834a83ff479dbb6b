"""Progress lines: plain ones by a clock under control, those of a terminal on a pseudo-terminal."""

import fcntl
import os
import pty
import struct
import termios

import pytest

from agents.runs.progress import GamesProgress, Progress
from tests.commands import read_terminal


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The seconds that a progress line reads: the first entry."""
    seconds = [0.0]
    monkeypatch.setattr("agents.runs.progress.time.monotonic", lambda: seconds[0])
    return seconds


def test_games_have_a_plain_line_every_30_seconds_where_there_is_no_terminal(clock, capsys):
    progress = GamesProgress(10, name="step-000000001000")
    for second in range(100):
        clock[0] = second
        progress(second // 20, 15 * second)
    progress(10, 1_500)
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.splitlines() == [
        # After 30 s with one game done, nine more would take 270 s.
        "step-000000001000  1 of 10 games done, longest 450 steps  ETA 4:30",
        "step-000000001000  3 of 10 games done, longest 900 steps  ETA 2:20",
        "step-000000001000  4 of 10 games done, longest 1,350 steps  ETA 2:15",
    ]


def test_a_long_game_of_a_long_evaluation_fits_a_line_of_80_characters(clock, capsys):
    progress = GamesProgress(100, name="checkpoint 100 of 100")
    clock[0] = 3_000.0
    progress(10, 27_000)
    assert "ETA 7:30:00" in (line := capsys.readouterr().err) and len(line) <= 80


def test_a_run_has_a_plain_line_every_30_seconds_with_the_speed_of_the_last_minute(clock, capsys):
    progress = Progress(10_000, frame_skip=4, env_steps=1_000)
    steps = 1_000
    for second in range(1, 181):
        clock[0] = second
        steps += 10 if second <= 60 else 20
        progress.update(steps, None if second < 60 else 1.25)
    progress.say("checkpoint here")
    assert progress.steps_per_second == pytest.approx(20)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1,300 / 10,000 steps  10 steps/s  40 frames/s  mean return -  ETA 14:30"
    # The window begins with the last mark that is more than 60 s old, at 29 s: 910 steps in 61 s.
    assert lines[2] == "2,200 / 10,000 steps  15 steps/s  60 frames/s  mean return 1.2  ETA 8:43"
    assert lines[5:] == [
        "4,000 / 10,000 steps  20 steps/s  80 frames/s  mean return 1.2  ETA 5:00",
        "checkpoint here",
    ]


@pytest.mark.parametrize("columns", [0, 40, 200])
def test_on_a_terminal_the_line_is_cut_to_its_width_and_rewritten(clock, monkeypatch, columns):
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    with open(end, "w") as screen:
        monkeypatch.setattr("sys.stdout", screen)
        progress = Progress(100_000_000, frame_skip=4, env_steps=0)
        for second in (0.5, 1.0, 1.5, 2.0):
            clock[0] = second
            progress.update(int(10_000 * second), 1.0)
        progress.say("checkpoint here")
        monkeypatch.undo()
    shown = read_terminal(terminal)
    os.close(terminal)
    first = "10,000 / 100,000,000 steps  10,000 steps/s  40,000 frames/s  mean return 1.0  ETA 2:46:39"
    second = "20,000 / 100,000,000 steps  10,000 steps/s  40,000 frames/s  mean return 1.0  ETA 2:46:38"
    width = (columns or 80) - 1
    # A terminal driver writes a line break as two characters.
    assert shown.replace("\r\n", "\n").split("\r\x1b[K") == [
        "",
        first[:width],
        second[:width],
        "checkpoint here\n",
    ]


def test_a_run_that_has_taken_more_steps_than_asked_for_has_no_time_left(clock, capsys):
    progress = Progress(1_000, frame_skip=4, env_steps=900)
    clock[0] = 30.0
    progress.update(990, None)
    clock[0] = 61.0
    progress.update(1_100, None)
    assert capsys.readouterr().out.rstrip().endswith("ETA 0:00")


def test_a_resumed_run_has_its_speed_from_its_own_steps_and_none_while_its_workers_start(clock, capsys):
    progress = Progress(2_000_000, frame_skip=4, env_steps=1_000_000)
    steps = 1_000_000
    for second in range(1, 101):
        clock[0] = second
        # Workers start for 65 s. Then each second brings 500 steps.
        steps += 500 * (second > 65)
        progress.update(steps, None)
    assert capsys.readouterr().out.splitlines() == [
        "1,000,000 / 2,000,000 steps  mean return -",
        "1,000,000 / 2,000,000 steps  mean return -",
        "1,012,500 / 2,000,000 steps  500 steps/s  2,000 frames/s  mean return -  ETA 32:55",
    ]


def test_a_run_that_takes_a_step_once_in_minutes_has_no_time_left_until_its_speed_is_known(clock, capsys):
    progress = Progress(1_000, frame_skip=4, env_steps=0)
    for second, steps in ((30, 0), (100, 10), (200, 10), (300, 20)):
        clock[0] = second
        progress.update(steps, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["0 / 1,000 steps  mean return -", *["10 / 1,000 steps  mean return -"] * 2]
    assert lines[3].endswith("ETA 2:43:20")
