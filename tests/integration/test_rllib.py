"""The policy in RLlib: the same network, the same numbers, and runs that end in checkpoints like any other."""

import json
import subprocess
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from agents.a3c.config import A3CConfig
from agents.a3c.evaluation import play
from agents.a3c.parameter_owner import ParameterOwner
from agents.a3c.policy import build_policy
from agents.layer_settings import NeurocoderSettings
from agents.rllib import NeurocoderRLModule
from agents.rllib_config import RLlibConfig
from agents.rllib_training import RLlibTraining
from agents.runs.checkpoints import load_newest
from agents.runs.snapshots import to_policy
from envs.atari import AtariGames, AtariSettings, Episode, action_count, resolve
from envs.atari_gymnasium import AtariGame

GAME = resolve("Breakout")


@pytest.fixture(params=["mlp", "neurocoder", "hypernet"])
def module(request) -> NeurocoderRLModule:
    config = A3CConfig(env="Breakout", head=request.param, neurocoder=NeurocoderSettings(slots=8, heads=2))
    torch.manual_seed(0)
    return NeurocoderRLModule(
        observation_space=gymnasium.spaces.Box(0, 255, (1, 80, 80), np.uint8),
        action_space=gymnasium.spaces.Discrete(action_count(GAME.rom)),
        model_config={"a3c": config.to_dict(), "max_seq_len": 5},
    )


def batch(sequences: int, steps: int, seed: int = 0) -> dict:
    random = torch.Generator().manual_seed(seed)
    return {
        Columns.OBS: torch.randint(256, (sequences, steps, 1, 80, 80), dtype=torch.uint8, generator=random),
        Columns.STATE_IN: {name: torch.randn(sequences, 512, generator=random) for name in ("h", "c")},
    }


def test_a_module_has_the_state_dict_of_an_a3c_policy(module):
    policy = build_policy(A3CConfig.from_dict(module.model_config["a3c"]), action_count(GAME.rom))
    policy.load_state_dict(
        {name.removeprefix("policy."): tensor for name, tensor in module.state_dict().items()}
    )


