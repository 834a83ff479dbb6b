"""Learning curves of runs as a table and a picture."""

import json
import resource
from pathlib import Path

import matplotlib.image
import pytest
from torch.utils.tensorboard import SummaryWriter

from launch.plot import main
from tests.commands import in_this_process, refusal, rows_of

ATARI = {"a3c": {"env": "Pong", "head": "mlp", "seed": 1}}
IMAGES = {"supervised": {"task": "mnist", "network": "mlp", "layer": "film", "seed": 1}}
STREAM = {"continual": {"benchmark": "split-mnist", "scenario": "task", "layer": "nsm", "seeds": [1, 2]}}
BLUE, ORANGE, RED = (31, 119, 180), (255, 127, 14), (214, 39, 40)
"""The colours of mlp, neurocoder and film."""


def run_of(
    path: Path, returns: list[float], *, pause: float = 0.0, described: dict | None = None, every: int = 100
) -> Path:
    """Writes a run with a game every 100 steps and 30 seconds, and a pause before the last game."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(described or ATARI))
    with SummaryWriter(str(path)) as writer:
        for game, value in enumerate(returns):
            at = 1e9 + 30 * game + pause * (game == len(returns) - 1)
            writer.add_scalar("charts/frames", 4 * every * game, every * game, walltime=at)
            writer.add_scalar("charts/episodic_return", value, every * game, walltime=at)
    return path


def with_curves(path: Path, described: dict, points: list[tuple[str, float, int]]) -> Path:
    """Writes a run that is under way: config.json, and points of tag, value and step."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(described))
    with SummaryWriter(str(path)) as writer:
        for point in points:
            writer.add_scalar(*point)
    return path


def plot(out: Path, *runs: object) -> tuple[list[dict[str, str]], str]:
    """Plots runs. Returns the rows of the table, and what was said on stderr."""
    status, output, errors = in_this_process(main, *runs, "--out", out, "--window", 2)
    assert status == 0 and output == f"wrote {out}.csv and {out}.png\n", errors
    return rows_of(Path(f"{out}.csv")), errors


def colours(picture: Path) -> set[tuple[int, ...]]:
    pixels = (255 * matplotlib.image.imread(picture)[..., :3]).round().astype(int)
    return {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}


def numbers(rows: list[dict[str, str]], *columns: str) -> list[tuple[float, ...]]:
    return [tuple(float(row[column]) for column in columns) for row in rows]


def test_the_return_is_a_moving_mean_and_pauses_are_no_time(tmp_path):
    run = run_of(tmp_path / "Pong", [-20.0, -10.0, 0.0, 10.0], pause=3600.0)
    rows, errors = plot(tmp_path / "pong", run)
    assert errors == "" and [row["run"] for row in rows] == ["Pong"] * 4
    assert [int(row["agent_steps"]) for row in rows] == [0, 100, 200, 300]
    assert [float(row["mean_return_of_2_games"]) for row in rows] == [-20, -15, -5, 5]
    assert [float(row["minutes"]) for row in rows] == pytest.approx([0, 0.5, 1, 1])
    assert BLUE in colours(tmp_path / "pong.png") and ORANGE not in colours(tmp_path / "pong.png")


def test_runs_of_the_same_name_and_outputs_with_a_dot_are_kept_apart(tmp_path):
    runs = [run_of(tmp_path / sweep / "pong-seed1", [float(number)]) for number, sweep in enumerate("ab")]
    rows, _ = plot(tmp_path / "lr0.001", *runs)
    assert [row["run"] for row in rows] == list(map(str, runs))
    assert (tmp_path / "lr0.001.png").exists()


def test_an_unfinished_supervised_run_has_its_metric_and_the_loss_between_evaluations(tmp_path):
    losses = [("losses/task", 3.0, 100), ("losses/task", 6.0, 150), ("losses/task", 1.0, 250)]
    metric = [("charts/test_accuracy", 10.0, 150), ("charts/test_accuracy", 90.0, 250)]
    other = [("charts/learning_rate", 0.1, 100), ("charts/samples_per_second", 9.0, 100)]
    run = with_curves(tmp_path / "film-seed1", IMAGES, [*other, *losses, *metric])
    rows, _ = plot(tmp_path / "p", run)
    assert numbers(rows, "step", "test_accuracy", "loss") == [(150, 10, 4), (250, 90, 1)]
    assert RED in colours(tmp_path / "p.png")


def test_a_continual_run_has_its_accuracies_task_by_task_before_and_after_its_end(tmp_path):
    points = [("accuracy/task_1", 80.0, 5), ("accuracy/task_1", 60.0, 10), ("accuracy/task_2", 90.0, 10)]
    run = with_curves(tmp_path / "nsm-seed1-2", STREAM, points)
    columns = ("seed", "task", "average_accuracy_so_far", "latest_accuracy")
    rows, _ = plot(tmp_path / "p", run)
    assert numbers(rows, *columns) == [(1, 1, 80, 60), (1, 2, 75, 90)]
    result = {"accuracy": [[[80.0, 50.0], [60.0, 90.0]], [[70.0, 50.0], [50.0, 50.0]]]}
    (run / "result.json").write_text(json.dumps(result))
    rows, _ = plot(tmp_path / "p", run)
    assert numbers(rows, *columns) == [(1, 1, 80, 60), (1, 2, 75, 90), (2, 1, 70, 50), (2, 2, 50, 50)]


def test_runs_of_every_command_share_a_picture_and_what_cannot_be_drawn_is_named_and_left_out(tmp_path):
    sweep = tmp_path / "sweep"
    neurocoder = {"rllib": {"env": "Pong", "head": "neurocoder", "seed": 1}}
    run_of(sweep / "pong-seed1", [0.0, 5.0])
    run_of(sweep / "pong-neurocoder-seed1", [5.0, 0.0], described=neurocoder)
    run_of(sweep / "pong-seed2", [])
    (sweep / "tune").mkdir()
    (sweep / "odd").mkdir()
    (sweep / "odd" / "config.json").write_text("[]")
    points = [("losses/task", 3.0, 100), ("charts/test_accuracy", 10.0, 100)]
    film = with_curves(tmp_path / "film", IMAGES, points)
    rows, errors = plot(tmp_path / "p", sweep, film, sweep / "tune", sweep / "pong-seed1")
    assert {row["run"] for row in rows} == {"pong-seed1", "pong-neurocoder-seed1", "film"}
    assert len([row for row in rows if row["run"] == "pong-seed1"]) == 2
    assert errors.splitlines() == [
        f"left out: {sweep / 'tune'} is not the folder of a run or of runs, it has no config.json",
        f"left out: {sweep / 'odd'}: its config.json is not of a run",
        f"left out: {sweep / 'pong-seed2'}: no game has ended yet, so there is no curve",
    ]
    assert {BLUE, ORANGE, RED} <= colours(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (ATARI, "no game has ended yet"),
        (IMAGES, "it has not been evaluated yet"),
        (STREAM, "it has not finished a task yet"),
    ],
    ids=["train", "supervised", "continual"],
)
def test_a_picture_of_nothing_is_refused_and_not_written(described, reason, tmp_path):
    run = run_of(tmp_path / "run", [], described=described)
    empty = tmp_path / "empty"
    empty.mkdir()
    line = refusal("plot", run, empty, "--out", tmp_path / "p")
    assert f"{empty} is not the folder of a run or of runs" in line and "(and 1 more)" in line
    assert reason in refusal("plot", run, "--out", tmp_path / "p")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "empty"}


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
