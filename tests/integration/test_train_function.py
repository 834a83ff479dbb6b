"""The function `agents.train` on real games, and the files that it leaves."""

import contextlib
import io
import json
import os
import resource
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import load_policy, train
from agents.a3c.config import A3CConfig
from agents.actor_critic.config import NETWORKS
from agents.actor_critic.network import CLASSES
from agents.errors import TrainingError
from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import list_checkpoints, load_checkpoint, load_newest
from agents.runs.evaluation import evaluate
from agents.runs.evaluator import EvaluationFailed, Evaluator
from agents.runs.recording import Recording
from envs.atari import AtariGames
from tests.commands import ROOT, curves, run_in

CONFIG = A3CConfig(
    env="Breakout", head="mlp", workers=0, envs_per_worker=2, rollout_steps=10, total_steps=600, optimizer="adam"
)  # fmt: skip
RECORDING = Recording(checkpoint_every=200, evaluate_every=200, evaluate_games=2, evaluate_episodes=3)


@pytest.fixture(autouse=True)
def look_at_every_update(monkeypatch):
    """Has a run looked at after every update, not once a second.

    Short runs are then saved and evaluated while they train.
    """
    monkeypatch.setattr("agents.runs.recorder.LOOK_EVERY", 0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with evaluations: its folder, its result and the arguments of its callback's calls."""
    folder, calls = tmp_path_factory.mktemp("runs") / "breakout", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.runs.recorder.LOOK_EVERY", 0.0)
        result = train(CONFIG, folder, lambda *arguments: calls.append(arguments), recording=RECORDING)
    return folder, result, calls


def test_the_result_and_the_callback_of_a_run_report_its_steps(trained):
    folder, result, calls = trained
    assert result.folder == folder and not result.stopped and result.env_steps >= 600
    assert result.checkpoint == list_checkpoints(folder / "checkpoints")[0]
    assert calls[0] == (0, None) and calls[-1] == (result.env_steps, None)
    steps = [env_steps for env_steps, _ in calls]
    assert steps == sorted(steps) and len(steps) > 10
    assert all(env_steps == metrics.env_steps for env_steps, metrics in calls[1:-1])


def test_evaluations_go_to_the_folder_the_curves_and_the_checkpoints(trained):
    folder, result, _ = trained
    evaluations = json.loads((folder / "evaluation.json").read_text())
    games = [len(evaluation["episode_returns"]) for evaluation in evaluations]
    assert games == [2, 2, 2, 3][-len(evaluations) :]
    assert len(evaluations) >= 3 and evaluations[-1] == result.evaluation
    assert evaluations[-1]["env_steps"] == result.env_steps
    events = curves(folder)
    for tag, name in (
        ("eval/mean_return", "mean"),
        ("eval/length", "mean_length"),
        ("eval/human_normalised", "human_normalised_mean"),
    ):
        points = [(point.step, point.value) for point in events.Scalars(tag)]
        assert points == [
            (evaluation["env_steps"], pytest.approx(evaluation[name], rel=1e-5)) for evaluation in evaluations
        ]
    means = {evaluation["env_steps"]: evaluation["mean"] for evaluation in evaluations}
    for path in list_checkpoints(folder / "checkpoints"):
        state = load_checkpoint(path).state
        assert state["evaluation"]["mean_return"] == means[state["env_steps"]]
    (best,) = find_checkpoints(folder, best=True)
    assert load_checkpoint(best).state["evaluation"]["mean_return"] == max(means.values())


def test_an_evaluation_of_a_run_can_be_repeated_by_hand(trained):
    folder, _, _ = trained
    (first, *_) = json.loads((folder / "evaluation.json").read_text())
    if Path(first["run"]).exists():
        again = evaluate(Path(first["run"]), episodes=2, seed=first["settings"]["seed"])
        assert again == first


def test_the_folder_names_the_precision_of_the_workers(trained):
    folder, result, calls = trained
    precisions = json.loads((folder / "config.json").read_text())["precisions"]
    assert precisions == calls[-2][1].precisions == load_checkpoint(result.checkpoint).state["precisions"]
    assert set(precisions.values()) <= {"fp32", "bf16"} and len(precisions) == 1
    assert "precision/text_summary" in curves(folder).Tags()["tensors"]


def test_evaluations_do_not_change_what_is_learnt(trained, tmp_path):
    weights = []
    for every in (0, 100):
        config = replace(CONFIG, deterministic=True, total_steps=300)
        recording = replace(RECORDING, evaluate_every=every, evaluate_games=1, evaluate_episodes=0)
        result = train(config, tmp_path / str(every), recording=recording)
        assert (tmp_path / str(every) / "evaluation.json").exists() == bool(every)
        weights.append(load_checkpoint(result.checkpoint).tensors["parameters"])
    torch.use_deterministic_algorithms(False)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_trains_resumes_and_plays(network, tmp_path):
    config = replace(CONFIG, network=network, frames=2, motion=0.5, lstm_hidden=16, total_steps=40)
    quiet = Recording(evaluate_every=0, evaluate_episodes=0)
    train(config, tmp_path, recording=quiet)
    resumed = train(replace(config, total_steps=80), tmp_path, recording=quiet, resume=True)
    assert resumed.env_steps >= 80
    policy = load_policy(tmp_path)
    games = AtariGames(policy.settings, 3)
    frames, state = games.reset([1]), policy.initial_state(3)
    actions, (h, _) = policy.act(frames, state)
    games.close()
    assert frames.shape == (3, 3, 80, 80) and actions.shape == (3,) and h.shape == (3, 16)
    assert isinstance(policy.network, CLASSES[network])
    with pytest.raises(ValueError, match=r"uint8 \(N, 3, 80, 80\)"):
        policy.act(frames[:, :1], state)


def test_a_callback_stops_a_run_which_is_then_resumed_to_its_end(tmp_path):
    quiet = replace(RECORDING, evaluate_every=0, evaluate_episodes=0)
    result = train(CONFIG, tmp_path / "run", lambda steps, metrics: steps >= 100, recording=quiet)
    assert result.stopped and result.evaluation is None and 100 <= result.env_steps < 200
    with pytest.raises(ValueError, match="holds a run already"):
        train(CONFIG, tmp_path / "run", recording=quiet)
    longer = replace(CONFIG, total_steps=300)
    resumed = train(longer, tmp_path / "run", recording=replace(quiet, evaluate_episodes=1), resume=True)
    assert (
        not resumed.stopped and resumed.env_steps >= 300 and len(resumed.evaluation["episode_returns"]) == 1
    )
    with pytest.raises(ValueError, match="larger --total-steps"):
        train(longer, tmp_path / "run", recording=quiet, resume=True)


def test_a_run_resumed_on_a_full_disk_goes_on_and_a_new_one_is_refused(tmp_path, capfd):
    quiet = replace(RECORDING, evaluate_every=0, evaluate_episodes=0)
    folder = tmp_path / "run"
    train(CONFIG, folder, lambda steps, metrics: steps >= 50, recording=quiet)
    before = (folder / "config.json").read_bytes()

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def full_at_first(steps: int, metrics: object) -> None:
        if metrics is not None:
            limit(resource.RLIM_INFINITY)

    capfd.readouterr()
    # What the run prints goes to files, too.
    with capfd.disabled(), open("/dev/null", "w") as nowhere, redirect_stdout(nowhere):
        errors = io.StringIO()
        with redirect_stderr(errors):
            limit(1)
            try:
                result = train(CONFIG, folder, full_at_first, recording=quiet, resume=True)
                limit(1)
                with pytest.raises(TrainingError) as refusal:
                    train(CONFIG, tmp_path / "new", recording=quiet)
            finally:
                limit(resource.RLIM_INFINITY)
    assert result.env_steps >= 600 and load_checkpoint(result.checkpoint).step == result.env_steps
    assert (folder / "config.json").read_bytes() == before
    full = f"[Errno 27] File too large: '{folder / 'config.json'}'"
    assert f"warning: {full}; the settings of the run so far stay in config.json\n" in errors.getvalue()
    new = tmp_path / "new" / "config.json"
    assert str(refusal.value) == f"[Errno 27] File too large: '{new}'; make room and start again"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(config=replace(CONFIG, gamma=2.0)), "--gamma is 2.0"),
        (dict(recording=replace(RECORDING, keep=0)), "--keep is 0"),
        (dict(resume=True, weights_of="elsewhere"), "cannot both be given"),
        (dict(resume=True), "not a run folder"),
        (dict(weights_of="nowhere"), "nowhere is neither a run folder"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line_and_leave_no_checkpoint(change, line, tmp_path):
    config = change.pop("config", CONFIG)
    with pytest.raises(ValueError, match=line) as refusal:
        train(config, tmp_path / "run", **change)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("run/checkpoints/*"))


