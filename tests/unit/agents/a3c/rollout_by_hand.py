"""The loss and gradient of a rollout, computed slowly: one game, one frame, one LSTM step at a time."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agents.a3c.config import A3CConfig
from agents.a3c.flat_parameters import flatten_parameters
from agents.a3c.worker import RolloutWorker
from envs.atari import Step, resolve
from neurocoder import auxiliary_loss
from neurocoder.settings import NeurocoderSettings


@dataclass
class Recorder:
    """Records everything that passes between a worker and its games from now on, and changes nothing."""

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
        """Returns the frame before step t, (1, 1, 80, 80)."""
        frames = self.first_frames if t == 0 else torch.from_numpy(self.steps[t - 1].observation)
        return frames[game : game + 1]

    def starts(self, t: int, game: int) -> bool:
        """True if the frame before step t is the first of an episode."""
        if t == 0:
            return bool(self.first_starts[game])
        before = self.steps[t - 1]
        after_fire = before.fired[game] and self.worker.config.life_loss_terminates
        return bool(before.terminated[game] or before.reset[game] or after_fire)


def slow_features(network, frame):
    """Computes the features (1, 1024) of a frame (1, 1, 80, 80): ReLU, then pooling, as in the paper's figure."""
    x = frame.double()
    x = (x - x.mean()) / (((x - x.mean()) ** 2).mean().sqrt() + 0.01)
    for layer in network.convolutions:
        x = F.max_pool2d(F.relu(F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)), 2)
    return x.flatten(1)


def slow_losses(worker, recorder, first, last):
    """Computes the losses of the policy, the values and the negative entropy over steps [first, last), game by game.

    They are sums over steps and means over games. The steps before `first` only affect the LSTM's state.
    """
    config, network = worker.config, worker.network
    policy = value_error = order = 0.0
    games = len(recorder.first_frames)
    for game in range(games):
        h, c = (tensor[game : game + 1] for tensor in recorder.first_state)
        # (log-policy (A,), value) of every frame from `first` to `last`
        outputs = []
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
    """Computes the gradient of all parameters, in the memory order of the worker's gradient."""
    gradients = torch.autograd.grad(
        slow_rollout_loss(worker, recorder, first, last), list(worker.network.parameters())
    )
    expected = torch.zeros_like(worker.gradient)
    for parameter, gradient in zip(worker.network.parameters(), gradients, strict=True):
        offset = parameter.storage_offset()
        expected.as_strided(parameter.shape, parameter.stride(), offset).copy_(gradient)
    return expected


def double_worker(config, **games) -> RolloutWorker:
    """Makes a worker that computes in double precision, with changed settings of its games.

    Its policy and values differ from frame to frame, as after some training.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.actor_critic.config.resolve", lambda env: replace(resolve(env), **games))
        torch.manual_seed(config.seed)
        worker = RolloutWorker(config, 0)
    worker.network.double()
    with torch.no_grad():
        for layer in (worker.network.actor, worker.network.critic):
            for parameter in layer.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    worker.weights, worker.gradient = flatten_parameters(worker.network)
    worker.state = worker.network.initial_state(config.envs_per_worker)
    return worker


def small(env="Pong", **settings) -> A3CConfig:
    """Makes settings of a short rollout. The precision is fixed, since auto takes bf16 on some processors."""
    defaults = dict(
        env=env, head="mlp", envs_per_worker=2, rollout_steps=4, gradient_clip=1e9, precision="fp32"
    )
    return A3CConfig(**(defaults | settings))


def play_until(worker, happens) -> int:
    """Takes random actions until `happens(step)` is true. Returns the number of steps."""
    rng = np.random.default_rng(0)
    for count in range(1, 1000):
        if happens(worker.games.step(rng.integers(0, 4, worker.games.count))):
            return count
    raise AssertionError("it never happens")


def play_ahead(worker, steps) -> None:
    """Takes the first steps of `play_until`, and leaves the worker as if it had taken them in a rollout."""
    rng = np.random.default_rng(0)
    for _ in range(steps):
        step = worker.games.step(rng.integers(0, 4, worker.games.count))
    worker.frames, worker.start = torch.from_numpy(step.observation), torch.from_numpy(step.start)
    worker.state = tuple(torch.tanh(torch.randn_like(tensor)) for tensor in worker.state)


NEUROCODER = NeurocoderSettings(slots=6, heads=2)
