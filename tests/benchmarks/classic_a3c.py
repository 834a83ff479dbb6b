"""A3C as it was written at the time of its paper, for comparison.

Processes with one game each share a model without locks. Every step runs the whole network on one frame, in
single precision and torch's default layout. After 20 steps their whole graph is differentiated, and the
gradients go to an Adam that the processes share, as in rl_a3c_pytorch. The games are those of `envs.atari`,
which are faster than the wrappers of that time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import multiprocessing as processes

from envs.atari import AtariGames, action_count, resolve
from neurocoder.networks.conv_lstm import ConvLSTM
from neurocoder.networks.recurrent import State
from tests.benchmarks.measure import Count

STEPS, GAMMA, LAMBDA, CLIP, ENTROPY = 20, 0.99, 0.92, 40.0, 0.01


class ClassicNetwork(ConvLSTM):
    """The same parameters in the default layout, with pooling after the ReLU and the LSTM a step at a time."""

    def __init__(self, actions: int):
        super().__init__(actions)
        for convolution in self.convolutions:
            convolution.weight.data = convolution.weight.data.contiguous()

    def features(self, frames: Tensor) -> Tensor:
        x = frames.float()
        x = (x - x.mean()) / (x.std() + 1e-2)
        for convolution in self.convolutions:
            x = F.max_pool2d(convolution(x).relu(), 2)
        return x.flatten(1)

    def cell(self, features: Tensor, state: State, start: Tensor) -> tuple[Tensor, State]:
        """Takes a step with torch's own LSTM cell."""
        keep = (~start).to(features.dtype).unsqueeze(-1)
        h, c = self.lstm(features, (state[0] * keep, state[1] * keep))
        return h, (h, c)


def rollout_loss(
    values: list[Tensor],
    chances: list[Tensor],
    entropies: list[Tensor],
    rewards: list[float],
    ends: list[bool],
    last_value: Tensor,
) -> Tensor:
    """Returns the loss of a rollout, step by step from its end.

    Args:
        chances: log-probability of the action taken at each step.
        last_value: value of the frame after the last step, 0 after the end of an episode.
    """
    following, target = last_value, last_value
    loss, advantage = torch.zeros(()), torch.zeros(())
    for t in reversed(range(STEPS)):
        continues = float(not ends[t])
        target = rewards[t] + GAMMA * target * continues
        delta = rewards[t] + GAMMA * following * continues - values[t].detach()
        advantage = delta + GAMMA * LAMBDA * advantage * continues
        following = values[t].detach()
        value_loss = 0.5 * 0.5 * (target - values[t]).square()
        loss = loss + value_loss - chances[t] * advantage - ENTROPY * entropies[t]
    return loss


def play_and_learn(
    shared: ClassicNetwork, optimizer: torch.optim.Optimizer, env: str, seed: int, steps: Any, stop: Any
) -> None:
    """Plays and learns until `stop` is set. Adds the steps taken to `steps`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    settings = replace(resolve(env), life_loss_terminates=True)
    network = ClassicNetwork(action_count(settings.rom))
    games = AtariGames(settings, 1)
    frame, start = torch.from_numpy(games.reset([seed])), torch.ones(1, dtype=torch.bool)
    state = network.initial_state(1)
    while not stop.is_set():
        network.load_state_dict(shared.state_dict())
        state = tuple(tensor.detach() for tensor in state)
        values, chances, entropies, rewards, ends = [], [], [], [], []
        for _ in range(STEPS):
            hidden, state = network.cell(network.features(frame), state, start)
            log_policy = network.actor(hidden).log_softmax(-1)
            action = log_policy.exp().multinomial(1)
            step = games.step(action.squeeze(1).numpy())
            values.append(network.critic(hidden).squeeze())
            chances.append(log_policy.gather(1, action).squeeze())
            entropies.append(-(log_policy.exp() * log_policy).sum())
            rewards.append(float(np.clip(step.reward[0], -1, 1)))
            ends.append(bool(step.terminated[0]))
            frame, start = torch.from_numpy(step.observation), torch.from_numpy(step.start)
        with torch.no_grad():
            hidden, _ = network.cell(network.features(frame), state, start)
            last_value = network.critic(hidden).squeeze() * (not ends[-1])
        network.zero_grad()
        rollout_loss(values, chances, entropies, rewards, ends, last_value).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        for parameter, local in zip(shared.parameters(), network.parameters(), strict=True):
            parameter.grad = local.grad
        optimizer.step()
        with steps.get_lock():
            steps.value += STEPS


@contextmanager
def classic_workers(env: str, workers: int) -> Iterator[Count]:
    """Runs the processes. Yields the number of steps that they have taken."""
    context = processes.get_context("spawn")
    shared = ClassicNetwork(action_count(resolve(env).rom)).share_memory()
    optimizer = torch.optim.Adam(shared.parameters(), lr=1e-4)
    # The optimiser's statistics are shared, too.
    for parameter in shared.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros(()).share_memory_(),
            "exp_avg": torch.zeros_like(parameter).share_memory_(),
            "exp_avg_sq": torch.zeros_like(parameter).share_memory_(),
        }
    steps, stop = context.Value("q", 0), context.Event()
    children = [
        context.Process(target=play_and_learn, args=(shared, optimizer, env, seed, steps, stop), daemon=True)
        for seed in range(workers)
    ]
    for child in children:
        child.start()
    try:
        yield lambda: steps.value
    finally:
        stop.set()
        for child in children:
            child.join(timeout=30)
            child.kill()