# -- a trained policy --------------------------------------------------------------------------------------------------


def test_a_policy_is_loaded_from_a_run_or_its_best_checkpoint_or_a_checkpoint_folder(trained):
    folder, result, _ = trained
    for run, best, expected in (
        (folder, False, result.checkpoint),
        (str(folder), True, find_checkpoints(folder, best=True)[0]),
        (result.checkpoint, False, result.checkpoint),
    ):
        policy = load_policy(run, best=best)
        parameters = load_checkpoint(expected).tensors["parameters"]
        assert all(torch.equal(t, parameters[n]) for n, t in policy.network.state_dict().items())
        assert policy.settings == CONFIG.game() and policy.actions == ("NOOP", "FIRE", "RIGHT", "LEFT")


def test_a_damaged_checkpoint_is_skipped_with_a_warning_and_a_run_without_a_good_one_is_an_error(
    trained, tmp_path
):
    import shutil

    _, result, _ = trained
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(result.checkpoint, folder / "step-000000000001")
    shutil.copytree(result.checkpoint, folder / "step-000000000002")
    (folder / "step-000000000002" / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"step-000000000002.*state\.json"):
        load_policy(tmp_path / "run")
    (folder / "step-000000000001" / "state.json").write_text("{}")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"state\.json"):
        load_policy(tmp_path / "run")
    with pytest.raises(ValueError, match="nowhere is neither"):
        load_policy(tmp_path / "nowhere")


