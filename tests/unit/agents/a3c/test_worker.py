"""The rollout worker against a slow obvious computation: one game, one frame, one LSTM step at a time."""

import math
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agents.a3c.config import A3CConfig
from agents.a3c.flat_parameters import flatten_parameters
from agents.a3c.parameter_server import ParameterServer
from agents.a3c.worker import BLOCKS, RolloutWorker
from envs.atari import AtariGames, Step, resolve
from neurocoder import auxiliary_loss
from neurocoder.settings import NeurocoderSettings


@dataclass
class Recorder:
    """Everything that happens between a worker and its games from here on, the games left as they are."""

    worker: RolloutWorker
    actions: list[np.ndarray] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self):
        self.first_frames = self.worker.frames.clone()
        self.first_starts = self.worker.start.clone()
        self.first_state = tuple(tensor.clone() for tensor in self.worker.state)
        step_games = self.worker.games.step

        def step(actions: np.ndarray) -> Step:
            step = step_games(actions)
            self.actions.append(actions.copy())
            self.steps.append(Step(*(part.copy() for part in step)))
            return step

        self.worker.games.step = step

    def frame(self, t: int, game: int) -> torch.Tensor:
        """What the game showed before step t: (1, 1, 80, 80)."""
        frames = self.first_frames if t == 0 else torch.from_numpy(self.steps[t - 1].observation)
        return frames[game : game + 1]

    def starts(self, t: int, game: int) -> bool:
        """Whether the frame before step t is the first of an episode."""
        if t == 0:
            return bool(self.first_starts[game])
        before = self.steps[t - 1]
        after_fire = before.fired[game] and self.worker.config.life_loss_terminates
        return bool(before.terminated[game] or before.reset[game] or after_fire)


def slow_features(network, frame):
    """(1, 1, 80, 80) -> (1, 1024): relu, then pooling, as the paper's figure has it."""
    x = frame.double()
    x = (x - x.mean()) / (((x - x.mean()) ** 2).mean().sqrt() + 0.01)
    for layer in network.convolutions:
        x = F.max_pool2d(F.relu(F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)), 2)
    return x.flatten(1)


def slow_losses(worker, recorder, first, last):
    """Policy, value and negative entropy of steps [first, last), summed over steps, each game by itself.

    What was before `first` only leaves the LSTM's state.
    """
    config, network = worker.config, worker.network
    policy = value_error = order = 0.0
    games = len(recorder.first_frames)
    for game in range(games):
        h, c = (tensor[game : game + 1] for tensor in recorder.first_state)
        outputs = []  # for every frame from `first` to `last`: log-policy (A,), value
        for t in range(last + 1):
            if recorder.starts(t, game):
                h, c = torch.zeros_like(h), torch.zeros_like(c)
            if t == first:
                h, c = h.detach(), c.detach()
            h, c = network.lstm(slow_features(network, recorder.frame(t, game)), (h, c))
            if t >= first:
                outputs.append((network.actor(h)[0].log_softmax(-1), network.critic(h)[0, 0]))
        values = [value.item() for _, value in outputs]
        rows = recorder.steps[first:last]
        for t, row in enumerate(rows):
            if row.reset[game] or row.fired[game]:
                continue
            advantage, weight = 0.0, 1.0
            for k in range(t, len(rows)):
                reward = min(max(float(rows[k].reward[game]), -config.reward_clip), config.reward_clip)
                next_value = 0.0 if rows[k].terminated[game] else values[k + 1]
                advantage += weight * (reward + config.gamma * next_value - values[k])
                if rows[k].terminated[game] or rows[k].truncated[game]:
                    break
                weight *= config.gamma * config.gae_lambda
            log_policy, value = outputs[t]
            policy += -advantage * log_policy[int(recorder.actions[first + t][game])] / games
            value_error += 0.5 * (advantage + values[t] - value) ** 2 / games
            order += (log_policy.exp() * log_policy).sum() / games
    return policy, value_error, order


def slow_rollout_loss(worker, recorder, first, last):
    config = worker.config
    policy, value_error, order = slow_losses(worker, recorder, first, last)
    loss = policy + config.value_weight * value_error + config.entropy_weight * order
    return loss + auxiliary_loss(worker.network)


def slow_gradient(worker, recorder, first, last):
    """Of all parameters, each in the memory order it has in the worker's gradient."""
    gradients = torch.autograd.grad(
        slow_rollout_loss(worker, recorder, first, last), list(worker.network.parameters())
    )
    expected = torch.zeros_like(worker.gradient)
    for parameter, gradient in zip(worker.network.parameters(), gradients, strict=True):
        offset = parameter.storage_offset()
        expected.as_strided(parameter.shape, parameter.stride(), offset).copy_(gradient)
    return expected


