"""A rollout worker: plays its games with the current policy and turns each rollout into one gradient.

It knows nothing of Ray. Shapes: T steps, N games, n parameters.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agents.a3c.config import A3CConfig
from agents.a3c.loss import actor_critic_losses
from agents.a3c.policy import build_policy, flatten_parameters
from agents.a3c.returns import generalised_advantages
from envs.atari import AtariGames, Episode, action_count, resolve
from neurocoder import NeurocoderLinear, auxiliary_loss

TRACE_EVERY = 50  # rollouts between two looks at the attention of a Neurocoder head


@dataclass(frozen=True)
class Report:
    """What a worker tells of one rollout, beside the gradient."""

    worker: int
    version: int
    """Version of the weights that the gradient was computed with."""
    steps: int
    """Agent steps taken."""
    losses: dict[str, float]
    """policy, value, entropy, orthogonality, gradient_norm (before clipping)."""
    episodes: list[Episode]
    random_state: Tensor
    """State of the worker's action generator after the rollout, uint8."""
    attention: np.ndarray | None
    """Now and then, for a Neurocoder actor: the mean attention over the slots, (3, H, P)."""


class RolloutWorker:
    """Worker number `index` of a run: its games, its copy of the network, its random state."""

    def __init__(
        self, config: A3CConfig, index: int, *, env_steps: int = 0, random_state: Tensor | None = None
    ):
        """`env_steps` and `random_state`: where the run continues from; games begin anew there."""
        self.config, self.index = config, index
        self.device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        settings = resolve(config.env)
        self.network = build_policy(config, action_count(settings.rom)).to(self.device)
        self.weights, self.gradient = flatten_parameters(self.network)
        self.generator = torch.Generator(self.device).manual_seed(config.seed * 1000 + index)
        if random_state is not None and random_state.shape == self.generator.get_state().shape:
            self.generator.set_state(
                random_state
            )  # else it is that of a CPU and this a GPU's generator, or the reverse
        self.games = AtariGames(
            settings, config.envs_per_worker, life_loss_terminates=config.life_loss_terminates
        )
        self.rollouts = 0
        self.restart_games(env_steps)

    def restart_games(self, env_steps: int) -> None:
        """Begins all games anew, from seeds that follow from the run's seed, the worker and the step count."""
        frames = self.games.reset([self.config.seed, self.index, env_steps])
        self.frames = torch.from_numpy(frames).to(self.device)
        self.start = torch.ones(self.games.count, dtype=torch.bool, device=self.device)
        self.state = self.network.initial_state(self.games.count)

    def load(self, weights: np.ndarray) -> None:
        """Takes over the shared weights (n,)."""
        self.weights.copy_(torch.from_numpy(weights))

    def rollout(self, version: int) -> tuple[np.ndarray, Report]:
        """Plays T steps in all games: gradient (n,), clipped, and what happened.

        The convolutions run once a frame: their graph of acting is kept for the gradient. The LSTM acts without graph
        and runs again over the whole rollout.
        """
        config, network, games = self.config, self.network, self.games
        features, starts, actions, rewards, terminated, truncated, resets = [], [], [], [], [], [], []
        episodes: list[Episode] = []
        first_state, state = self.state, self.state
        for _ in range(config.rollout_steps):
            features.append(network.features(self.frames))
            starts.append(self.start)
            with torch.no_grad():
                hidden, state = network.step(features[-1], state, self.start)
                policy = network.actor(hidden).softmax(dim=-1)
            action = torch.multinomial(policy, 1, generator=self.generator).squeeze(1)
            step = games.step(action.cpu().numpy())
            actions.append(action)
            rewards.append(torch.from_numpy(step.reward))
            terminated.append(torch.from_numpy(step.terminated))
            truncated.append(torch.from_numpy(step.truncated))
            resets.append(torch.from_numpy(step.reset))
            episodes += step.episodes
            self.frames = torch.from_numpy(step.observation).to(self.device)
            self.start = torch.from_numpy(step.start).to(self.device)

        hidden, self.state = network.recur(
            torch.stack(features), first_state, torch.stack(starts)
        )  # (T, N, 512)
        self.state = (self.state[0].detach(), self.state[1].detach())
        logits = network.actor(hidden)  # (T, N, A)
        values = network.critic(hidden).squeeze(-1)  # (T, N)
        with torch.no_grad():
            last_hidden, _ = network.step(network.features(self.frames), self.state, self.start)
            last_value = network.critic(last_hidden).squeeze(-1)  # (N,)
            advantages, returns = generalised_advantages(
                torch.stack(rewards).to(self.device).clamp(-config.reward_clip, config.reward_clip),
                torch.cat((values, last_value.unsqueeze(0))),
                torch.stack(terminated).to(self.device),
                torch.stack(truncated).to(self.device),
                gamma=config.gamma,
                gae_lambda=config.gae_lambda,
            )
        valid = ~torch.stack(resets).to(self.device)  # (T, N)
        losses = actor_critic_losses(logits, values, torch.stack(actions), advantages, returns, valid)
        orthogonality = auxiliary_loss(network)
        total = (
            losses.policy
            + config.value_weight * losses.value
            - config.entropy_weight * losses.entropy
            + orthogonality
        )
        self.gradient.zero_()
        total.backward()
        norm = self.gradient.norm()
        self.gradient *= (config.gradient_clip / (norm + 1e-6)).clamp(max=1.0)

        self.rollouts += 1
        steps = int(valid.sum())
        report = Report(
            worker=self.index,
            version=version,
            steps=steps,
            losses={
                "policy": losses.policy.item(),
                "value": losses.value.item(),
                "entropy": losses.entropy.item() * games.count / max(steps, 1),  # nats a step
                "orthogonality": float(orthogonality.detach()) if isinstance(orthogonality, Tensor) else 0.0,
                "gradient_norm": norm.item(),
            },
            episodes=episodes,
            random_state=self.generator.get_state(),
            attention=self._attention(hidden.detach()) if self.rollouts % TRACE_EVERY == 1 else None,
        )
        return self.gradient.cpu().numpy(), report

    def _attention(self, hidden: Tensor) -> np.ndarray | None:
        """Mean over a rollout and the attention steps, (3, H, P), if the actor is a Neurocoder layer."""
        if not isinstance(self.network.actor, NeurocoderLinear):
            return None
        return self.network.actor.trace(hidden).attention.mean(dim=(0, 1, 2)).cpu().numpy()
