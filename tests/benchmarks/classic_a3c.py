"""A3C as the paper's time wrote it, to measure against: processes with one game each that share a model without locks.

Every step runs the whole network on one frame, in single precision and torch's default layout; after 20 steps the graph of all of
them is gone through backwards, and the gradients go to an Adam that the processes share (as rl_a3c_pytorch does it). The games are
those of `envs.atari`, which are faster than the wrappers of that time.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import multiprocessing as processes

from envs.atari import AtariGames, action_count, resolve
from neurocoder.networks.conv_lstm import ConvLSTM, State

STEPS, GAMMA, LAMBDA, CLIP, ENTROPY = 20, 0.99, 0.92, 40.0, 0.01


class ClassicNetwork(ConvLSTM):
    """The same parameters in the default layout, pooling after the ReLU, the LSTM a step at a time."""

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
        """`step`, as torch has it."""
        keep = (~start).to(features.dtype).unsqueeze(-1)
        h, c = self.lstm(features, (state[0] * keep, state[1] * keep))
        return h, (h, c)


def worker(
    shared: ClassicNetwork, optimizer: torch.optim.Optimizer, env: str, seed: int, steps, stop
) -> None:
    """Plays and learns until `stop` is set; adds to `steps` as it goes."""
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
            following = network.critic(hidden).squeeze() * (not ends[-1])
        loss, advantage, target = torch.zeros(()), torch.zeros(()), following
        for t in reversed(range(STEPS)):
            going_on = float(not ends[t])
            target = rewards[t] + GAMMA * target * going_on
            delta = rewards[t] + GAMMA * following * going_on - values[t].detach()
            advantage = delta + GAMMA * LAMBDA * advantage * going_on
            following = values[t].detach()
            loss = (
                loss
                + 0.5 * 0.5 * (target - values[t]).square()
                - chances[t] * advantage
                - ENTROPY * entropies[t]
            )
        network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        for parameter, own in zip(shared.parameters(), network.parameters(), strict=True):
            parameter.grad = own.grad
        optimizer.step()
        with steps.get_lock():
            steps.value += STEPS


def start(env: str, workers: int) -> tuple[Callable[[], int], Callable[[], None]]:
    """Starts the processes: what tells the steps taken, and what ends them."""
    context = processes.get_context("spawn")
    shared = ClassicNetwork(action_count(resolve(env).rom)).share_memory()
    optimizer = torch.optim.Adam(shared.parameters(), lr=1e-4)
    for parameter in shared.parameters():  # its statistics, too, are shared
        optimizer.state[parameter] = {
            "step": torch.zeros(()).share_memory_(),
            "exp_avg": torch.zeros_like(parameter).share_memory_(),
            "exp_avg_sq": torch.zeros_like(parameter).share_memory_(),
        }
    steps, stop = context.Value("q", 0), context.Event()
    children = [
        context.Process(target=worker, args=(shared, optimizer, env, seed, steps, stop), daemon=True)
        for seed in range(workers)
    ]
    for child in children:
        child.start()

    def end() -> None:
        stop.set()
        for child in children:
            child.join(timeout=30)
            child.kill()

    return lambda: steps.value, end
