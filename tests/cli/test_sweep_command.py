"""A sweep on Ray Tune, as a person types it."""

import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.a3c.local_training import LocalTraining
from agents.a3c.parameter_server import ParameterServer
from agents.errors import TrainingError
from agents.runs.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from agents.runs.recording import Recording
from launch.experiments.folder import make_runs
from launch.experiments.tune_trial import SweepTrial
from launch.results.sweep import table
from launch.sweep import main
from tests.commands import in_this_process, refusal, result_of, rows_of, start, wait_for
from tests.unit.agents.runs.saved_runs import save

SMALL = (
    "--env", "Breakout", "--seeds", 1, "--workers", 1, "--envs-per-worker", 2, "--rollout-steps", 5,
    "--evaluate-episodes", 2, "--checkpoint-every", 50,
)  # fmt: skip


def results(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sweep.glob("*/result.json")}


def test_a_sweep_trains_and_evaluates_every_combination_and_ends_with_a_table(tmp_path, monkeypatch):
    sweep = tmp_path / "sweep"
    process = start(
        "sweep", *SMALL, "--head", "mlp,neurocoder", "--total-steps", 900, "--evaluate-every", 100,
        "--evaluate-games", 1, "--run-dir", sweep,
    )  # fmt: skip
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "errored" not in output and "Traceback" not in errors
    done = results(sweep)
    assert done.keys() == {"breakout-mlp-lr0.0007-seed1", "breakout-neurocoder-lr0.0007-seed1"}
    lines = output.splitlines()
    for run, result in done.items():
        recording = json.loads((sweep / run / "config.json").read_text())["run"]
        assert recording == {
            "checkpoint_every": 50, "keep": 3, "evaluate_every": 100, "evaluate_games": 1, "evaluate_episodes": 2
        }  # fmt: skip
        assert result["env_steps"] >= 900 and len(result["episode_returns"]) == 2
        evaluations = json.loads((sweep / run / "evaluation.json").read_text())
        assert len(evaluations) >= 2
        steps = [evaluation["env_steps"] for evaluation in evaluations]
        assert steps == sorted(steps) and steps[-1] == result["env_steps"]
        returns = [evaluation["episode_returns"] for evaluation in evaluations]
        assert [len(scores) for scores in returns] == [1] * (len(steps) - 1) + [2]
        score = np.mean([np.mean(scores) for scores in returns[-3:]])
        assert result["score"] == pytest.approx(score)
        assert result["score_evaluations"] == len(returns[-3:])
        (line,) = (line for line in lines if line.startswith("Breakout") and result["head"] in line.split())
        # One run has no interval.
        assert line.split() == ["Breakout", result["head"], "0.0007", "1", f"{score:.1f}"]
    assert lines[1] == "starting Ray, which takes some seconds ..."
    shown = lines[2 : lines.index("")]
    ended = [line.split()[0] for line in shown if re.match(r"\S+ +done ", line)]
    assert sorted(ended) == sorted(done)
    state = r"starting|(done +)?[\d,]+ / 900 steps  score (-|[\d.]+)"
    known = re.compile(rf"[12] waiting|breakout-\w+-lr0.0007-seed1 +({state})")
    assert [line for line in shown if not known.fullmatch(line)] == []
    assert all(len(line) <= 80 for line in lines[1:])
    check_what_is_kept(sweep, lines, done, monkeypatch)