def test_loading_a_policy_does_not_change_the_random_state_of_torch(trained):
    folder, _, _ = trained
    before = torch.get_rng_state()
    load_policy(folder)
    assert torch.equal(torch.get_rng_state(), before)


# -- the evaluator -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster():
    from agents.ray_cluster import connect

    with connect(None, cpus=1):
        yield


def test_nobody_else_finds_or_enters_a_private_cluster(cluster, monkeypatch):
    import ray
    from ray._private.services import find_gcs_addresses

    from agents.shared_cluster import cluster_of_this_machine

    here = ray.get_runtime_context().gcs_address
    assert here.startswith("127.0.0.1:") and here in find_gcs_addresses()
    # Somebody may have started another cluster.
    with contextlib.suppress(ValueError):
        assert cluster_of_this_machine() != here
    code = f"from ray._raylet import GcsClient; GcsClient(address={here!r})"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    intruder = run_in(ROOT, "-c", code)
    assert intruder.returncode == 1 and "AuthenticationError" in intruder.stderr


def test_an_evaluator_on_ray_has_the_lowest_priority_and_survives_the_death_of_its_actor(trained, cluster):
    import psutil

    _, result, _ = trained
    evaluator = Evaluator(games=2, seed=1, on_ray=True)
    here = Evaluator(games=2, seed=1, on_ray=False)
    evaluator.begin(result.checkpoint)
    assert evaluator.busy and evaluator.checkpoint == result.checkpoint
    result_on_ray = evaluator.take(timeout=None)
    here.begin(result.checkpoint)
    # With another number of threads sums have another order. The last digits may differ, but hardly the games.
    assert np.allclose(result_on_ray["episode_returns"], here.take()["episode_returns"])
    assert not evaluator.busy and evaluator.take(timeout=None) is None
    children = psutil.Process().children(recursive=True)
    (process,) = (child for child in children if "EvaluationActor" in " ".join(child.cmdline()[:1]))
    assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    evaluator.begin(result.checkpoint)
    process.kill()
    with pytest.raises(EvaluationFailed) as failure:
        evaluator.take(timeout=None)
    assert "\n" not in str(failure.value) and not evaluator.busy
    evaluator.begin(result.checkpoint)
    assert evaluator.take(timeout=None)["episode_returns"] == result_on_ray["episode_returns"]
    evaluator.close()


def test_a_failed_evaluation_is_a_warning_and_the_run_continues(tmp_path, monkeypatch, capsys):
    def fails(evaluator, **_):
        evaluator.checkpoint = None
        raise EvaluationFailed("no luck")

    monkeypatch.setattr(Evaluator, "take", fails)
    recording = replace(RECORDING, evaluate_episodes=0)
    result = train(replace(CONFIG, total_steps=300), tmp_path / "run", recording=recording)
    assert result.env_steps >= 300 and "warning: an evaluation failed: no luck" in capsys.readouterr().out


def test_training_that_fails_keeps_a_last_checkpoint(tmp_path, monkeypatch):
    from agents.a3c.local_training import LocalTraining

    advance = LocalTraining.advance

    def fails(training):
        if training.server.updates == 3:
            raise TrainingError("worn out")
        advance(training)

    monkeypatch.setattr(LocalTraining, "advance", fails)
    with pytest.raises(TrainingError, match="worn out"):
        train(CONFIG, tmp_path / "run", recording=replace(RECORDING, evaluate_every=0))
    assert load_newest(tmp_path / "run" / "checkpoints", warn=pytest.fail).state["updates"] == 3
