"""A rollout worker: plays its games with the current policy and turns each rollout into one gradient.

It knows nothing of Ray. Shapes: T steps, N games, n parameters.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.a3c.config import A3CConfig
from agents.a3c.flat_parameters import flatten_parameters
from agents.a3c.loss import actor_critic_losses
from agents.a3c.messages import Report, Start
from agents.a3c.precision import PRECISIONS, choose_precision, node_kind
from agents.a3c.returns import generalised_advantages
from agents.actor_critic.diagnostics import describe_rollout
from agents.actor_critic.network import build_network
from agents.freed_memory import keep_freed_memory
from envs.atari import AtariGames, Episode, action_names
from neurocoder import NeurocoderLinear, auxiliary_loss
from neurocoder.kernels.convolutions import Activations
from neurocoder.kernels.lstm import LSTMWeights
from neurocoder.networks.conv_lstm import State

TRACE_EVERY = 50  # rollouts between two looks at the attention of a Neurocoder head
BLOCKS = ("convolutions", "lstm", "actor", "critic")  # of the network, in the order of their parameters


@dataclass(frozen=True)
class Rollout:
    """T steps of N games, as the learner sees them."""

    activations: list[Activations]  # of the convolutions, for the N frames of each step
    start: Tensor  # (T, N) bool: the LSTM's state is zero before this step
    actions: Tensor  # (T, N) int64
    rewards: Tensor  # (T, N), clipped; NaN where the game gave no finite one
    terminated: Tensor  # (T, N) bool
    truncated: Tensor  # (T, N) bool
    valid: (
        Tensor  # (T, N) bool: False where the action was ignored, since a game restarted or FIRE was pressed
    )
    kl: Tensor | None  # scalar, nats: from the policy before the last update to the one after it
    episodes: list[Episode]


class RolloutWorker:
    """Worker number `index` of a run: its games, its copy of the network, its random state."""

    def __init__(
        self,
        config: A3CConfig,
        index: int,
        *,
        attempt: int = 0,
        env_steps: int = 0,
        random_state: Tensor | None = None,
        precision: str | None = None,
    ):
        """`env_steps` and `random_state`: where the run continues from; games restart there. `precision`: fp32 or bf16; None
        chooses (`choose_precision`)."""
        keep_freed_memory()
        self.config, self.index, self.attempt = config, index, attempt
        self.device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        settings = config.game()
        self.actions = action_names(settings.rom)
        self.network = build_network(config).to(self.device)
        self.weights, self.gradient = flatten_parameters(self.network)
        self.set_precision(precision or choose_precision(self.network, config))
        self.generator = torch.Generator(self.device).manual_seed(config.seed * 1000 + index)
        if random_state is not None and random_state.shape == self.generator.get_state().shape:
            self.generator.set_state(random_state)  # a CPU's state says nothing to a GPU's generator
        self.games = AtariGames(settings, config.envs_per_worker, threads=config.cpus_per_worker)
        self.rollouts = 0
        self.restart_games(env_steps)
        self.ended = time.perf_counter()  # the last rollout

    def restart_games(self, env_steps: int) -> None:
        """Begins all games anew, from seeds that follow from the run's seed, the worker and the step count."""
        frames = self.games.reset([self.config.seed, self.index, env_steps])
        self.frames = torch.from_numpy(frames).to(self.device)
        self.start = torch.ones(self.games.count, dtype=torch.bool, device=self.device)
        self.state = self.network.initial_state(self.games.count)
        self.last_policy: Tensor | None = (
            None  # (N, A), log-probabilities for `frames`, before the last update
        )

    def set_precision(self, name: str) -> None:
        """Computes in fp32 or bf16 from here on."""
        self.precision, self.network.compute_dtype = name, PRECISIONS[name]

    def load(self, weights: np.ndarray) -> None:
        """Takes over the shared weights (n,)."""
        self.weights.copy_(torch.from_numpy(weights))

    def rollout(self, version: int, env_steps: int) -> tuple[np.ndarray, Report]:
        """Plays T steps in all games with weights of this version, which the run had after `env_steps` agent steps: gradient
        (n,), clipped, and what happened."""
        first_state = self.state
        began = time.perf_counter()
        lstm = self.network.lstm_weights()
        played = self._play(lstm)
        over = time.perf_counter()
        scalars, total, hidden = self._losses(
            played, first_state, lstm, self.config.entropy_weight_at(env_steps)
        )
        self.gradient.zero_()
        total.backward()
        norms = torch.stack([block.norm() for block in self._blocks()])
        norm = norms.norm()
        self.gradient *= (self.config.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        vector = self.gradient.cpu().numpy()
        self.rollouts += 1
        before, self.ended = self.ended, time.perf_counter()
        report = Report(
            worker=self.index,
            attempt=self.attempt,
            number=self.rollouts,
            version=version,
            steps=int(played.valid.sum()),
            scalars=scalars
            | {"gradients/norm": norm.item()}
            | {f"gradients/norm_{name}": value for name, value in zip(BLOCKS, norms.tolist(), strict=True)},
            seconds={"exchange": began - before, "play": over - began, "gradient": self.ended - over},
            episodes=played.episodes,
            random_state=self.generator.get_state(),
            not_finite=self._not_finite(played.rewards, norm),
            attention=self._attention(hidden) if self.rollouts % TRACE_EVERY == 1 else None,
        )
        return vector, report

    @torch.no_grad()
    def _play(self, lstm: LSTMWeights) -> Rollout:
        """Acts for T steps. What the convolutions leave is kept for the gradient, so they run once a frame."""
        network, state = self.network, self.state
        activations, starts, actions, steps, kl = [], [], [], [], None
        for t in range(self.config.rollout_steps):
            activations.append(network.activations(self.frames))
            starts.append(self.start)
            hidden, state = network.step(network.features_of(activations[-1:]), state, self.start, lstm)
            log_policy = network.actor(hidden).log_softmax(dim=-1)  # (N, A)
            if t == 0 and self.last_policy is not None:
                kl = F.kl_div(log_policy, self.last_policy, reduction="batchmean", log_target=True)
            action = torch.multinomial(log_policy.exp(), 1, generator=self.generator).squeeze(1)
            step = self.games.step(action.cpu().numpy())
            actions.append(action)
            steps.append(step)
            self.frames = torch.from_numpy(step.observation).to(self.device)
            self.start = torch.from_numpy(step.start).to(self.device)

        def stacked(name: str) -> Tensor:
            return torch.from_numpy(np.stack([getattr(step, name) for step in steps])).to(self.device)

        rewards, limit = stacked("reward"), self.config.reward_clip
        return Rollout(
            activations=activations,
            start=torch.stack(starts),
            actions=torch.stack(actions),
            rewards=rewards.clamp(-limit, limit).where(rewards.isfinite(), torch.nan),
            terminated=stacked("terminated"),
            truncated=stacked("truncated"),
            valid=stacked("valid"),
            kl=kl,
            episodes=[episode for step in steps for episode in step.episodes],
        )

    def _losses(
        self, played: Rollout, first_state: State, lstm: LSTMWeights, entropy_weight: float
    ) -> tuple[dict[str, float], Tensor, Tensor]:
        """Scalars by tag, the loss to differentiate and the LSTM's outputs (T, N, 512), detached.

        The LSTM acted without graph; it runs again over the whole rollout, which leaves the state for the next one.
        """
        config, network = self.config, self.network
        features = network.features_of(played.activations).unflatten(0, played.start.shape)  # (T, N, 1024)
        hidden, (h, c) = network.recur(features, first_state, played.start, lstm)  # (T, N, 512)
        self.state = (h.detach(), c.detach())
        logits = network.actor(hidden)  # (T, N, A)
        values = network.critic(hidden).squeeze(-1)  # (T, N)
        with torch.no_grad():
            last_hidden, _ = network.step(network.features(self.frames), self.state, self.start, lstm)
            last_value = network.critic(last_hidden).squeeze(-1)  # (N,)
            self.last_policy = network.actor(last_hidden).log_softmax(dim=-1)  # (N, A)
            advantages, returns = generalised_advantages(
                played.rewards,
                torch.cat((values, last_value.unsqueeze(0))),
                played.terminated,
                played.truncated,
                gamma=config.gamma,
                gae_lambda=config.gae_lambda,
            )
        policy, value, entropy = actor_critic_losses(
            logits, values, played.actions, advantages, returns, played.valid
        )
        orthogonality = auxiliary_loss(network)
        total = policy + config.value_weight * value - entropy_weight * entropy + orthogonality
        scalars = {
            "losses/policy": policy.item() / config.rollout_steps,
            "losses/value": value.item() / config.rollout_steps,
            "losses/entropy": entropy.item() / config.rollout_steps,
            "losses/orthogonality": orthogonality.item(),
        }
        scalars |= describe_rollout(values, advantages, returns, played.actions, played.valid, self.actions)
        if played.kl is not None:
            scalars["policy/kl"] = played.kl.item()
        return scalars, total, hidden.detach()

    def _blocks(self) -> list[Tensor]:
        """The gradient of each of `BLOCKS`, a view of the whole one."""
        sizes = [sum(p.numel() for p in self.network.get_submodule(name).parameters()) for name in BLOCKS]
        return list(self.gradient.split(sizes))

    def _not_finite(self, rewards: Tensor, norm: Tensor) -> str | None:
        """What to tell of a rollout with rewards (T, N) and this norm of the gradient."""
        if not rewards.isfinite().all():
            return "the reward of a game"
        if norm.isfinite():
            return None
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return f"the gradient of {name}"
        return "the norm of the gradient"

    def _attention(self, hidden: Tensor) -> np.ndarray | None:
        """Mean over a rollout and the attention steps, (3, H, P), if the actor is a Neurocoder layer."""
        if not isinstance(self.network.actor, NeurocoderLinear):
            return None
        return self.network.actor.trace(hidden).attention.mean(dim=(0, 1, 2)).cpu().numpy()


def begin_worker(
    config: A3CConfig,
    index: int,
    begin: Callable[[int, str], Start],
    decide_precision: Callable[[str, str], str],
    *,
    attempt: int = 0,
) -> RolloutWorker:
    """A worker that continues where the parameter server says, in the precision that all workers on its kind of node have.

    Args:
        begin, decide_precision: the methods of `ParameterServer`, called here or through Ray.
    """
    kind = node_kind(torch.device("cuda" if config.gpus_per_worker else "cpu"))
    start = begin(index, kind)
    worker = RolloutWorker(
        config,
        index,
        attempt=attempt,
        env_steps=start.env_steps,
        random_state=start.random_state,
        precision=start.precision,
    )
    worker.set_precision(decide_precision(kind, worker.precision))
    return worker