def double_worker(config, **games) -> RolloutWorker:
    """A worker that computes in double precision, on games with other settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.actor_critic.config.resolve", lambda env: replace(resolve(env), **games))
        torch.manual_seed(config.seed)
        worker = RolloutWorker(config, 0)
    worker.network.double()
    with torch.no_grad():  # a policy and values that are not all alike, as after some training
        for layer in (worker.network.actor, worker.network.critic):
            for parameter in layer.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    worker.weights, worker.gradient = flatten_parameters(worker.network)
    worker.state = worker.network.initial_state(config.envs_per_worker)
    return worker


def small(env="Pong", **settings) -> A3CConfig:
    defaults = dict(
        env=env, head="mlp", envs_per_worker=2, rollout_steps=4, gradient_clip=1e9, precision="fp32"
    )  # auto would take bf16 where the processor has it
    return A3CConfig(**(defaults | settings))


def assert_equal_gradients(gradient, expected):
    assert expected.norm() > 1e-3
    assert (torch.from_numpy(gradient) - expected).norm() < 1e-9 * expected.norm()


def play_until(worker, happens) -> int:
    """Steps with random actions until something happens in one of the worker's games."""
    rng = np.random.default_rng(0)
    for count in range(1, 1000):
        if happens(worker.games.step(rng.integers(0, 4, worker.games.count))):
            return count
    raise AssertionError("it never happens")


