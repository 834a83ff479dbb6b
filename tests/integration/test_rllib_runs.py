"""Runs with RLlib: their games, scalars and checkpoints are those of any other run."""

import itertools
import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_server import ParameterServer
from agents.actor_critic.network import build_network
from agents.actor_critic.training import Metrics, Snapshot
from agents.rllib import training as rllib_training
from agents.rllib.config import RLlibConfig
from agents.rllib.training import RLlibTraining
from agents.runs.checkpoints import list_checkpoints, load_checkpoint, load_newest
from agents.runs.policy import check_gradient, to_policy
from agents.runs.snapshots import to_snapshot
from envs.atari import AtariGames, AtariSettings, Episode, action_names
from envs.atari_gymnasium import AtariGame
from tests.unit.agents.a3c.reports import ROLLOUT_TAGS

ACTIONS = action_names("breakout")


@dataclass
class Witness:
    """Watches the games of this process, each of them alone in its `AtariGames`."""

    ended: list[Episode] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    """Scores of the games that have not ended."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Steps of the policy in the games that have not ended."""
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
    scalars: list[dict[str, float]]
    """Scalars of each of RLlib's results with an update."""
    results: list[dict[str, float]]
    """RLlib's own numbers of its learner in the same results."""


SLOW = pytest.mark.slow


@pytest.fixture(
    scope="module", params=["impala", pytest.param("appo", marks=SLOW), pytest.param("ppo", marks=SLOW)]
)
def short_run(request) -> Iterator[Run]:
    """Some updates on short games in this process.

    The games are cut before, in and after the FIRE after the first lost ball.
    """
    algo, witness = request.param, Witness()
    caps = itertools.cycle(range(90, 110, 2))
    config = RLlibConfig(
        algo=algo,
        env="Breakout",
        head="neurocoder",
        network="strided",
        frames=2,
        motion=0.5,
        lstm_hidden=64,
        env_runners=0,
        envs_per_runner=9,
        rollout_steps=3,
        batch_size=108,
    )
    algorithm_config = rllib_training.algorithm_config

    def one_update_each(config):
        """Gives each result few steps and one update, since RLlib logs its own numbers of the last update only."""
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
            scalars = list(training.scalars)
            folder = Path(training.algorithm.logdir)
            assert folder.is_dir() and not folder.is_relative_to(Path.home())
            yield Run(algo, witness, training.drain(), scalars, results)
        assert not folder.exists()


def test_every_game_is_reported_once(short_run):
    episodes = [episode for _, episode in short_run.metrics.episodes]
    assert len(episodes) >= 20
    assert sorted(episodes) == sorted(short_run.witness.ended)
    # All results of PPO have several games.
    if short_run.algo != "ppo":
        assert 1 in Counter(steps for steps, _ in short_run.metrics.episodes).values()
    # Some games ended in a reset, not in a step.
    assert short_run.witness.ended_by_fire > 0


def test_the_lengths_of_games_add_up_to_all_steps(short_run):
    finished = sum(episode.length for _, episode in short_run.metrics.episodes)
    assert short_run.metrics.env_steps == finished + sum(short_run.witness.lengths.values())


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["impala", "ppo"])
def test_games_of_other_processes_are_reported(algo):
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


TAGS = ROLLOUT_TAGS | {f"policy/action/{name}" for name in ACTIONS}


def test_updates_have_the_tags_of_a3c(short_run):
    scalars = short_run.metrics.scalars
    assert set(scalars) == TAGS
    assert all(math.isfinite(value) for value in scalars.values())
    assert 0 < scalars["losses/entropy"] <= math.log(4) + 1e-6
    assert sum(scalars[f"policy/action/{name}"] for name in ACTIONS) == pytest.approx(1)
    assert scalars["losses/orthogonality"] > 0
    assert scalars["values/explained_variance"] <= 1
    assert scalars["policy/kl"] >= -1e-6


def test_scalars_agree_with_rllibs_own_numbers_of_the_same_updates(short_run):
    assert len(short_run.scalars) == len(short_run.results) > 0
    value, factor = {
        "impala": ("mean_vf_loss", 1),
        "appo": ("vf_loss", 1),
        # This is the squared error, without the factor of a half.
        "ppo": ("vf_loss_unclipped", 0.5),
    }[short_run.algo]
    for ours, theirs in zip(short_run.scalars, short_run.results, strict=True):
        assert ours["losses/value"] == pytest.approx(factor * theirs[value], rel=1e-3)
        assert ours["losses/entropy"] == pytest.approx(theirs["entropy"], rel=1e-4)
        norm = theirs["gradients_default_optimizer_global_norm"]
        # A mean of norms is at least the norm of the blocks' means.
        blocks = [value for tag, value in ours.items() if tag.startswith("gradients/norm_")]
        assert math.hypot(*blocks) - 1e-4 <= ours["gradients/norm"] == pytest.approx(norm, rel=1e-3)
        policy = "mean_pi_loss" if short_run.algo == "impala" else "policy_loss"
        assert ours["losses/policy"] == pytest.approx(theirs[policy], rel=1e-4)
        if short_run.algo == "ppo":
            assert ours["policy/kl"] == pytest.approx(theirs["mean_kl_loss"], abs=1e-6)


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


@pytest.mark.slow
@pytest.mark.parametrize("algo, runners", [("impala", 1), ("appo", 0), ("ppo", 1)])
def test_a_run_that_diverges_ends_with_one_line_that_names_a_tensor(algo, runners, tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-m", "launch.rllib", "--algo", algo, "--env", "Breakout", "--head", "mlp",
            "--env-runners", str(runners), "--envs-per-runner", "2", "--learning-rate", "1e25",
            "--checkpoint-every", "100", "--evaluate-episodes", "0", "--run-dir", str(tmp_path / "run"),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(r"the (parameter|gradient of) \S+ (is|was) not finite", line)
    assert "a lower --learning-rate may help" in line
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        check_gradient(RLlibConfig(env="Breakout", head="mlp"), to_snapshot(Snapshot, load_checkpoint(path)))


SMALL = (
    "--env", "Breakout", "--head", "neurocoder", "--env-runners", 1, "--envs-per-runner", 4, "--batch-size", 80,
    "--evaluate-episodes", 0, "--no-life-loss-terminates", "--network", "nature", "--frames", 2,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo, steps, more",
    [
        ("impala", 1_000, 1_600),
        ("appo", 1_000, 1_600),
        # With PPO the orthogonality loss is at its minimum after 500 steps.
        ("ppo", 160, 240),
    ],
    ids=["impala", "appo", "ppo"],
)
def test_a_run_learns_resumes_and_is_evaluated(algo, steps, more, tmp_path):
    folder = tmp_path / "run"
    # With this weight the orthogonality loss outweighs the games.
    orthogonality = ("--neurocoder.orthogonality-weight", 100.0)
    run("launch.rllib", "--algo", algo, *SMALL, *orthogonality, "--total-steps", steps, "--run-dir", folder)
    first = load_newest(folder / "checkpoints", warn=pytest.fail)
    assert first.state["env_steps"] >= steps
    run("launch.rllib", "--resume", folder, "--total-steps", more, "--evaluate-episodes", 0)
    last = load_newest(folder / "checkpoints", warn=pytest.fail)
    assert last.state["env_steps"] >= more
    # Adam's count of updates continues from the first run.
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
