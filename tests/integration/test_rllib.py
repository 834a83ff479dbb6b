"""The policy in RLlib: the same network, the same numbers, and runs that end in checkpoints like any other."""

import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.tune.registry import ENV_CREATOR, _global_registry

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.actor_critic.config import PolicySettings
from agents.actor_critic.network import build_network
from agents.actor_critic.play import play
from agents.actor_critic.policy import Policy
from agents.actor_critic.training import Metrics
from agents.rllib import training as rllib_training
from agents.rllib.config import RLlibConfig
from agents.rllib.module import SCALARS, NeurocoderRLModule, _Learner, describe_update
from agents.rllib.training import RLlibTraining
from agents.runs.checkpoints import load_newest
from agents.runs.policy import to_policy
from envs.atari import AtariGames, AtariSettings, Episode, action_count, action_names, resolve
from envs.atari_gymnasium import AtariGame
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
    (game,) = play(Policy(module.policy, short), episodes=1, seed=1, greedy=True)
    assert played_by(module, short, seed=1) == game
    assert game.length > 100


def test_a_game_is_the_same_through_gymnasium():
    """Lives end episodes there, and the game goes on; its whole score comes with the step that ends it."""
    actions = np.random.default_rng(0).integers(action_count(GAME.rom), size=2_000)
    settings = replace(GAME, life_loss_terminates=True)
    game = AtariGame(settings, reward_clip=1.0)
    observation, info = game.reset(seed=3)
    assert game.observation_space.contains(observation)
    assert info == {"score": 0.0, "length": 0, "lives": 5}
    again, _ = AtariGame(settings).reset(seed=3)
    assert np.array_equal(observation, again)
    rewards, steps, episodes, told = 0.0, 0, 0, None
    for action in actions:
        observation, reward, terminated, truncated, info = game.step(int(action))
        assert game.observation_space.contains(observation) and reward in (-1.0, 0.0, 1.0)
        rewards, steps = rewards + reward, steps + 1
        if terminated or truncated:
            episodes += 1
            told = info.get("episode")
            if told:
                break
            assert "episode" not in game.reset()[1]
    assert episodes == 5  # Breakout gives five balls
    assert told["r"] == rewards  # its first bricks count one each, so clipping takes nothing
    assert told["l"] == steps > 50