def play_ahead(worker, steps) -> None:
    """The first steps of `play_until`, after which the worker goes on as if it had taken them."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        step = worker.games.step(rng.integers(0, 4, worker.games.count))
    worker.frames, worker.start = torch.from_numpy(step.observation), torch.from_numpy(step.start)
    worker.state = tuple(torch.tanh(torch.randn_like(tensor)) for tensor in worker.state)


NEUROCODER = NeurocoderSettings(slots=6, heads=2)


@pytest.mark.parametrize(
    "settings",
    [
        dict(head="mlp", gae_lambda=1.0),
        dict(head="neurocoder", neurocoder=NEUROCODER, gae_lambda=0.9, gamma=0.9),
        dict(head="hypernet", head_on="both", value_weight=0.25, entropy_weight=0.1),
    ],
    ids=lambda settings: settings["head"],
)
def test_the_gradient_of_a_rollout_equals_a_slow_step_by_step_computation(settings):
    worker = double_worker(small(**settings))
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    assert report.steps == 2 * 4
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 4))


@pytest.mark.parametrize("env_steps, weight", [(0, 0.4), (750, 0.1), (1_200, 0.0)])
def test_the_entropy_weight_falls_linearly_to_0_over_the_total_steps_where_it_is_annealed(env_steps, weight):
    worker = double_worker(small(entropy_weight=0.4, anneal_entropy=True, total_steps=1_000))
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(0, env_steps)
    worker.config = replace(worker.config, entropy_weight=weight)  # which is all that the slow one looks at
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 4))


def test_without_annealing_the_entropy_weight_stays():
    worker = double_worker(small(entropy_weight=0.4, total_steps=1_000))
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(0, 750)
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 4))


def test_the_gradient_equals_the_slow_one_over_cuts_by_the_frame_cap():
    worker = double_worker(small(rollout_steps=9, gae_lambda=0.95), max_frames=12)
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    truncated = np.stack([step.truncated for step in recorder.steps])
    resets = np.stack([step.reset for step in recorder.steps])
    assert truncated.sum() == 2 * 2 and resets.sum() == 2 * 2
    assert report.steps == 2 * 9 - 4
    assert [episode.length for episode in report.episodes] == [3] * 4
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 9))


@pytest.mark.parametrize("end", ["terminated", "ended"], ids=["lost life", "game over"])
def test_the_gradient_equals_the_slow_one_over_the_end_of_an_episode(end):
    worker = double_worker(small("Breakout", rollout_steps=7))
    steps_to_end = play_until(worker, lambda step: getattr(step, end).any())
    worker.restart_games(0)
    play_ahead(worker, steps_to_end - 5)  # the ball is out of reach by now, whatever the policy does
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    terminated, resets, fired = (
        np.stack([getattr(step, name) for step in recorder.steps])
        for name in ("terminated", "reset", "fired")
    )
    assert terminated.any() and resets.sum() == len(report.episodes) == (end == "ended")
    assert report.steps == 2 * 7 - resets.sum() - fired.sum()
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 7))


@pytest.mark.parametrize("life_loss_terminates", [True, False], ids=["lives", "games"])
def test_the_gradient_equals_the_slow_one_over_a_fire_step_after_a_lost_life(life_loss_terminates):
    config = small("Breakout", rollout_steps=7, life_loss_terminates=life_loss_terminates)
    worker = double_worker(replace(config, gae_lambda=0.9))
    # The LSTM's state, and so what it carries over the FIRE step, weighs as much as the frames.
    with torch.no_grad():
        worker.network.lstm.weight_hh *= 8
    steps_to_fire = play_until(worker, lambda step: step.fired.any())
    worker.restart_games(0)
    play_ahead(worker, steps_to_fire - 5)
    recorder = Recorder(worker)
    gradient, report = worker.rollout(0, 0)
    fired = np.stack([step.fired for step in recorder.steps])
    terminated = np.stack([step.terminated for step in recorder.steps])
    assert fired[:-2].any() and terminated.any() == life_loss_terminates
    assert report.steps == 2 * 7 - fired.sum()
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 7))


def test_the_gradient_equals_the_slow_one_over_a_reward_that_is_clipped():
    worker = double_worker(small("Berzerk", rollout_steps=5))
    steps_to_reward = play_until(worker, lambda step: (step.reward > 10).any())
    worker.restart_games(0)
    play_ahead(worker, steps_to_reward - 2)
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(0, 0)
    assert max(step.reward.max() for step in recorder.steps) > 10
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 5))


def test_the_recurrent_state_carries_over_from_rollout_to_rollout():
    worker = double_worker(small(rollout_steps=3))
    recorder = Recorder(worker)
    worker.rollout(0, 0)
    gradient, _ = worker.rollout(1, 0)
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 3, 6))


def test_restarted_games_begin_anew_with_an_empty_recurrent_state():
    worker = double_worker(small(rollout_steps=3, seed=6))
    worker.rollout(0, 0)
    worker.restart_games(24)
    assert not any(tensor.any() for tensor in worker.state) and worker.start.all()
    games = AtariGames(resolve("Pong"), 2)
    assert torch.equal(worker.frames, torch.from_numpy(games.reset([6, 0, 24])))
    games.close()
    recorder = Recorder(worker)
    gradient, _ = worker.rollout(1, 0)
    assert_equal_gradients(gradient, slow_gradient(worker, recorder, 0, 3))


def test_a_gradient_is_shortened_to_the_largest_norm_and_a_short_one_is_left_alone():
    gradients = {}
    for largest in (1e9, 0.05):
        gradient, report = double_worker(small(rollout_steps=2, gradient_clip=largest)).rollout(0, 0)
        gradients[largest] = gradient.copy()
        norm = np.linalg.norm(gradients[1e9])
        assert norm > 0.05
        assert report.scalars["gradients/norm"] == pytest.approx(norm)  # before clipping
    assert np.linalg.norm(gradients[0.05]) == pytest.approx(0.05, rel=1e-4)
    np.testing.assert_allclose(gradients[0.05], gradients[1e9] * 0.05 / norm, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [dict(head="mlp"), dict(head="neurocoder", neurocoder=NEUROCODER)], ids=str
)
def test_the_norms_of_the_blocks_are_those_of_their_parameters(settings):
    worker = double_worker(small(rollout_steps=2, **settings))
    _, report = worker.rollout(0, 0)
    squares = dict.fromkeys(BLOCKS, 0.0)
    for name, parameter in worker.network.named_parameters():
        # The largest norm is beyond reach, so that the gradient is as it was.
        squares[name.split(".")[0]] += parameter.grad.square().sum().item()
    norms = {name: report.scalars[f"gradients/norm_{name}"] for name in BLOCKS}
    assert norms == pytest.approx({name: square**0.5 for name, square in squares.items()}, rel=1e-9)
    assert min(norms.values()) > 0
    whole = sum(norm**2 for norm in norms.values()) ** 0.5
    assert report.scalars["gradients/norm"] == pytest.approx(whole, rel=1e-9)


def test_the_losses_told_are_means_over_the_steps_of_the_slow_ones():
    worker = double_worker(small(head="neurocoder", neurocoder=NEUROCODER, rollout_steps=3))
    recorder = Recorder(worker)
    _, report = worker.rollout(0, 0)
    policy, value, order = (loss.item() / 3 for loss in slow_losses(worker, recorder, 0, 3))
    told = {
        name: report.scalars[f"losses/{name}"] for name in ("policy", "value", "entropy", "orthogonality")
    }
    assert told == pytest.approx(
        {
            "policy": policy,
            "value": value,
            "entropy": -order,
            "orthogonality": auxiliary_loss(worker.network).item(),
        },
        rel=1e-9,
    )


def test_the_kl_is_that_of_the_weights_before_and_after_a_load_on_the_same_frame_and_state():
    worker = double_worker(small("Breakout", rollout_steps=4))
    recorder = Recorder(worker)

    def log_policies() -> list[torch.Tensor]:
        """(A,) of each game, for the frame that it shows now."""
        return [
            worker.network.actor(
                worker.network.lstm(slow_features(worker.network, worker.frames[i : i + 1]), state)[0]
            )[0].log_softmax(-1)
            for i, state in enumerate(states)
        ]

    _, report = worker.rollout(0, 0)
    # There were no weights before.
    assert "policy/kl" not in report.scalars
    assert not any(recorder.starts(4, game) for game in range(2))
    states = [tuple(part[i : i + 1].clone() for part in worker.state) for i in range(2)]
    with torch.no_grad():
        before = log_policies()
        changed = worker.weights + 0.02 * torch.randn_like(worker.weights)
        worker.load(changed.numpy())
        after = log_policies()
    expected = np.mean(
        [
            sum(math.exp(p) * (p - q) for p, q in zip(old.tolist(), new.tolist(), strict=True))
            for old, new in zip(before, after, strict=True)
        ]
    )
    _, report = worker.rollout(1, 0)
    assert report.scalars["policy/kl"] == pytest.approx(expected, rel=1e-8)
    assert expected > 1e-4
    _, report = worker.rollout(1, 0)
    assert report.scalars["policy/kl"] == pytest.approx(0, abs=1e-12)  # nothing was loaded
    worker.restart_games(0)
    assert "policy/kl" not in worker.rollout(1, 0)[1].scalars


def test_a_report_describes_the_steps_that_were_taken():
    worker = double_worker(small(rollout_steps=9), max_frames=12)
    recorder = Recorder(worker)
    _, report = worker.rollout(0, 0)
    counts = Counter(
        worker.actions[action]
        for step, actions in zip(recorder.steps, recorder.actions, strict=True)
        for action, reset in zip(actions, step.reset, strict=True)
        if not reset
    )
    assert sum(counts.values()) == report.steps < 2 * 9
    shares = {f"policy/action/{name}": counts[name] / report.steps for name in worker.actions}
    assert {tag: report.scalars[tag] for tag in shares} == pytest.approx(shares, rel=1e-6)
    assert report.scalars["values/advantage_rms"] > 0


def test_after_a_load_a_worker_has_the_weights_of_the_server():
    config = small(head="neurocoder", neurocoder=NEUROCODER, rollout_steps=2)
    server, worker = ParameterServer(config), RolloutWorker(config, 0)
    for _ in range(2):
        weights = server.pull()
        worker.load(weights.vector)
        for name, tensor in server.network.state_dict().items():
            assert torch.equal(worker.network.state_dict()[name], tensor), name
        server.push(*worker.rollout(weights.version, weights.env_steps))
    assert (server.updates, server.env_steps) == (2, 2 * 2 * 2)


def test_workers_of_one_run_play_different_games_with_different_actions():
    recorders = [Recorder(RolloutWorker(small("Seaquest"), index)) for index in (0, 1)]
    for recorder in recorders:
        recorder.worker.rollout(0, 0)
    assert (np.stack(recorders[0].actions) != np.stack(recorders[1].actions)).any()
    for recorder in recorders:
        recorder.worker.restart_games(0)
        for _ in range(20):  # by now the different numbers of no-ops show
            recorder.worker.games.step(np.zeros(2, dtype=np.int64))
    assert (recorders[0].steps[-1].observation != recorders[1].steps[-1].observation).any()


def test_a_report_tells_where_the_time_went():
    worker = RolloutWorker(A3CConfig(head="mlp", envs_per_worker=1, rollout_steps=5), 0)
    _, first = worker.rollout(0, 0)
    ended = worker.last_end
    before = time.perf_counter()
    time.sleep(0.2)
    between = time.perf_counter()
    _, second = worker.rollout(0, 0)
    after = time.perf_counter()
    assert first.seconds.keys() == second.seconds.keys() == {"exchange", "play", "gradient"}
    assert min(first.seconds.values()) > 0
    assert second.seconds["exchange"] >= between - before
    assert sum(second.seconds.values()) == pytest.approx(worker.last_end - ended)  # nothing is left out
    assert second.seconds["play"] + second.seconds["gradient"] < after - between
