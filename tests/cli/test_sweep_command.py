"""A sweep on Ray Tune, as a person types it."""

import json
import signal
from pathlib import Path

import psutil
import pytest

from agents.runs.checkpoints import list_checkpoints
from launch.sweep import table
from tests.commands import refusal, start, wait_for

SMALL = (
    "--env", "Breakout", "--seeds", 1, "--workers", 1, "--envs-per-worker", 2, "--rollout-steps", 5,
    "--evaluate-episodes", 2, "--checkpoint-every", 50,
)  # fmt: skip


def results(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/result.json")}


def test_a_sweep_trains_and_evaluates_every_combination_and_ends_with_a_table(tmp_path):
    sweep = tmp_path / "sweep"
    process = start("sweep", *SMALL, "--head", "mlp,neurocoder", "--total-steps", 150, "--run-dir", sweep)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "errored" not in output and "Traceback" not in errors
    done = results(sweep)
    assert done.keys() == {"breakout-mlp-lr0.0007-seed1", "breakout-neurocoder-lr0.0007-seed1"}
    for run in done:
        kept = json.loads((sweep / run / "config.json").read_text())["run"]
        assert kept == {"checkpoint_every": 50, "keep": 3, "evaluate_episodes": 2}
    for result in done.values():
        assert result["env_steps"] >= 150 and len(result["episode_returns"]) == 2
    lines = output.splitlines()
    for head in ("mlp", "neurocoder"):
        (line,) = (line for line in lines if line.startswith("Breakout") and head in line.split())
        mean = done[f"breakout-{head}-lr0.0007-seed1"]["mean"]
        assert f"{mean:.1f} to {mean:.1f}" in line  # one run has no spread
    assert "all of its 2 runs are finished" in refusal("sweep", "--resume", sweep)


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on_where_it_was(tmp_path):
    sweep = tmp_path / "sweep"
    process = start("sweep", *SMALL, "--head", "mlp,hypernet", "--total-steps", 2_000, "--run-dir", sweep)
    name = "breakout-mlp-lr0.0007-seed1"
    wait_for(lambda: list(sweep.glob(f"{name}/checkpoints/step-*")) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"stopped; continue with python -m launch.sweep --resume {sweep}" in output
    assert results(sweep) == {}
    newest = list_checkpoints(sweep / name / "checkpoints")[0]
    process = start("sweep", "--resume", sweep)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert len(results(sweep)) == 2
    assert all(len(result["episode_returns"]) == 2 for result in results(sweep).values())  # as it began
    assert list_checkpoints(sweep / name / "checkpoints")[0] > newest


@pytest.mark.slow
def test_a_run_of_a_sweep_whose_process_dies_is_tried_again_from_its_checkpoint(tmp_path):
    sweep = tmp_path / "sweep"
    process = start("sweep", *SMALL, "--head", "mlp", "--total-steps", 3_000, "--run-dir", sweep)
    checkpoints = sweep / "breakout-mlp-lr0.0007-seed1" / "checkpoints"
    wait_for(lambda: (checkpoints.exists() and list_checkpoints(checkpoints)) or process.poll() is not None)
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
