"""The commands `train` and `evaluate` as a person types them, on real games."""

import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agents.runs.checkpoints import list_checkpoints, load_newest
from launch import evaluate, train
from tests.commands import curves, finished, in_this_process, refusal, start, wait_for
from tests.unit.agents.a3c.reports import ROLLOUT_TAGS

TAGS = {
    "charts/SPS",
    "charts/frames",
    "charts/learning_rate",
    "charts/entropy_weight",
    *ROLLOUT_TAGS,
    *(f"policy/action/{name}" for name in ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")),
    "updates/staleness",
    "updates/count",
    "updates/workers",
    "time/play",
    "time/gradient",
    "time/exchange",
    "program/usage_entropy",
}


def run(module: str, *arguments: object) -> str:
    return finished(start(module, *arguments))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """The folder and the output of a short run on Pong without Ray, which is long enough for games to end."""
    folder = tmp_path_factory.mktemp("runs") / "pong"
    output = run(
        "train", "--env", "Pong", "--workers", 0, "--envs-per-worker", 2, "--rollout-steps", 10,
        "--total-steps", 2_200, "--checkpoint-every", 1_000, "--run-dir", folder, "--evaluate-episodes", 1,
        "--evaluate-every", 1_200, "--evaluate-games", 1,
    )  # fmt: skip
    return folder, output


def test_training_ends_with_a_score_and_three_commands_that_may_follow(trained):
    folder, output = trained
    assert "human-normalised" in output and "evaluation at " in output
    for command in ("watch", "evaluate", "resume"):
        assert any(line.startswith(command) and str(folder) in line for line in output.splitlines())


def test_a_run_folder_holds_settings_checkpoints_and_all_curves(trained):
    folder, _ = trained
    assert json.loads((folder / "config.json").read_text())["a3c"]["env"] == "Pong"
    assert 2 <= len(list_checkpoints(folder / "checkpoints")) <= 4
    written = curves(folder)
    scalars = set(written.Tags()["scalars"])
    assert scalars >= TAGS | {"charts/episodic_return", "charts/episodic_length"}
    # TensorBoard shows this group first.
    assert sorted(scalars, key=str.lower)[0].startswith("charts/")
    assert "program/attention" in written.Tags()["images"]
    frames = written.Scalars("charts/frames")
    assert all(frame.value == 4 * frame.step for frame in frames)
    assert all(-21 <= score.value <= 21 for score in written.Scalars("charts/episodic_return"))


def test_a_run_on_ray_that_was_evaluated_ends_without_an_error(tmp_path):
    """The run has what a batch system gives: no home, no token of Ray, and a long path for temporary files."""
    long = tmp_path / ("x" * 60)
    long.mkdir()
    process = start(
        "train", "--env", "Breakout", "--head", "mlp", "--workers", 1, "--envs-per-worker", 2,
        "--total-steps", 1_000, "--run-dir", tmp_path / "run", "--evaluate-episodes", 0,
        "--evaluate-every", 300, "--evaluate-games", 1,
        HOME="/dev/null", RAY_AUTH_TOKEN_PATH="/dev/null/token", RAY_TMPDIR=str(long),
    )  # fmt: skip
    output = finished(process)
    assert "starting Ray" in output and "evaluation at " in output
    assert output.splitlines()[-1].startswith("resume")
    assert list(long.iterdir()) == []


def test_a_policy_is_evaluated_on_full_games_with_scores_json_and_video(trained, tmp_path):
    folder, _ = trained
    cv2 = pytest.importorskip("cv2", reason="OpenCV needs libGL.so.1", exc_type=ImportError)
    output = run(
        "evaluate", folder, "--episodes", 2, "--video", tmp_path / "game.mp4", "--json", tmp_path / "scores.json"
    )  # fmt: skip
    assert "sticky actions 0.0, frame skip 4, fewer than 30 no-op frames" in output
    (result,) = json.loads((tmp_path / "scores.json").read_text())
    assert result["env"] == "Pong" and result["head"] == "neurocoder" and result["env_steps"] >= 2_200
    assert len(result["episode_returns"]) == 2
    assert result["mean"] == sum(result["episode_returns"]) / 2
    assert result["iqm_ci95"][0] <= result["iqm"] <= result["iqm_ci95"][1]
    assert result["human_normalised_mean"] == pytest.approx((result["mean"] + 20.7) / (14.6 + 20.7), abs=1e-6)
    assert result["settings"]["sticky"] == 0
    video = cv2.VideoCapture(str(tmp_path / "game.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == result["episode_lengths"][0] + 1
    _, frame = video.read()
    blue, green, red = frame[frame.shape[0] // 2, frame.shape[1] // 2]
    # The middle of Pong's court is brown.
    assert (red, green, blue) == pytest.approx((144, 72, 17), abs=12)


def test_a_checkpoint_folder_alone_is_evaluated_with_sticky_actions_if_asked(trained, tmp_path):
    folder, _ = trained
    checkpoint = shutil.copytree(list_checkpoints(folder / "checkpoints")[0], tmp_path / "policy")
    scores = tmp_path / "scores.json"
    status, _, errors = in_this_process(
        evaluate.main, checkpoint, "--episodes", 1, "--sticky", 0.25, "--greedy", "--json", scores
    )
    assert status == 0, errors
    (result,) = json.loads(scores.read_text())
    assert result["settings"]["sticky"] == 0.25 and result["settings"]["greedy"]


def test_a_resumed_run_continues_where_it_stopped_without_a_jump_back(trained, tmp_path):
    folder, _ = trained
    output = run("train", "--resume", folder, "--total-steps", 2_500, "--evaluate-episodes", 0)
    # The learning rate had fallen to 0 at step 2,200.
    assert re.search(
        r"^the learning rate jumps from 0 to [678].\d*e-05: it now falls to 0 at step 2,500$",
        output,
        re.MULTILINE,
    )
    newest = load_newest(folder / "checkpoints", warn=pytest.fail)
    assert newest.state["env_steps"] >= 2_500
    # The resumed run has the settings of the first.
    assert newest.state["config"]["envs_per_worker"] == 2
    assert json.loads((folder / "config.json").read_text())["run"] == {
        "checkpoint_every": 1_000, "keep": 3, "evaluate_every": 1_200, "evaluate_games": 1, "evaluate_episodes": 0,
    }  # fmt: skip
    steps = [point.step for point in curves(folder).Scalars("charts/frames")]
    assert steps == sorted(steps) and steps[-1] >= 2_500 and steps[0] < 2_200


def test_a_finished_run_is_not_resumed_without_more_steps(trained):
    folder, _ = trained
    assert "larger --total-steps" in refusal("train", "--resume", folder)


def test_a_run_that_diverges_names_a_tensor_and_the_good_checkpoint_that_it_keeps(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    before = list_checkpoints(folder / "checkpoints")
    status, output, errors = in_this_process(
        train.main,
        "--resume",
        folder,
        "--total-steps",
        9_000,
        "--learning-rate",
        1e25,
        "--checkpoint-every",
        1,
    )
    assert status == 1 and errors.count("\n") == 1, errors
    assert re.match(r"error: .*the (parameter|gradient of) \S+ (was|is) not finite", errors)
    advice = f"continue from {before[0].name} with python -m launch.train --resume {folder}\n"
    assert "a lower --learning-rate may help" in errors and errors.endswith(advice)
    assert "the learning rate jumps from 0 to " in output
    assert list_checkpoints(folder / "checkpoints") == before


def test_a_run_that_diverges_before_its_first_checkpoint_says_how_to_start_again(tmp_path):
    status, _, errors = in_this_process(
        train.main, "--env", "Breakout", "--head", "mlp", "--workers", 0, "--envs-per-worker", 2, "--rollout-steps", 5,
        "--learning-rate", 1e25, "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert status == 1 and errors.endswith(f"start again with --run-dir {tmp_path / 'run'}\n")
    assert "not finite in worker 0 on Breakout, and 11 updates had to be discarded; " in errors
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_a_run_is_not_resumed_with_another_head(trained):
    folder, _ = trained
    line = refusal("train", "--resume", folder, "--head", "mlp")
    assert "'neurocoder'" in line and "'mlp'" in line


@pytest.mark.parametrize("preset", ["two-cores", "paper"])
def test_a_run_is_not_resumed_with_a_preset(trained, preset):
    folder, _ = trained
    line = refusal("train", "--resume", folder, "--preset", preset)
    assert "--preset: a resumed run has its own settings" in line


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path of 28 bytes, the longest one in which Ray can have its sockets."""
    with tempfile.TemporaryDirectory(prefix="r" * 15, dir="/tmp") as name:
        assert len(name) == 28
        yield Path(name)


@pytest.mark.parametrize(
    "workers, number, status",
    [(0, signal.SIGINT, 130), (2, signal.SIGTERM, 143)],
    ids=["Ctrl-C", "SIGTERM on Ray"],
)
def test_a_signal_ends_a_run_with_a_last_checkpoint_and_no_process_or_file_left(
    workers, number, status, tmp_path, short_folder
):
    folder = tmp_path / "run"
    process = start(
        "train", "--workers", workers, "--envs-per-worker", 2, "--rollout-steps", 5, "--checkpoint-every", 1,
        "--run-dir", folder, RAY_TMPDIR=str(short_folder),
    )  # fmt: skip
    wait_for(lambda: list_checkpoints(folder / "checkpoints"))
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > workers or workers == 0
    assert "in use by a live run" in refusal("train", "--resume", folder)
    # A terminal and `timeout` send the signal to the whole group.
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    newest = load_newest(folder / "checkpoints", warn=pytest.fail)
    assert newest.state["env_steps"] > 0
    wait_for(lambda: not psutil.wait_procs(family, timeout=0)[1], seconds=15)
    assert list(short_folder.iterdir()) == []