def check_what_is_kept(sweep: Path, lines: list[str], done: dict[str, dict], monkeypatch) -> None:
    """The printed table and the scores are in the folder, --resume shows them again, and a part is better than nothing."""
    table = lines[lines.index("") + 1 :]
    assert (sweep / "results.md").read_text() == "\n".join(["# Results", "", "```text", *table, "```", ""])
    rows = {row["run"]: row for row in rows_of(sweep / "results.csv")}
    assert rows.keys() == done.keys()
    for run, row in rows.items():
        assert float(row["score"]) == done[run]["score"] and int(row["env_steps"]) == done[run]["env_steps"]
        assert (row["env"], row["head"], row["seed"]) == ("Breakout", done[run]["head"], "1")
    (sweep / "results.md").unlink()
    status, output, errors = in_this_process(main, "--resume", sweep)
    assert (status, errors) == (0, "") and output.splitlines() == [
        f"all 2 runs of {sweep} are finished", "", *table
    ]  # fmt: skip
    assert (sweep / "results.md").exists()
    # One run ends and the other one does not.
    monkeypatch.setattr("launch.experiments.tune_trial.run_on_tune", lambda *_, **__: None)
    (sweep / max(done) / "result.json").unlink()
    status, output, errors = in_this_process(main, "--resume", sweep)
    assert status == 1 and errors.startswith(f"error: not finished: {max(done)}; continue with ")
    assert output.splitlines()[-1].split()[:4] == ["Breakout", "mlp", "0.0007", "1"]
    assert [row["run"] for row in rows_of(sweep / "results.csv")] == [min(done)]


