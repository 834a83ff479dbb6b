"""Runs that start from the weights of another run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents import train
from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.runs.checkpoints import load_checkpoint
from agents.runs.recording import Recording
from agents.runs.transfer import start_from
from neurocoder.settings import NeurocoderSettings
from tests.unit.agents.runs.saved_runs import save

CONFIG = A3CConfig(
    env="Breakout", head="mlp", workers=0, envs_per_worker=2, rollout_steps=10, total_steps=600, optimizer="adam"
)  # fmt: skip
RECORDING = Recording(checkpoint_every=200, evaluate_every=200, evaluate_games=2, evaluate_episodes=3)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A checkpoint on Breakout with a Neurocoder head, whose weights differ from all fresh ones."""
    config = A3CConfig(
        env="Breakout", head="neurocoder", neurocoder=NeurocoderSettings(slots=8, heads=2), seed=5
    )
    server = ParameterServer(config)
    with torch.no_grad():
        server.flat += 0.5
    server.env_steps, server.updates, server.episodes = 700, 7, 3
    server.recent_returns.extend([1.0, 2.0])
    return save(tmp_path_factory.mktemp("source") / "checkpoints", server.snapshot(), config)


def fresh_weights(config: A3CConfig) -> dict[str, torch.Tensor]:
    return ParameterServer(config).network.state_dict()


def test_a_run_from_another_of_the_same_network_has_all_its_weights_and_none_of_its_counts(source):
    theirs = load_checkpoint(source)
    config = A3CConfig.from_dict(theirs.state["policy"])
    sticky = replace(config, env="ALE/Breakout-v5")
    snapshot, lines = start_from(source.parent.parent, sticky)
    assert (snapshot.env_steps, snapshot.updates, snapshot.episodes, snapshot.recent_returns) == (0, 0, 0, [])
    assert not snapshot.optimizer and not snapshot.random_states and len(lines) == 1
    server = ParameterServer(sticky, snapshot)
    for name, tensor in server.network.state_dict().items():
        assert torch.equal(tensor, theirs.tensors["parameters"][name])


@pytest.mark.parametrize(
    ("env", "head", "fresh"),
    [("Breakout", "mlp", ["actor"]), ("Pong", "neurocoder", ["actor"]), ("Pong", "hypernet", ["actor"])],
)
def test_an_output_layer_of_another_kind_or_size_starts_fresh_and_is_named(source, env, head, fresh):
    settings = A3CConfig.from_dict(load_checkpoint(source).state["policy"])
    config = replace(settings, env=env, head=head, seed=9)
    snapshot, lines = start_from(source, config)
    theirs, ours = load_checkpoint(source).tensors["parameters"], fresh_weights(config)
    assert snapshot.parameters.keys() == ours.keys()
    for name, tensor in snapshot.parameters.items():
        expected = ours if name.split(".")[0] in fresh else theirs
        assert torch.equal(tensor, expected[name]), name
    assert [line.split()[1] for line in lines[1:]] == fresh and "fresh weights" in lines[1]


def test_weights_of_another_network_are_refused_by_the_flag_that_differs(source):
    config = replace(A3CConfig.from_dict(load_checkpoint(source).state["policy"]), network="nature", frames=4)
    with pytest.raises(ValueError, match="its policy has --network paper, not nature; give --network paper"):
        start_from(source, config)
    with pytest.raises(ValueError, match="its policy has --frames 1, not 4; give --frames 1"):
        start_from(source, replace(config, network="paper"))


def test_training_starts_from_the_weights_of_another_run(source, tmp_path):
    config = replace(CONFIG, env="Pong", learning_rate=1e-30, total_steps=20)
    recording = replace(RECORDING, evaluate_every=0, evaluate_episodes=0)
    result = train(config, tmp_path / "run", recording=recording, weights_of=source)
    checkpoint = load_checkpoint(result.checkpoint)
    theirs = load_checkpoint(source).tensors["parameters"]
    for name in ("convolutions.0.weight", "lstm.weight_hh", "critic.weight"):
        assert torch.equal(checkpoint.tensors["parameters"][name], theirs[name])
    assert checkpoint.state["env_steps"] == 20 and checkpoint.state["updates"] == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["from"] == str(source)
