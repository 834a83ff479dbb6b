"""Learning curves of runs as a table and a picture."""

import resource
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from launch.plot import main
from tests.commands import in_this_process, rows_of


def run_of(path: Path, returns: list[float], *, pause: float = 0.0) -> Path:
    """Writes a run with a game every 100 steps and 30 seconds, and a pause before the last game."""
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    with SummaryWriter(str(path)) as writer:
        for game, value in enumerate(returns):
            at = 1e9 + 30 * game + pause * (game == len(returns) - 1)
            writer.add_scalar("charts/frames", 400 * game, 100 * game, walltime=at)
            writer.add_scalar("charts/episodic_return", value, 100 * game, walltime=at)
    return path


def test_the_return_is_a_moving_mean_and_pauses_are_no_time(tmp_path):
    run = run_of(tmp_path / "Pong", [-20.0, -10.0, 0.0, 10.0], pause=3600.0)
    status, output, errors = in_this_process(main, run, "--window", 2, "--out", tmp_path / "pong")
    assert errors == "" and "wrote" in output and status == 0
    rows = rows_of(tmp_path / "pong.csv")
    assert [row["run"] for row in rows] == ["Pong"] * 4
    assert [int(row["agent_steps"]) for row in rows] == [0, 100, 200, 300]
    assert [float(row["mean_return_of_2_games"]) for row in rows] == [-20, -15, -5, 5]
    assert [float(row["minutes"]) for row in rows] == pytest.approx([0, 0.5, 1, 1])
    assert (tmp_path / "pong.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_the_same_name_and_outputs_with_a_dot_are_kept_apart(tmp_path):
    runs = [run_of(tmp_path / sweep / "pong-seed1", [float(number)]) for number, sweep in enumerate("ab")]
    in_this_process(main, *runs, "--out", tmp_path / "lr0.001")
    rows = rows_of(tmp_path / "lr0.001.csv")
    assert [row["run"] for row in rows] == list(map(str, runs))
    assert (tmp_path / "lr0.001.png").exists()


def test_a_full_disk_is_one_line_and_leaves_the_earlier_table_as_it_was(tmp_path):
    run = run_of(tmp_path / "Pong", [1.0])
    (tmp_path / "out.csv").write_text("earlier")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    try:
        status, output, errors = in_this_process(main, run, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (status, output) == (1, "")
    assert errors == f"error: [Errno 27] File too large: '{tmp_path / 'out.csv'}'\n"
    assert (tmp_path / "out.csv").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Pong", "out.csv"]