@pytest.mark.slow
def test_a_sweep_that_was_stopped_continues_where_it_was(tmp_path):
    sweep = tmp_path / "sweep"
    process = start("sweep", *SMALL, "--head", "mlp,hypernet", "--total-steps", 2_000, "--run-dir", sweep)
    name = "breakout-mlp-lr0.0007-seed1"
    wait_for(lambda: list(sweep.glob(f"{name}/checkpoints/step-*")) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` does: to the whole group
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert f"stopped; continue with python -m launch.sweep --resume {sweep}" in output
    assert results(sweep) == {} and re.search(rf"^{name} +stopped ", output, re.MULTILINE)
    newest = list_checkpoints(sweep / name / "checkpoints")[0]
    process = start("sweep", "--resume", sweep)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert len(results(sweep)) == 2
    # The runs have the settings that the sweep began with.
    assert all(len(result["episode_returns"]) == 2 for result in results(sweep).values())
    assert list_checkpoints(sweep / name / "checkpoints")[0] > newest


@pytest.mark.slow
def test_a_run_of_a_sweep_whose_process_dies_is_tried_again_from_its_checkpoint(tmp_path):
    sweep = tmp_path / "sweep"
    process = start("sweep", *SMALL, "--head", "mlp", "--total-steps", 3_000, "--run-dir", sweep)
    checkpoints = sweep / "breakout-mlp-lr0.0007-seed1" / "checkpoints"
    wait_for(lambda: (checkpoints.exists() and list_checkpoints(checkpoints)) or process.poll() is not None)
    before = list_checkpoints(checkpoints)[0]
    # The lock says "pid <n> on <host>".
    lock = (checkpoints.parent / "run.lock").read_text()
    trial = psutil.Process(int(lock.split()[1]))
    assert trial.pid != process.pid
    trial.kill()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert results(sweep)["breakout-mlp-lr0.0007-seed1"]["env_steps"] >= 3_000
    assert list_checkpoints(checkpoints)[0] > before


def test_the_table_shows_the_score_and_not_the_mean_of_the_last_games():
    made = {"env": "Pong", "head": "mlp", "learning_rate": 1e-3, "mean": -21.0, "score": 12.3}
    other = made | {"score": 10.3}
    assert table([made, other]).splitlines()[-1].split()[-5:] == ["2", "11.3", "10.3", "to", "12.3"]


def test_a_single_run_has_a_score_and_no_interval():
    made = [
        {"env": env, "head": "mlp", "learning_rate": 1e-3, "mean": mean}
        for env, mean in (("Pong", 0.5), ("Breakout", 3.5), ("Breakout", 4.5))
    ]
    breakout, pong, pooled = (line.split()[3:] for line in table(made).splitlines()[-3:])
    assert breakout == ["2", "4.0", "3.5", "to", "4.5"] and pong == ["1", "0.5"]
    assert pooled[0] == "3" and len(pooled) == 2


def test_the_table_pools_games_on_the_human_scale_per_head():
    scores = {("Pong", "mlp"): [-20.7, 14.6, 14.6], ("Breakout", "mlp"): [1.7, 30.5, 30.5]}
    made = [
        {"env": env, "head": head, "learning_rate": 1e-3, "mean": mean}
        for (env, head), means in scores.items()
        for mean in means
    ]
    pooled = table(made).splitlines()[-1].split()
    assert pooled[:4] == ["human-normalised", "mlp", "0.001", "6"]
    # On the human scale the scores are 0, 0, 1, 1, 1, 1. Without one at either end, 0, 1, 1, 1 are left.
    assert float(pooled[4]) == pytest.approx(0.75, abs=0.01)


def test_given_weights_and_evaluations_apply_to_every_run(tmp_path, monkeypatch):
    source, config = tmp_path / "source", A3CConfig(env="Breakout", head="mlp", seed=9)
    save(source / "checkpoints", ParameterServer(config).snapshot(), config)
    monkeypatch.setattr("launch.experiments.tune_trial.run_on_tune", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    status, _, errors = in_this_process(
        main, "--env", "Pong,Breakout", "--seeds", 2, "--head", "mlp", "--run-dir", "sweep", "--from", "source",
        "--evaluate-every", 500, "--evaluate-games", 3,
    )  # fmt: skip
    assert status == 1 and errors.startswith("error: not finished: ")
    configs = [json.loads(path.read_text()) for path in Path("sweep").glob("*/config.json")]
    assert len(configs) == 4
    for described in configs:
        # The path is absolute, since a trial works in another folder.
        assert described["from"] == str(source)
        assert (described["run"]["evaluate_every"], described["run"]["evaluate_games"]) == (500, 3)


def test_weights_that_have_diverged_are_refused_before_a_run_is_made(tmp_path):
    config = A3CConfig(env="Breakout", head="mlp")
    tensors, state = ParameterServer(config).snapshot().map(lambda tensor: tensor * torch.nan).parts()
    save_checkpoint(tmp_path / "checkpoints", 7, tensors, state | {"policy": config.policy().to_dict()})
    line = refusal("sweep", "--head", "mlp", "--from", tmp_path, "--run-dir", tmp_path / "sweep")
    assert re.search(r"step-000000000007: its run has diverged, \S+ is not finite", line)
    assert not (tmp_path / "sweep").exists()


# -- one trial, without Ray --------------------------------------------------------------------------------------------


TRIAL = A3CConfig(env="Breakout", head="mlp", workers=0, envs_per_worker=2, rollout_steps=5, total_steps=20)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of a sweep that has not begun. Its only evaluation is that of the last games."""
    return described_run(tmp_path / "run")


def described_run(path: Path, **more: object) -> Path:
    recording = asdict(Recording(evaluate_every=0, evaluate_episodes=1))
    return make_runs(path.parent, {path.name: {"a3c": TRIAL.to_dict(), "run": recording} | more})[0]


def carry_out(run: Path) -> dict:
    """Carries a trial out to its end. Returns its last report."""
    trial = SweepTrial({"run": str(run)})
    try:
        while not (report := trial.step())["done"]:
            pass
        return report
    finally:
        trial.cleanup()


def evaluations_of(run: Path) -> list[dict]:
    return json.loads((run / "evaluation.json").read_text())


def add_evaluations(run: Path, *means: float) -> None:
    """Adds evaluations of one game each before the last one, as a run makes them while it trains."""
    (last,) = evaluations_of(run)
    before = [
        last | {"mean": mean, "episode_returns": [mean], "env_steps": step} for step, mean in enumerate(means)
    ]
    (run / "evaluation.json").write_text(json.dumps([*before, last]))


def test_a_trial_that_dies_before_its_result_is_written_plays_its_last_games_again_but_counts_them_once(run):
    carry_out(run)
    add_evaluations(run, 100.0, 200.0, 300.0)
    before = evaluations_of(run)
    (run / "result.json").unlink()
    report = carry_out(run)
    assert evaluations_of(run) == before
    score = (200.0 + 300.0 + before[-1]["mean"]) / 3
    assert report["score"] == result_of(run)["score"] == pytest.approx(score)


def test_a_trial_with_a_single_evaluation_has_its_mean_as_score(run):
    report = carry_out(run)
    result = result_of(run)
    assert report["score"] == result["score"] == result["mean"] and result["score_evaluations"] == 1


def test_a_trial_that_ends_as_soon_as_it_is_tried_again_keeps_the_evaluation_of_its_checkpoint(run):
    carry_out(run)
    (run / "result.json").unlink()
    newest = list_checkpoints(run / "checkpoints")[0]
    before, evaluations = load_checkpoint(newest).state, evaluations_of(run)
    assert before["evaluation"]["mean_return"] == evaluations[0]["mean"]
    SweepTrial({"run": str(run)}).cleanup()
    assert load_checkpoint(newest).state == before and evaluations_of(run) == evaluations


def test_a_trial_that_is_tried_again_is_evaluated_at_the_planned_step(tmp_path, run):
    carry_out(run)
    (run / "result.json").unlink()
    described = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(
        json.dumps(described | {"run": described["run"] | {"evaluate_every": 15}})
    )
    (last,) = evaluations_of(run)
    (run / "evaluation.json").write_text(json.dumps([last | {"env_steps": 10}]))
    trial = SweepTrial({"run": str(run)})
    trial.cleanup()
    assert trial.run.recorder.next_evaluation == 25


def test_a_trial_starts_from_given_weights(tmp_path):
    config = A3CConfig(env="Breakout", head="mlp", seed=9)
    source = ParameterServer(config)
    checkpoint = save(tmp_path / "source" / "checkpoints", source.snapshot(), config)
    run = described_run(tmp_path / "sweep" / "run", **{"from": str(checkpoint)})
    trial = SweepTrial({"run": str(run)})
    weights = trial.run.training.snapshot().parameters
    trial.cleanup()
    assert all(torch.equal(weights[name], tensor) for name, tensor in source.snapshot().parameters.items())


def test_a_run_that_diverges_is_named_with_the_tensor_and_the_likely_cause(tmp_path, monkeypatch):
    def run_here(runs, interruption, **_):
        for run in runs:
            with suppress(TrainingError):
                carry_out(run)

    # The trials are real, but tried once and in this process.
    monkeypatch.setattr("launch.experiments.tune_trial.run_on_tune", run_here)
    flags = ("--env", "Breakout", "--seeds", 1, "--head", "mlp", "--workers", 0, "--envs-per-worker", 2)
    status, _, errors = in_this_process(
        main, *flags, "--learning-rate", "1e25,1e-4", "--rollout-steps", 5, "--total-steps", 20, "--evaluate-every", 0,
        "--evaluate-episodes", 1, "--run-dir", tmp_path / "sweep",
    )  # fmt: skip
    assert status == 1 and results(tmp_path / "sweep").keys() == {"breakout-mlp-lr0.0001-seed1"}
    assert errors.count("\n") == 1 and re.match(
        r"error: not finished: breakout-mlp-lr1e\+25-seed1 \(the gradient of \S+ was not finite in worker 0 on Breakout, "
        r"and 11 updates had to be discarded; a lower --learning-rate may help\); continue with ",
        errors,
    ), errors
    run = tmp_path / "sweep" / "breakout-mlp-lr1e+25-seed1"
    assert not list_checkpoints(run / "checkpoints") and (run / "failed.json").exists()
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(
        json.dumps(settings | {"a3c": settings["a3c"] | {"learning_rate": 1e-4}})
    )
    assert carry_out(run)["done"] and not (run / "failed.json").exists()


@pytest.mark.parametrize("broken", ["start_training", "Recorder"])
def test_a_trial_whose_setup_fails_half_way_frees_its_training_and_its_folder(broken, run, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise TrainingError("no room")

    close, closed = LocalTraining.close, []
    with monkeypatch.context() as patch:
        patch.setattr(LocalTraining, "close", lambda training: closed.append(close(training)))
        patch.setattr(f"agents.runs.atari_run.{broken}", fail)
        trial = SweepTrial.__new__(SweepTrial)
        with pytest.raises(TrainingError, match="no room"):
            trial.__init__({"run": str(run)})
        trial.cleanup()
    assert len(closed) == (broken == "Recorder")
    assert carry_out(run)["done"]
