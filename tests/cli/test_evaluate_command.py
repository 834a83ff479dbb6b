"""`launch.evaluate` as a person types it, with policies that were never trained."""

import importlib.util
import json
import os
import pty
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import launch.results.evaluation
from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.runs.checkpoints import amend_state, save_checkpoint
from launch.evaluate import main
from launch.results.evaluation import show
from tests.commands import in_this_process, read_terminal, rows_of, start
from tests.unit.agents.runs.saved_runs import save

RANDOM, HUMAN = 1.7, 30.5  # Breakout, Wang et al. 2016
STEPS = (1_000, 2_000, 3_000, 4_000)
DAMAGED = 2_000


def damage(checkpoint: Path) -> None:
    weights = checkpoint / "parameters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run on Breakout with four checkpoints of different weights, the second of which is damaged."""
    folder = tmp_path_factory.mktemp("runs") / "breakout"
    for seed, steps in enumerate(STEPS):
        config = A3CConfig(env="Breakout", head="mlp", seed=seed)
        snapshot = replace(ParameterServer(config).snapshot(), env_steps=steps)
        path = save(folder / "checkpoints", snapshot, config)
        if steps == DAMAGED:
            damage(path)
    return folder


@pytest.fixture(scope="module")
def policy(run, tmp_path_factory) -> Path:
    """A checkpoint folder that lies alone."""
    return shutil.copytree(checkpoint(run, 4_000), tmp_path_factory.mktemp("policies") / "alone")


def checkpoint(run: Path, steps: int) -> Path:
    return run / "checkpoints" / f"step-{steps:012d}"


@pytest.fixture(scope="module")
def everything(run, policy, tmp_path_factory) -> tuple[str, str, list[dict], list[dict]]:
    """Plays with all checkpoints of the run, and with the one that lies alone: output, errors, JSON and CSV."""
    folder = tmp_path_factory.mktemp("scores")
    process = start(
        "evaluate", run, policy, "--all", "--episodes", 3, "--json", folder / "s.json", "--csv", folder / "s.csv"
    )  # fmt: skip
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, errors, json.loads((folder / "s.json").read_text()), rows_of(folder / "s.csv")


def test_all_checkpoints_of_a_run_are_played_with_oldest_first_and_damaged_ones_are_named(
    run, policy, everything
):
    _, errors, results, _ = everything
    assert [result["run"] for result in results] == [
        *(str(checkpoint(run, steps)) for steps in STEPS if steps != DAMAGED), str(policy)
    ]  # fmt: skip
    assert all(len(result["episode_returns"]) == 3 for result in results)
    (warning,) = errors.splitlines()
    assert warning.startswith("warning: skipped a checkpoint that cannot be used: ")
    assert f"{checkpoint(run, DAMAGED)}: parameters.safetensors is truncated" in warning


def test_the_best_checkpoint_of_a_run_is_marked(everything):
    _, _, results, _ = everything
    of_the_run = results[:-1]
    best = max(result["mean"] for result in of_the_run)
    (marked,) = (result["mean"] for result in of_the_run if result["best"])
    # The checkpoint that lies alone is the best of its table.
    assert marked == best and results[-1]["best"]


def test_ctrl_c_keeps_what_has_been_played(run, tmp_path, monkeypatch):
    play, played = launch.results.evaluation.play_with, []

    def interrupted(checkpoint: Path, *given, **named):
        if len(played) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        played.append(play(checkpoint, *given, **named))
        return played[-1]

    monkeypatch.setattr("launch.results.evaluation.play_with", interrupted)
    json_file = tmp_path / "scores.json"
    status, output, errors = in_this_process(main, run, "--all", "--episodes", 1, "--json", json_file)
    assert status == 130 and "Traceback" not in errors
    assert errors.splitlines()[-1] == "stopped; 2 policies were played to the end of their games"
    written = json.loads(json_file.read_text())
    assert [result["episode_returns"] for result in written] == [
        result["episode_returns"] for result in played
    ]
    assert sum(result["best"] for result in written) == 1 and "* best mean" in output
    assert not re.search(r"\d to ", output)


def test_the_table_says_what_the_json_says(run, policy, everything):
    output, _, results, _ = everything
    lines = output.splitlines()
    assert [line for line in lines if line.endswith(": Breakout, mlp head")] == [
        f"{run}: Breakout, mlp head", f"{policy}: Breakout, mlp head"
    ]  # fmt: skip
    rows = [
        match
        for line in lines
        if (match := re.match(r"([* ]) +([\d,]+) +(\S+) +(\S+) to (\S+) +(\S+) +(\S+)$", line))
    ]
    assert len(rows) == len(results)
    for row, result in zip(rows, results, strict=True):
        star, steps, *numbers = row.groups()
        assert (star == "*") == result["best"] and int(steps.replace(",", "")) == result["env_steps"]
        mean = np.mean(result["episode_returns"])
        human = (mean - RANDOM) / (HUMAN - RANDOM)
        expected = [mean, *result["mean_ci95"], np.mean(result["episode_lengths"]), human]
        for number, value, within in zip(numbers, expected, (0.005, 0.005, 0.005, 0.5, 0.005), strict=True):
            assert float(number.replace(",", "")) == pytest.approx(value, abs=within + 1e-9)
    assert all(len(line) < 80 for line in lines if not line.endswith("head"))