@pytest.mark.parametrize("max_frames", range(90, 110, 4))
def test_a_game_tells_of_every_end_also_of_one_in_a_reset(max_frames):
    """The cut comes before, in and after the FIRE that follows the first lost ball."""
    settings = replace(GAME, max_frames=max_frames, life_loss_terminates=True)
    game, draw, told = AtariGame(settings), np.random.default_rng(0), 0
    game.reset(seed=3)
    for _ in range(300):
        _, _, terminated, truncated, info = game.step(int(draw.integers(4)))
        told += "episode" in info
        if terminated or truncated:
            told += "episode" in game.reset()[1]
    longest = -(-max_frames // settings.frame_skip)
    assert told >= 300 // longest


@dataclass
class Witness:
    """Counts what happens in the games of this process, each of them alone in its `AtariGames`."""

    ended: list[Episode] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    """Steps of the games that have not ended."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Steps that the policy has taken in the games that have not ended."""
    ended_by_fire: int = 0

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        step_games = AtariGames.step

        def step(games, actions):
            step, game = step_games(games, actions), id(games)
            self.scores[game] = self.scores.get(game, 0.0) + float(step.reward[0])
            self.lengths[game] = self.lengths.get(game, 0) + (not step.fired[0])
            if step.ended[0]:
                self.ended.append(Episode(self.scores.pop(game), self.lengths.pop(game)))
                self.ended_by_fire += bool(step.fired[0])
            return step

        patch.setattr(AtariGames, "step", step)


@dataclass
class Run:
    algo: str
    witness: Witness
    metrics: Metrics
    told: list[dict[str, float]]
    """Scalars of each of RLlib's results that had an update in it."""
    results: list[dict[str, float]]
    """What RLlib itself says of its learner there."""


ONE_AND_MORE = [
    "impala",
    pytest.param("appo", marks=pytest.mark.slow),
    pytest.param("ppo", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=ONE_AND_MORE)
def short_run(request) -> Iterator[Run]:
    """Some updates on short games in this process. Their cuts come before, in and after the FIRE that follows the first lost ball."""
    algo, witness = request.param, Witness()
    caps = itertools.cycle(range(90, 110, 2))
    config = RLlibConfig(
        algo=algo,
        env="Breakout",
        head="neurocoder",
        env_runners=0,
        envs_per_runner=9,
        rollout_steps=3,
        batch_size=108,
    )
    algorithm_config = rllib_training.algorithm_config

    def one_update_each(config):
        """Makes results with few steps and games. RLlib logs its own numbers of the last update only, so PPO makes one."""
        algorithm = algorithm_config(config).reporting(min_time_s_per_iteration=0)
        return algorithm.training(num_epochs=1, minibatch_size=None) if algo == "ppo" else algorithm

    with pytest.MonkeyPatch.context() as patch:
        witness.watch(patch)
        patch.setattr(
            rllib_training,
            "AtariGame",
            lambda settings, **more: AtariGame(replace(settings, max_frames=next(caps)), **more),
        )
        patch.setattr(rllib_training, "algorithm_config", one_update_each)
        with RLlibTraining(config) as training:
            results, train = [], training.algorithm.train

            def remember():
                result = train()
                learnt = result.get("learners", {}).get("default_policy", {})
                if math.isfinite(learnt.get("entropy", math.nan)):
                    results.append(learnt)
                return result

            patch.setattr(training.algorithm, "train", remember)
            while training.env_steps < 800:
                training.advance()
            told = list(training.scalars)
            yield Run(algo, witness, training.drain(), told, results)


def test_every_game_is_told_of_once(short_run):
    told = [episode for _, episode in short_run.metrics.episodes]
    assert len(told) >= 20
    assert sorted(told) == sorted(short_run.witness.ended)
    if short_run.algo != "ppo":  # whose results have more games
        assert 1 in Counter(steps for steps, _ in short_run.metrics.episodes).values()
    assert short_run.witness.ended_by_fire > 0  # in a reset, not in a step


def test_the_lengths_of_games_are_all_steps_there_are(short_run):
    finished = sum(episode.length for _, episode in short_run.metrics.episodes)
    assert short_run.metrics.env_steps == finished + sum(short_run.witness.lengths.values())


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["impala", "ppo"])
def test_games_of_other_processes_are_told_of(algo):
    class ShortGames(RLlibConfig):
        def game(self) -> AtariSettings:
            return replace(super().game(), max_frames=100)

    config = ShortGames(
        algo=algo, env="Breakout", head="mlp", env_runners=2, envs_per_runner=2, batch_size=80
    )
    with RLlibTraining(config) as training:
        while training.env_steps < 600:
            training.advance()
        metrics = training.drain()
    lengths = [episode.length for _, episode in metrics.episodes]
    assert max(lengths) <= 25
    assert 0 <= metrics.env_steps - sum(lengths) <= 4 * 25


TAGS = {
    "losses/policy",
    "losses/value",
    "losses/entropy",
    "losses/orthogonality",
    "gradients/norm",
    "gradients/norm_convolutions",
    "gradients/norm_lstm",
    "gradients/norm_actor",
    "gradients/norm_critic",
    "values/explained_variance",
    "values/advantage_rms",
    "policy/kl",
    *(f"policy/action/{name}" for name in action_names(GAME.rom)),
}


def test_updates_are_told_of_by_the_tags_of_a3c(short_run):
    scalars = short_run.metrics.scalars
    assert set(scalars) == TAGS
    assert all(math.isfinite(value) for value in scalars.values())
    assert 0 < scalars["losses/entropy"] <= math.log(4) + 1e-6
    assert sum(scalars[f"policy/action/{name}"] for name in action_names(GAME.rom)) == pytest.approx(1)
    assert scalars["losses/orthogonality"] > 0
    assert scalars["values/explained_variance"] <= 1
    assert scalars["policy/kl"] >= -1e-6


def test_scalars_agree_with_what_rllib_says_of_the_same_updates(short_run):
    assert len(short_run.told) == len(short_run.results) > 0
    value, factor = {
        "impala": ("mean_vf_loss", 1),
        "appo": ("vf_loss", 1),
        # The whole squared error.
        "ppo": ("vf_loss_unclipped", 0.5),
    }[short_run.algo]
    for ours, theirs in zip(short_run.told, short_run.results, strict=True):
        assert ours["losses/value"] == pytest.approx(factor * theirs[value], rel=1e-3)
        assert ours["losses/entropy"] == pytest.approx(theirs["entropy"], rel=1e-4)
        norm = theirs["gradients_default_optimizer_global_norm"]
        # A mean of norms is at least the norm that its blocks' means have.
        blocks = [value for tag, value in ours.items() if tag.startswith("gradients/norm_")]
        assert math.hypot(*blocks) - 1e-4 <= ours["gradients/norm"] == pytest.approx(norm, rel=1e-3)
        policy = "mean_pi_loss" if short_run.algo == "impala" else "policy_loss"
        assert ours["losses/policy"] == pytest.approx(theirs[policy], rel=1e-4)
        if short_run.algo == "ppo":
            assert ours["policy/kl"] == pytest.approx(theirs["mean_kl_loss"], abs=1e-6)


def test_scalars_equal_a_slow_count_over_the_steps_that_are_not_padding():
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


def test_norms_are_of_the_blocks_of_the_network_before_gradients_are_clipped(module):
    class Clipping:
        def postprocess_gradients_for_module(self, *, module_id, config, module_gradients_dict):
            for gradient in module_gradients_dict.values():
                gradient.zero_()
            return module_gradients_dict

    class Learner(_Learner, Clipping):
        def __init__(self):
            self.module = {"policy": SimpleNamespace(unwrapped=lambda: module)}
            self.told = {}
            self.metrics = SimpleNamespace(log_dict=self.log)

        def log(self, scalars, *, key, reduce):
            assert (key, reduce) == (("policy", SCALARS), "mean")
            self.told |= scalars

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
        mine = sum(square for name, square in squares.items() if name.startswith(f"policy.{block}."))
        assert learner.told[f"gradients/norm_{block}"] == pytest.approx(math.sqrt(mine), rel=1e-4)
    assert learner.told["gradients/norm"] == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-4)