@torch.no_grad()
def test_training_on_sequences_equals_playing_them_step_by_step(module):
    given = batch(sequences=3, steps=5)
    trained = module.forward_train(given)
    values = module.compute_values(given, embeddings=trained[Columns.EMBEDDINGS])
    torch.testing.assert_close(values, module.compute_values(given))
    state = (given[Columns.STATE_IN]["h"], given[Columns.STATE_IN]["c"])
    for t in range(5):
        features = module.policy.features(given[Columns.OBS][:, t])
        hidden, state = module.policy.step(features, state, torch.zeros(3, dtype=torch.bool))
        logits = module.policy.actor(hidden)
        torch.testing.assert_close(trained[Columns.ACTION_DIST_INPUTS][:, t], logits, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(
            values[:, t], module.policy.critic(hidden).squeeze(-1), rtol=1e-3, atol=1e-5
        )
    for name, last in zip(("h", "c"), state, strict=True):
        torch.testing.assert_close(trained[Columns.STATE_OUT][name], last, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_a_target_network_is_a_copy_that_stays_behind(module):
    module.make_target_networks()
    given = batch(sequences=2, steps=3)
    before = module.forward_train(given)[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(module.forward_target(given)["target_network_action_dist_inputs"], before)
    for parameter in module.policy.parameters():
        parameter.mul_(1.5)
    torch.testing.assert_close(module.forward_target(given)["target_network_action_dist_inputs"], before)
    assert not torch.allclose(module.forward_train(given)[Columns.ACTION_DIST_INPUTS], before)


def played_by(module: NeurocoderRLModule, settings: AtariSettings, seed: int) -> Episode:
    """One game, played greedily by the module itself."""
    games = AtariGames(settings, 1)
    observation = games.reset([seed])
    state = {name: torch.from_numpy(value)[None] for name, value in module.get_initial_state().items()}
    while True:
        given = {Columns.OBS: torch.from_numpy(observation)[:, None], Columns.STATE_IN: state}
        answer = module.forward_inference(given)
        state = answer[Columns.STATE_OUT]
        step = games.step(answer[Columns.ACTION_DIST_INPUTS][:, -1].argmax(-1).numpy())
        observation = step.observation
        if step.episodes:
            games.close()
            return step.episodes[0]


def test_a_module_plays_a_game_as_its_policy_does_in_an_evaluation(module):
    with torch.no_grad():
        module.policy.actor.bias += torch.tensor(
            [0.0, 0.001, 0.0, 0.0]
        )  # it likes to fire, or no game would end
    short = replace(GAME, max_frames=2_000)
    (game,) = play(module.policy, short, episodes=1, seed=1, greedy=True)
    assert played_by(module, short, seed=1) == game
    assert game.length > 100


def test_a_game_is_the_same_through_gymnasium():
    """Lives end episodes there, and the game goes on; its whole score comes with the reset."""
    actions = np.random.default_rng(0).integers(action_count(GAME.rom), size=2_000)
    game = AtariGame(GAME, reward_clip=1.0)
    observation, info = game.reset(seed=3)
    assert game.observation_space.contains(observation) and info == {}
    again, _ = AtariGame(GAME).reset(seed=3)
    assert np.array_equal(observation, again)
    rewards, episodes, told = 0.0, 0, {}
    for action in actions:
        observation, reward, terminated, truncated, _ = game.step(int(action))
        assert game.observation_space.contains(observation) and reward in (-1.0, 0.0, 1.0)
        rewards += reward
        if terminated or truncated:
            episodes += 1
            observation, told = game.reset()
            if told:
                break
    assert episodes == 5  # Breakout gives five balls
    assert told["score"] == rewards  # its first bricks count one each, so clipping takes nothing
    assert told["length"] > 50


@pytest.mark.parametrize("max_frames", range(90, 110, 2))
def test_every_game_is_told_of_also_one_that_ends_in_the_step_of_a_reset(max_frames):
    """The cut comes before, in and after the step that goes on after the first lost ball."""
    settings = replace(GAME, max_frames=max_frames)
    game, draw, told = AtariGame(settings), np.random.default_rng(0), 0
    game.reset(seed=3)
    for _ in range(300):
        _, _, terminated, truncated, _ = game.step(int(draw.integers(4)))
        if terminated or truncated:
            told += "score" in game.reset()[1]
    longest = -(-max_frames // settings.frame_skip) + 1  # with the step that begins the next one
    assert told >= 300 // longest - 1


@pytest.mark.slow
def test_a_resumed_run_of_appo_has_its_policy_as_target():
    config = RLlibConfig(algo="appo", env="Breakout", head="mlp", env_runners=0, envs_per_runner=1)
    policy = build_policy(replace(config.policy(), seed=9), action_count(GAME.rom))
    owner = ParameterOwner(config.policy())
    snapshot = replace(owner.snapshot(), parameters=policy.state_dict(), optimizer={})
    training = RLlibTraining(config, snapshot)
    try:
        (module,) = (
            answer.get()
            for answer in training.algorithm.learner_group.foreach_learner(
                lambda learner: learner.module["default_policy"].unwrapped()
            )
        )
        for name, tensor in policy.state_dict().items():
            assert torch.equal(module.target.state_dict()[name], tensor)
            assert torch.equal(module.policy.state_dict()[name], tensor)
    finally:
        training.close()


def run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL = (
    "--env", "Breakout", "--head", "neurocoder", "--env-runners", 1, "--envs-per-runner", 4, "--batch-size", 80,
    "--evaluate-episodes", 0,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo, steps, more",
    [
        ("impala", 1_000, 1_600),
        ("appo", 1_000, 1_600),
        ("ppo", 160, 240),
    ],  # PPO is at the least there is by 500
    ids=["impala", "appo", "ppo"],
)
def test_a_run_learns_resumes_and_is_evaluated(algo, steps, more, tmp_path):
    folder = tmp_path / "run"
    orthogonality = ("--neurocoder.orthogonality-weight", 100.0)  # so that it outweighs what games teach
    run("launch.rllib", "--algo", algo, *SMALL, *orthogonality, "--total-steps", steps, "--run-dir", folder)
    first = load_newest(folder / "checkpoints", warn=pytest.fail)
    assert first.state["env_steps"] >= steps
    run("launch.rllib", "--resume", folder, "--total-steps", more, "--evaluate-episodes", 0)
    last = load_newest(folder / "checkpoints", warn=pytest.fail)
    assert last.state["env_steps"] >= more
    # Adam goes on where it was: its count of updates has not begun anew.
    for checkpoint in (first, last):
        counts = {int(n) for name, n in checkpoint.tensors["optimizer"].items() if name.endswith(".step")}
        assert counts == {checkpoint.state["updates"]}
    assert last.state["updates"] > first.state["updates"] > last.state["updates"] - first.state["updates"]

    network, config = to_policy(first)
    torch.manual_seed(config.seed)
    untrained = build_policy(config, action_count(GAME.rom))
    distances = [
        each.actor.memory.orthogonality_loss().item() for each in (untrained, network, to_policy(last)[0])
    ]
    assert distances[0] > distances[1] > distances[2]

    run("launch.evaluate", folder, "--episodes", 2, "--json", tmp_path / "scores.json")
    (result,) = json.loads((tmp_path / "scores.json").read_text())
    assert result["env"] == "Breakout" and len(result["episode_returns"]) == 2


def test_settings_come_back_the_same_through_json():
    config = RLlibConfig(algo="ppo", head="hypernet", neurocoder=NeurocoderSettings(slots=7), learners=2)
    assert RLlibConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
