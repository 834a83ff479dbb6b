"""A state that has diverged is neither saved nor continued from."""

from dataclasses import replace

import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.actor_critic.training import Snapshot
from agents.errors import TrainingError
from agents.runs.checkpoints import CheckpointError, list_checkpoints, load_newest, save_checkpoint
from agents.runs.policy import check_gradient, load_policy
from agents.runs.snapshots import save_snapshot
from agents.runs.transfer import start_from
from neurocoder.settings import LAYERS, NeurocoderSettings
from tests.unit.agents.runs.saved_runs import save

CONFIG = A3CConfig(env="Breakout", head="mlp")


@pytest.fixture(scope="module")
def sound() -> Snapshot:
    return ParameterServer(CONFIG).snapshot()


def spoilt(snapshot: Snapshot, value: float, *, group: str = "parameters", step: int = 7) -> Snapshot:
    """Returns a later snapshot with one number of a tensor replaced."""
    tensors = {name: tensor.clone() for name, tensor in snapshot.parameters.items()}
    tensors["lstm.bias_hh"][3] = value
    return replace(snapshot, env_steps=step, **{group: tensors})


def write(folder, snapshot: Snapshot) -> None:
    """Writes a checkpoint as a version without the check has done."""
    tensors, state = snapshot.parts()
    save_checkpoint(folder, snapshot.env_steps, tensors, state | {"policy": CONFIG.policy().to_dict()})


@pytest.mark.parametrize("group", ["parameters", "optimizer"])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_a_snapshot_with_a_number_that_is_not_finite_is_not_saved(sound, group, value, tmp_path):
    with pytest.raises(TrainingError) as failure:
        save_snapshot(tmp_path, 7, spoilt(sound, value, group=group))
    assert str(failure.value).startswith("the run has diverged at step 7: lstm.bias_hh is not finite; ")
    assert "--learning-rate" in str(failure.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("head", LAYERS)
def test_a_policy_whose_finite_weights_are_too_large_for_a_gradient_is_found(head):
    config = A3CConfig(env="Breakout", head=head, neurocoder=NeurocoderSettings(slots=8, heads=2))
    fresh = ParameterServer(config).snapshot()
    random_state = torch.get_rng_state()
    check_gradient(config, fresh)
    assert torch.equal(torch.get_rng_state(), random_state)
    large = fresh.map(lambda tensor: tensor * 1e25)
    assert all(tensor.isfinite().all() for tensor in large.parameters.values())
    with pytest.raises(TrainingError, match=r"diverged at step 0: the gradient of .* is not finite; "):
        check_gradient(config, large)


def test_a_diverged_checkpoint_is_named_and_the_sound_one_before_it_is_taken(sound, tmp_path):
    run = tmp_path / "run"
    save(run / "checkpoints", sound, CONFIG)
    write(run / "checkpoints", spoilt(sound, torch.nan))
    named = r"step-000000000007: its run has diverged, lstm\.bias_hh is not finite"
    warnings: list[str] = []
    assert load_newest(run / "checkpoints", warn=warnings.append).step == 0
    (warning,) = warnings
    assert "step-000000000007: its run has diverged, lstm.bias_hh is not finite" in warning
    with pytest.warns(UserWarning, match=named):
        policy = load_policy(run)
    assert torch.equal(policy.network.lstm.bias_hh, sound.parameters["lstm.bias_hh"])
    assert "step-000000000000" in start_from(run, CONFIG)[1][0]
    diverged = list_checkpoints(run / "checkpoints")[0]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=named):
        load_policy(diverged)
    with pytest.raises(ValueError, match=named):
        start_from(diverged, CONFIG)


def test_a_run_with_nothing_but_diverged_checkpoints_is_not_continued(sound, tmp_path):
    write(tmp_path, spoilt(sound, torch.inf))
    with pytest.raises(CheckpointError, match="none of the 1 in it can be used"):
        load_newest(tmp_path, warn=lambda line: None)
