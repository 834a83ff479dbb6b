"""A sweep on Ray Tune, as a person types it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launch.checkpoints import list_checkpoints
from launch.sweep import table

SMALL = (
    "--env", "Breakout", "--seeds", 1, "--workers", 1, "--envs-per-worker", 2, "--rollout-steps", 5,
    "--evaluate-episodes", 2, "--checkpoint-every", 50,
)  # fmt: skip


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "launch.sweep", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/result.json")}


def test_a_sweep_trains_and_evaluates_every_combination_and_ends_with_a_table(tmp_path):
    sweep = tmp_path / "sweep"
    process = start(*SMALL, "--head", "mlp,neurocoder", "--total-steps", 150, "--run-dir", sweep)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "errored" not in output and "Traceback" not in errors
    done = results(sweep)
    assert done.keys() == {"breakout-mlp-lr0.0007-seed1", "breakout-neurocoder-lr0.0007-seed1"}
    for result in done.values():
        assert result["env_steps"] >= 150 and len(result["episode_returns"]) == 2
    lines = output.splitlines()
    for head in ("mlp", "neurocoder"):
        (line,) = (line for line in lines if line.startswith("Breakout") and head in line.split())
        mean = done[f"breakout-{head}-lr0.0007-seed1"]["mean"]
        assert f"{mean:.1f} to {mean:.1f}" in line  # one run has no spread
    process = start("--resume", sweep)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and "all of its 2 runs are finished" in errors


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on_where_it_was(tmp_path):
    sweep = tmp_path / "sweep"
    process = start(*SMALL, "--head", "mlp,hypernet", "--total-steps", 2_000, "--run-dir", sweep)
    name, deadline = "breakout-mlp-lr0.0007-seed1", time.monotonic() + 120
    while not list(sweep.glob(f"{name}/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"stopped; continue with python -m launch.sweep --resume {sweep}" in output
    assert results(sweep) == {}
    newest = list_checkpoints(sweep / name / "checkpoints")[0]
    process = start("--resume", sweep, "--evaluate-episodes", 1)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert len(results(sweep)) == 2
    assert list_checkpoints(sweep / name / "checkpoints")[0] > newest


@pytest.mark.slow
def test_a_run_of_a_sweep_whose_process_dies_is_tried_again_from_its_checkpoint(tmp_path):
    sweep = tmp_path / "sweep"
    process = start(*SMALL, "--head", "mlp", "--total-steps", 3_000, "--run-dir", sweep)
    checkpoints, deadline = sweep / "breakout-mlp-lr0.0007-seed1" / "checkpoints", time.monotonic() + 120
    while not (checkpoints.exists() and list_checkpoints(checkpoints)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    before = list_checkpoints(checkpoints)[0]
    trial = psutil.Process(
        int((checkpoints.parent / "run.lock").read_text().split()[1])
    )  # "pid <n> on <host>"
    assert trial.pid != process.pid
    trial.kill()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert results(sweep)["breakout-mlp-lr0.0007-seed1"]["env_steps"] >= 3_000
    assert list_checkpoints(checkpoints)[0] > before


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--env", "Pongg"), "near names: Pong"),
        (("--head", "mpl"), "mlp"),
        (("--lr", "fast"), "--lr fast"),
        (("--lr", "0"), "--learning-rate is 0"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--workers", "auto"), "--workers auto takes the whole cluster"),
        (("--retries", "-1"), "--retries is -1"),
    ],
)
def test_a_mistake_is_answered_in_one_line_before_anything_starts(flags, said, tmp_path):
    process = start(*flags, "--run-dir", tmp_path / "sweep")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and said in errors and errors.count("\n") == 1, errors
    assert not (tmp_path / "sweep").exists()


def test_the_table_pools_games_on_the_human_scale_per_head():
    scores = {("Pong", "mlp"): [-20.7, 14.6, 14.6], ("Breakout", "mlp"): [1.7, 30.5, 30.5]}
    made = [
        {"env": env, "head": head, "learning_rate": 1e-3, "mean": mean}
        for (env, head), means in scores.items()
        for mean in means
    ]
    pooled = table(made).splitlines()[-1].split()
    assert pooled[:4] == ["human-normalised", "mlp", "0.001", "6"]
    # 0, 0, 1, 1, 1, 1 of the human score: the middle half, but one at either end, is 0, 1, 1, 1
    assert float(pooled[4]) == pytest.approx(0.75, abs=0.01)