@pytest.mark.parametrize("terminates", [True, False])
def test_lives_end_episodes_in_rllib_as_the_settings_say(terminates):
    config = RLlibConfig(env="Breakout", life_loss_terminates=terminates)
    assert config.policy().life_loss_terminates == terminates
    rllib_training.algorithm_config(config)
    game = _global_registry.get(ENV_CREATOR, "neurocoder-atari")({})
    game.reset(seed=0)
    over, lives = False, 5
    while lives == 5:
        _, _, over, _, info = game.step(0)
        lives = info["lives"]
    assert lives == 4 and over == terminates


@pytest.mark.slow
def test_a_resumed_run_of_appo_has_its_policy_as_target():
    config = RLlibConfig(algo="appo", env="Breakout", head="mlp", env_runners=0, envs_per_runner=1)
    policy = build_network(config)
    server = ParameterServer(A3CConfig(env="Breakout", head="mlp"))
    snapshot = replace(server.snapshot(), parameters=policy.state_dict(), optimizer={})
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
    "--evaluate-episodes", 0, "--no-life-loss-terminates",
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
    # Adam continues: its count of updates has not restarted.
    for checkpoint in (first, last):
        counts = {int(n) for name, n in checkpoint.tensors["optimizer"].items() if name.endswith(".step")}
        assert counts == {checkpoint.state["updates"]}
    assert last.state["updates"] > first.state["updates"] > last.state["updates"] - first.state["updates"]

    policy, settings = to_policy(first)
    torch.manual_seed(RLlibConfig.seed)
    untrained = build_network(settings)
    networks = (untrained, policy.network, to_policy(last)[0].network)
    distances = [network.actor.memory.orthogonality_loss().item() for network in networks]
    assert distances[0] > distances[1] > distances[2]
    for checkpoint in (first, last):
        assert not to_policy(checkpoint)[0].settings.life_loss_terminates

    run("launch.evaluate", folder, "--episodes", 2, "--json", tmp_path / "scores.json")
    (result,) = json.loads((tmp_path / "scores.json").read_text())
    assert result["env"] == "Breakout" and len(result["episode_returns"]) == 2


def test_settings_come_back_the_same_through_json():
    config = RLlibConfig(algo="ppo", head="hypernet", neurocoder=NeurocoderSettings(slots=7), learners=2)
    assert RLlibConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