def test_the_csv_says_what_the_json_says(everything):
    _, _, results, rows = everything
    assert len(rows) == len(results)
    for row, result in zip(rows, results, strict=True):
        returns = result["episode_returns"]
        numbers = [float(row[name]) for name in ("env_steps", "episodes", "mean", "median", "mean_length")]
        assert numbers == [
            result["env_steps"], 3, np.mean(returns), np.median(returns), np.mean(result["episode_lengths"])
        ]  # fmt: skip
        assert [float(row["mean_low"]), float(row["mean_high"])] == result["mean_ci95"]
        assert float(row["iqm"]) == result["iqm"]
        human = (np.mean(returns) - RANDOM) / (HUMAN - RANDOM)
        assert float(row["human_normalised_mean"]) == pytest.approx(human)
        assert result["human_normalised_mean"] == pytest.approx(human)
        assert row["best"] == str(result["best"])
        assert (row["run"], row["env"], row["head"]) == (result["run"], "Breakout", "mlp")


def test_the_interval_holds_the_mean_and_no_more_than_the_scores(everything):
    for result in everything[2]:
        low, high = result["mean_ci95"]
        returns = result["episode_returns"]
        assert min(returns) <= low <= result["mean"] <= high <= max(returns)


def test_a_run_without_a_checkpoint_that_can_be_used_is_refused(run, tmp_path):
    shutil.copytree(checkpoint(run, DAMAGED), tmp_path / "checkpoints" / checkpoint(run, DAMAGED).name)
    status, output, errors = in_this_process(main, tmp_path, "--all")
    assert status == 2 and output == ""
    assert errors.splitlines()[-1] == f"error: {tmp_path} has no checkpoint that can be used"


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (torch.nan, r"its run has diverged, \S+ is not finite"),
        (1e25, "the policy has diverged: its probabilities are not finite, though its parameters are"),
    ],
    ids=["weights that are not finite", "weights that are too large"],
)
def test_a_diverged_checkpoint_is_named_with_its_tensor_and_leaves_no_video(factor, reason, tmp_path):
    config = A3CConfig(env="Breakout", head="mlp")
    tensors, state = ParameterServer(config).snapshot().map(lambda tensor: tensor * factor).parts()
    path = save_checkpoint(
        tmp_path / "checkpoints", 7, tensors, state | {"policy": config.policy().to_dict()}
    )
    video = ("--video", tmp_path / "game.mp4") if importlib.util.find_spec("cv2") else ()
    status, output, errors = in_this_process(main, tmp_path, "--episodes", 1, *video)
    assert status == 2 and output == "" and not list(tmp_path.glob("*.mp4"))
    warning, error = errors.splitlines()
    assert re.fullmatch(f"warning: skipped a checkpoint that cannot be used: {path}: {reason}", warning)
    assert error == f"error: {tmp_path} has no checkpoint that can be used"


def test_best_takes_the_checkpoint_with_the_best_evaluation_and_not_the_newest(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for steps, mean in {1_000: 3.0, 3_000: 5.0, 4_000: 4.0}.items():
        amend_state(checkpoint(copy, steps), evaluation={"mean_return": mean})
    taken = {}
    for flags in ((), ("--best",)):
        status, _, _ = in_this_process(main, copy, "--episodes", 1, "--json", tmp_path / "s.json", *flags)
        assert status == 0
        (result,) = json.loads((tmp_path / "s.json").read_text())
        assert "best" not in result
        taken[flags] = result["env_steps"]
    assert taken == {(): 4_000, ("--best",): 3_000}


@pytest.mark.parametrize(
    ("flags", "ends", "said"),
    [
        ((), True, "a lost life ends an episode"),
        (("--no-life-loss-terminates",), False, "a lost life ends no episode"),
        (("--life-loss-terminates",), True, "a lost life ends an episode"),
    ],
)
def test_how_lives_are_treated_is_as_in_training_or_as_asked_for_and_always_said(
    policy, flags, ends, said, tmp_path
):
    file = tmp_path / "scores.json"
    status, output, _ = in_this_process(main, policy, "--episodes", 1, "--json", file, *flags)
    assert status == 0 and said in output
    (result,) = json.loads(file.read_text())
    # One game has no interval.
    assert result["iqm_ci95"] is None and "interquartile mean" in output and "interval" not in output
    assert result["settings"]["life_loss_terminates"] is ends


def test_what_makes_scores_comparable_is_said_in_short_lines(everything, capsys):
    result = everything[2][0]
    show(result | {"settings": result["settings"] | {"sticky": 0.25, "greedy": True, "seed": 7}})
    output, _ = capsys.readouterr()
    assert output.splitlines()[-3:] == [
        "  3 full games, seed 7, actions greedy, scores not clipped",
        "  sticky actions 0.25, frame skip 4, fewer than 30 no-op frames at the start",
        "  at most 108,000 frames; a lost life ends an episode, FIRE pressed after it",
    ]
    human = (np.mean(result["episode_returns"]) - RANDOM) / (HUMAN - RANDOM)
    assert f"human-normalised score {human:.2f} (0: random play, 1: human play)" in output


# -- progress ----------------------------------------------------------------------------------------------------------


def test_on_a_terminal_one_line_is_rewritten_while_games_are_played_and_stdout_stays_clean(policy):
    terminal, end = pty.openpty()
    process = start("evaluate", policy, "--episodes", 16, stderr=end)
    os.close(end)
    shown = read_terminal(terminal)
    os.close(terminal)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.startswith(str(policy)) and not {"\r", "\x1b"} & set(output) and "games done" not in output
    before, *lines, after = shown.split("\r\x1b[K")
    # The last line is wiped out.
    assert before == after == "" and lines
    for line in lines:
        assert re.fullmatch(r"alone  \d+ of 16 games done, longest [\d,]+ steps  ETA (-|\d+:\d\d)", line)
    steps = [int(re.search(r"([\d,]+) steps", line)[1].replace(",", "")) for line in lines]
    assert steps == sorted(set(steps))
