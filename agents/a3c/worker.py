"""A rollout worker: plays its games with the current policy and turns each rollout into one gradient.

It knows nothing of Ray. Shapes: T steps, N games, A actions, F features, H units of the LSTM, n parameters.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.a3c.config import A3CConfig
from agents.a3c.flat_parameters import flatten_parameters
from agents.a3c.messages import Report, Start
from agents.a3c.precision import PRECISIONS, choose_precision, node_kind
from agents.a3c.returns import generalised_advantages
from agents.actor_critic.diagnostics import describe_network, describe_rollout
from agents.actor_critic.loss import actor_critic_losses
from agents.actor_critic.network import build_network
from agents.actor_critic.sampling import sample_actions
from agents.finite import first_cause
from agents.freed_memory import keep_freed_memory
from envs.atari import AtariGames, Episode, action_names
from neurocoder import NeurocoderLinear, auxiliary_loss
from neurocoder.kernels.lstm import LSTMWeights
from neurocoder.networks.recurrent import State

TRACE_EVERY = 50
"""Rollouts between two reports of a Neurocoder layer's attention."""


@dataclass(frozen=True)
class Rollout:
    """T steps of N games, as the learner sees them."""

    activations: list[Any]  # of the convolutions, for the N frames of each step
    start: Tensor  # (T, N) bool: the LSTM's state is zero before this step
    actions: Tensor  # (T, N) int64
    rewards: Tensor  # (T, N), clipped; NaN where the game's reward was not finite
    terminated: Tensor  # (T, N) bool
    truncated: Tensor  # (T, N) bool
    valid: Tensor  # (T, N) bool: False where the action was ignored, after a restart or for FIRE
    kl: Tensor | None  # scalar, nats: from the policy before the last update to the one after it
    episodes: list[Episode]


