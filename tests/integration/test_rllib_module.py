"""The policy as a module of RLlib, with the scalars and games of its learner."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.tune.registry import ENV_CREATOR, _global_registry

from agents.a3c.config import A3CConfig
from agents.actor_critic.config import PolicySettings
from agents.actor_critic.network import build_network
from agents.actor_critic.play import play
from agents.actor_critic.policy import Policy
from agents.rllib.config import RLlibConfig
from agents.rllib.module import SCALARS, NeurocoderRLModule, _Learner, describe_update
from agents.rllib.training import algorithm_config
from envs.atari import AtariGames, AtariSettings, Episode, action_count, resolve
from neurocoder.settings import LAYERS, NeurocoderSettings

GAME = resolve("Breakout")


@pytest.fixture(params=LAYERS)
def module(request) -> NeurocoderRLModule:
    config = A3CConfig(env="Breakout", head=request.param, neurocoder=NeurocoderSettings(slots=8, heads=2))
    torch.manual_seed(0)
    return NeurocoderRLModule(
        observation_space=gymnasium.spaces.Box(0, 255, (1, 80, 80), np.uint8),
        action_space=gymnasium.spaces.Discrete(action_count(GAME.rom)),
        model_config={"policy": config.policy().to_dict(), "max_seq_len": 5},
    )


# The mixture of experts samples noise in training.
WITHOUT_NOISE = pytest.mark.parametrize(
    "module", [layer for layer in LAYERS if layer != "moe"], indirect=True
)
TWO_LAYERS = pytest.mark.parametrize("module", ["mlp", "neurocoder"], indirect=True)


def batch(sequences: int, steps: int, seed: int = 0) -> dict:
    random = torch.Generator().manual_seed(seed)
    return {
        Columns.OBS: torch.randint(256, (sequences, steps, 1, 80, 80), dtype=torch.uint8, generator=random),
        Columns.STATE_IN: {name: torch.randn(sequences, 512, generator=random) for name in ("h", "c")},
    }


def test_a_module_has_the_state_dict_of_an_a3c_policy(module):
    policy = build_network(PolicySettings.from_dict(module.model_config["policy"]))
    policy.load_state_dict(
        {name.removeprefix("policy."): tensor for name, tensor in module.state_dict().items()}
    )


@WITHOUT_NOISE
@torch.no_grad()
def test_training_on_sequences_computes_the_same_as_playing_step_by_step(module):
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


@WITHOUT_NOISE
@torch.no_grad()
def test_a_target_network_is_a_copy_that_does_not_change_with_the_policy(module):
    module.make_target_networks()
    given = batch(sequences=2, steps=3)
    before = module.forward_train(given)[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(module.forward_target(given)["target_network_action_dist_inputs"], before)
    for parameter in module.policy.parameters():
        parameter.mul_(1.5)
    torch.testing.assert_close(module.forward_target(given)["target_network_action_dist_inputs"], before)
    assert not torch.allclose(module.forward_train(given)[Columns.ACTION_DIST_INPUTS], before)


def play_by_hand(module: NeurocoderRLModule, settings: AtariSettings, seed: int) -> Episode:
    """Plays one game greedily with the module."""
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


@TWO_LAYERS
def test_a_module_plays_a_game_like_its_policy_in_an_evaluation(module):
    # Without a preference for FIRE, no game would end.
    with torch.no_grad():
        module.policy.actor.bias += torch.tensor([0.0, 0.001, 0.0, 0.0])
    short = replace(GAME, max_frames=2_000)
    (game,) = play(Policy(module.policy, short), episodes=1, seed=1, greedy=True)
    assert play_by_hand(module, short, seed=1) == game
    assert game.length > 100


def test_scalars_equal_a_slow_loop_over_the_steps_that_are_not_padding():
    random = torch.Generator().manual_seed(0)
    sequences, steps, actions = 3, 5, 4
    logits, acted = (torch.randn(sequences, steps, actions, generator=random) for _ in range(2))
    values, advantages, returns = (torch.randn(sequences, steps, generator=random) for _ in range(3))
    taken = torch.randint(actions, (sequences, steps), generator=random)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    given = {Columns.LOSS_MASK: valid, Columns.ACTIONS: taken, Columns.ACTION_DIST_INPUTS: acted}
    scalars = describe_update(given, logits, values, advantages, returns)

    def shares(row: torch.Tensor) -> list[float]:
        powers = [math.exp(x) for x in row.tolist()]
        return [power / sum(powers) for power in powers]

    squares, entropies, divergences, rms, counts, errors, targets = [], [], [], [], [0] * actions, [], []
    for b, t in itertools.product(range(sequences), range(steps)):
        if not valid[b, t]:
            continue
        learning, acting = shares(logits[b, t]), shares(acted[b, t])
        entropies.append(-sum(p * math.log(p) for p in learning))
        divergences.append(sum(q * math.log(q / p) for p, q in zip(learning, acting, strict=True)))
        squares.append((returns[b, t] - values[b, t]).item() ** 2)
        errors.append((returns[b, t] - values[b, t]).item())
        targets.append(returns[b, t].item())
        rms.append(advantages[b, t].item() ** 2)
        counts[taken[b, t]] += 1
    assert len(squares) == 8
    expected = {
        "losses/value": np.mean(squares) / 2,
        "losses/entropy": np.mean(entropies),
        "policy/kl": np.mean(divergences),
        "values/advantage_rms": math.sqrt(np.mean(rms)),
        "values/explained_variance": 1 - np.var(errors) / np.var(targets),
    } | {f"policy/action/{number}": count / 8 for number, count in enumerate(counts)}
    assert scalars == pytest.approx(expected, rel=1e-4)


@TWO_LAYERS
def test_gradient_norms_are_those_of_the_blocks_before_clipping(module):
    class Clipping:
        def postprocess_gradients_for_module(self, *, module_id, config, module_gradients_dict):
            for gradient in module_gradients_dict.values():
                gradient.zero_()
            return module_gradients_dict

    class Learner(_Learner, Clipping):
        def __init__(self):
            self.module = {"policy": SimpleNamespace(unwrapped=lambda: module)}
            self.scalars = {}
            self.metrics = SimpleNamespace(log_dict=self.log)

        def log(self, scalars, *, key, reduce):
            assert (key, reduce) == (("policy", SCALARS), "mean")
            self.scalars |= scalars

    torch.manual_seed(0)
    gradients = {name: torch.randn_like(parameter) for name, parameter in module.named_parameters()}
    squares = {name: gradient.double().square().sum().item() for name, gradient in gradients.items()}
    learner = Learner()
    clipped = learner.postprocess_gradients_for_module(
        module_id="policy",
        module_gradients_dict={p: gradients[name] for name, p in module.named_parameters()},
    )
    assert not any(gradient.any() for gradient in clipped.values())
    for block in ("convolutions", "lstm", "actor", "critic"):
        total = sum(square for name, square in squares.items() if name.startswith(f"policy.{block}."))
        assert learner.scalars[f"gradients/norm_{block}"] == pytest.approx(math.sqrt(total), rel=1e-4)
    assert learner.scalars["gradients/norm"] == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-4)
    assert learner.not_finite is None
    gradients["policy.lstm.weight_hh"][0, 0] = torch.inf
    learner.postprocess_gradients_for_module(
        module_id="policy",
        module_gradients_dict={p: gradients[name] for name, p in module.named_parameters()},
    )
    assert learner.not_finite == "the gradient of lstm.weight_hh"


def test_a_diverged_module_has_logits_that_rllib_can_draw_from_and_a_gradient_that_is_not_finite(module):
    with torch.no_grad():
        module.policy.lstm.bias_ih[0] = torch.nan
    module.make_target_networks()
    given = batch(sequences=2, steps=3)
    target = module.forward_target(given)["target_network_action_dist_inputs"]
    for answer in (module.forward_exploration(given), trained := module.forward_train(given)):
        assert answer[Columns.ACTION_DIST_INPUTS].isfinite().all()
    assert target.isfinite().all()
    trained[Columns.ACTION_DIST_INPUTS].square().sum().backward()
    assert not module.policy.lstm.weight_ih.grad.isfinite().all()


@pytest.mark.parametrize("terminates", [True, False])
def test_a_lost_life_ends_an_episode_in_rllib_if_the_settings_say_so(terminates):
    config = RLlibConfig(env="Breakout", life_loss_terminates=terminates)
    assert config.policy().life_loss_terminates == terminates
    algorithm_config(config)
    game = _global_registry.get(ENV_CREATOR, "neurocoder-atari")({})
    game.reset(seed=0)
    over, lives = False, 5
    while lives == 5:
        _, _, over, _, info = game.step(0)
        lives = info["lives"]
    assert lives == 4 and over == terminates


def test_settings_come_back_the_same_through_json():
    config = RLlibConfig(algo="ppo", head="hypernet", neurocoder=NeurocoderSettings(slots=7), learners=2)
    assert RLlibConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