class Answers(NamedTuple):
    """What the network answers to a rollout."""

    features: Tensor  # (T, N, F)
    hidden: Tensor  # (T, N, H), outputs of the LSTM
    logits: Tensor  # (T, N, A)
    values: Tensor  # (T, N)
    next_value: Tensor  # (N,), of the frame after the rollout, without a graph


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
        """
        Args:
            attempt: how often the worker has been restarted.
            env_steps, random_state: where the run continues from. The games restart.
            precision: fp32 or bf16; None chooses (`choose_precision`).
        """
        keep_freed_memory()
        self.config, self.index, self.attempt = config, index, attempt
        self.device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        settings = config.game()
        self.actions = action_names(settings.rom)
        self.network = build_network(config).to(self.device)
        self.weights, self.gradient = flatten_parameters(self.network)
        self.set_precision(precision or choose_precision(self.network, config))
        self.generator = torch.Generator(self.device).manual_seed(config.seed * 1000 + index)
        # The state of a CPU's generator has another size than that of a GPU's.
        if random_state is not None and random_state.shape == self.generator.get_state().shape:
            self.generator.set_state(random_state)
        self.games = AtariGames(settings, config.envs_per_worker, threads=config.cpus_per_worker)
        self.rollouts = 0
        self.restart_games(env_steps)
        self.last_end = time.perf_counter()

    def restart_games(self, env_steps: int) -> None:
        """Starts new games. Their seeds follow from the run's seed, the worker and the step count."""
        frames = self.games.reset([self.config.seed, self.index, env_steps])
        self.frames = torch.from_numpy(frames).to(self.device)
        self.start = torch.ones(self.games.count, dtype=torch.bool, device=self.device)
        self.state = self.network.initial_state(self.games.count)
        # (N, A), log-probabilities for `frames` before the last update
        self.last_policy: Tensor | None = None

    def set_precision(self, name: str) -> None:
        """Computes in fp32 or bf16 from now on."""
        self.precision, self.network.compute_dtype = name, PRECISIONS[name]

    def load(self, weights: np.ndarray) -> None:
        """Copies the shared weights (n,) into the network."""
        self.weights.copy_(torch.from_numpy(weights))

    def rollout(self, version: int, env_steps: int) -> tuple[np.ndarray, Report]:
        """Plays T steps in all games, and differentiates the loss.

        Args:
            version: of the weights that were loaded.
            env_steps: agent steps that the run had taken at this version.

        Returns:
            The gradient (n,), clipped, and what happened.
        """
        started = time.perf_counter()
        first_state, lstm_weights = self.state, self.network.lstm_weights()
        rollout = self._play(lstm_weights)
        played = time.perf_counter()
        answers = self._unroll(rollout, first_state, lstm_weights)
        loss, scalars = self._loss(rollout, answers, self.config.entropy_weight_at(env_steps))
        scalars |= describe_network(answers.features, answers.hidden, lstm_weights)
        norm, norms = self._differentiate(loss)
        vector = self.gradient.cpu().numpy()
        self.rollouts += 1
        last_end, self.last_end = self.last_end, time.perf_counter()
        report = Report(
            worker=self.index,
            attempt=self.attempt,
            number=self.rollouts,
            version=version,
            steps=int(rollout.valid.sum()),
            scalars=scalars | norms,
            seconds={
                "exchange": started - last_end,
                "play": played - started,
                "gradient": self.last_end - played,
            },
            episodes=rollout.episodes,
            random_state=self.generator.get_state(),
            not_finite=self._not_finite(rollout.rewards, norm),
            attention=self._attention(answers.hidden) if self.rollouts % TRACE_EVERY == 1 else None,
        )
        return vector, report

    @torch.no_grad()
    def _play(self, lstm_weights: LSTMWeights) -> Rollout:
        """Acts for T steps. The convolutions' activations are kept for the gradient, so they run once a frame."""
        network, state = self.network, self.state
        activations, starts, actions, steps, kl = [], [], [], [], None
        for t in range(self.config.rollout_steps):
            activations.append(network.activations(self.frames))
            starts.append(self.start)
            features = network.features_of(activations[-1:])  # (N, F)
            hidden, state = network.step(features, state, self.start, lstm_weights)
            log_policy = network.actor(hidden).log_softmax(dim=-1)  # (N, A)
            if t == 0 and self.last_policy is not None:
                kl = F.kl_div(log_policy, self.last_policy, reduction="batchmean", log_target=True)
            action = sample_actions(log_policy.exp(), self.generator)
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

    def _unroll(self, rollout: Rollout, first_state: State, lstm_weights: LSTMWeights) -> Answers:
        """Runs the network over a rollout with a graph, and keeps the LSTM's state for the next rollout.

        The LSTM acted without a graph. Running it over all steps at once is cheaper than a graph while acting.
        """
        network = self.network
        features = network.features_of(rollout.activations).unflatten(0, rollout.start.shape)  # (T, N, F)
        hidden, (h, c) = network.recur(features, first_state, rollout.start, lstm_weights)  # (T, N, H)
        self.state = (h.detach(), c.detach())
        logits = network.actor(hidden)  # (T, N, A)
        values = network.critic(hidden).squeeze(-1)  # (T, N)
        with torch.no_grad():
            next_features = network.features(self.frames)  # (N, F)
            next_hidden, _ = network.step(next_features, self.state, self.start, lstm_weights)
            next_value = network.critic(next_hidden).squeeze(-1)  # (N,)
            self.last_policy = network.actor(next_hidden).log_softmax(dim=-1)  # (N, A)
        return Answers(features, hidden, logits, values, next_value)

    def _loss(
        self, rollout: Rollout, answers: Answers, entropy_weight: float
    ) -> tuple[Tensor, dict[str, float]]:
        """Returns the loss, a scalar with a graph, and what TensorBoard shows of it, by tag."""
        config = self.config
        advantages, returns = generalised_advantages(
            rollout.rewards,
            torch.cat((answers.values.detach(), answers.next_value.unsqueeze(0))),
            rollout.terminated,
            rollout.truncated,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        policy, value, entropy = actor_critic_losses(
            answers.logits, answers.values, rollout.actions, advantages, returns, rollout.valid
        )
        orthogonality = auxiliary_loss(self.network)
        loss = policy + config.value_weight * value - entropy_weight * entropy + orthogonality
        scalars = {
            "losses/policy": policy.item() / config.rollout_steps,
            "losses/value": value.item() / config.rollout_steps,
            "losses/entropy": entropy.item() / config.rollout_steps,
            "losses/orthogonality": orthogonality.item(),
        }
        scalars |= describe_rollout(
            answers.values, advantages, returns, rollout.actions, rollout.valid, self.actions
        )
        if rollout.kl is not None:
            scalars["policy/kl"] = rollout.kl.item()
        return loss, scalars

    def _differentiate(self, loss: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Computes the gradient and clips it.

        Returns its norm before that, and the norms of its blocks by TensorBoard tag.
        """
        self.gradient.zero_()
        loss.backward()
        blocks = dict(self.network.named_children())  # in the order of their parameters
        sizes = [sum(p.numel() for p in block.parameters()) for block in blocks.values()]
        norms = torch.stack([block.norm() for block in self.gradient.split(sizes)])
        norm = norms.norm()
        self.gradient *= (self.config.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        scalars = {f"gradients/norm_{name}": x for name, x in zip(blocks, norms.tolist(), strict=True)}
        return norm, {"gradients/norm": norm.item()} | scalars

    def _not_finite(self, rewards: Tensor, norm: Tensor) -> str | None:
        """Names what contains a NaN or an infinity: rewards (T, N), a parameter or its gradient. None if all is finite."""
        if not rewards.isfinite().all():
            return "the reward of a game"
        if norm.isfinite():
            return None
        gradients = {
            name: parameter.grad
            for name, parameter in self.network.named_parameters()
            if parameter.grad is not None
        }
        return first_cause(self.network, gradients)

    def _attention(self, hidden: Tensor) -> np.ndarray | None:
        """The mean attention over rollout and attention steps, (3, H, P); None if the actor is no Neurocoder layer."""
        if not isinstance(self.network.actor, NeurocoderLinear):
            return None
        return self.network.actor.trace(hidden.detach()).attention.mean(dim=(0, 1, 2)).cpu().numpy()


def begin_worker(
    config: A3CConfig,
    index: int,
    begin: Callable[[int, str], Start],
    decide_precision: Callable[[str, str], str],
    *,
    attempt: int = 0,
) -> RolloutWorker:
    """Makes a worker that continues where the parameter server says, in the precision that is used on its kind of node.

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
