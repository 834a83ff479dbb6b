"""Trains the Atari policy with RLlib's IMPALA, APPO or PPO, behind the same interface as A3C."""

import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env
from ray.tune.trainable import trainable

from agents.actor_critic.config import RECENT_EPISODES
from agents.actor_critic.diagnostics import means
from agents.actor_critic.training import Metrics, Snapshot, Training
from agents.errors import LOWER_RATE, TrainingError
from agents.optimizer_state import load_optimizer_state, optimizer_state
from agents.ray_cluster import available_cores, check_room, connect
from agents.rllib.config import RLlibConfig
from agents.rllib.module import LEARNERS, SCALARS, NeurocoderRLModule
from envs.atari import Episode, action_names
from envs.atari_gymnasium import AtariGame

CONFIGS: dict[str, type[AlgorithmConfig]] = {"impala": IMPALAConfig, "appo": APPOConfig, "ppo": PPOConfig}
MODULE = "default_policy"


class RLlibTraining(Training):
    """An RLlib algorithm that trains `NeurocoderRLModule`.

    A snapshot has the weights and Adam's statistics. What else RLlib adapts starts from its first value again: the
    KL coefficient of PPO and APPO.
    """

    def __init__(self, config: RLlibConfig, snapshot: Snapshot | None = None, *, address: str | None = None):
        self.config = config
        processes = config.env_runners + config.learners + 1
        logging.getLogger("ray.rllib").setLevel(logging.ERROR)
        with ExitStack() as resources:
            # RLlib makes a folder for each algorithm in ~/ray_results, which may be no place to write.
            trainable.DEFAULT_STORAGE_PATH = resources.enter_context(TemporaryDirectory(prefix="rllib-"))
            resources.enter_context(connect(address, cpus=max(processes, available_cores())))
            if config.learners:
                check_room(config.learners, "learners", cpus=1, gpus=config.gpus_per_learner)
            self.algorithm = algorithm_config(config).build_algo()
            resources.callback(self.algorithm.stop)
            self.resources = resources.pop_all()
        if snapshot is not None:
            learners = self.algorithm.learner_group
            weights = learners.get_weights()
            weights[MODULE] |= {f"policy.{name}": tensor for name, tensor in snapshot.parameters.items()}
            learners.set_weights(weights)
            statistics = snapshot.optimizer
            learners.foreach_learner(lambda learner: _restore(learner, statistics))
            self.algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=learners)
        self.env_steps, self.games = (snapshot.env_steps, snapshot.episodes) if snapshot else (0, 0)
        self.recent: deque[float] = deque(snapshot.recent_returns if snapshot else (), maxlen=RECENT_EPISODES)
        self.first_steps = self.env_steps
        self.new_games: list[tuple[int, Episode]] = []
        self.scalars: list[dict[str, float]] = []
        self.actions = action_names(config.game().rom)

    @property
    def finished(self) -> bool:
        return self.env_steps >= self.config.total_steps

    def advance(self) -> None:
        """Takes one result of RLlib. A gradient that is not finite ends the run, because RLlib would use zeros in its place."""
        try:
            result = self.algorithm.train()
        except ray.exceptions.RayError as error:
            raise TrainingError(f"RLlib failed: {str(error).strip().splitlines()[-1]}") from error
        self.env_steps = self.first_steps + int(result.get("num_env_steps_sampled_lifetime", 0))
        games = result.get("env_runners", {}).get("games", [])
        # RLlib unwraps a list of one item.
        for score, length in [games] if isinstance(games, tuple) else games:
            self.new_games.append((self.env_steps, Episode(score, length)))
            self.recent.append(score)
            self.games += 1
        if (cause := self._ask_learner(lambda learner: learner.not_finite)) is not None:
            raise TrainingError(f"{cause} was not finite on {self.config.env}; {LOWER_RATE}")
        learned = result.get("learners", {}).get(MODULE, {}).get(SCALARS, {})
        names = {
            f"policy/action/{number}": f"policy/action/{name}" for number, name in enumerate(self.actions)
        }
        # A scalar is NaN where there was no update.
        scalars = {names.get(tag, tag): float(x) for tag, x in learned.items() if math.isfinite(x)}
        if scalars:
            self.scalars.append(scalars)

    def drain(self) -> Metrics:
        games, self.new_games = self.new_games, []
        scalars, self.scalars = self.scalars, []
        return Metrics(
            env_steps=self.env_steps,
            updates=self._ask_learner(lambda learner: _updates(_adam(learner))),
            learning_rate=self.config.learning_rate,
            entropy_weight=self.config.entropy_weight,
            mean_return=float(np.mean(self.recent)) if self.recent else None,
            scalars=means(scalars),
            precisions={"all nodes": "fp32"},
            episodes=games,
            workers=self.config.env_runners,
        )

    def snapshot(self) -> Snapshot:
        weights = self.algorithm.learner_group.get_weights()[MODULE]
        statistics = self._ask_learner(lambda learner: optimizer_state(_adam(learner)))
        return Snapshot(
            env_steps=self.env_steps,
            updates=self._ask_learner(lambda learner: _updates(_adam(learner))),
            episodes=self.games,
            recent_returns=list(self.recent),
            parameters={
                name.removeprefix("policy."): torch.as_tensor(value).detach().cpu().clone()
                for name, value in weights.items()
                if name.startswith("policy.")
            },
            optimizer={name: tensor.cpu().clone() for name, tensor in statistics.items()},
            random_states={},
        )

    def _ask_learner(self, question: Callable[[Learner], Any]) -> Any:
        """Returns the first learner's answer. All learners have the same weights and statistics."""
        return next(iter(self.algorithm.learner_group.foreach_learner(question))).get()

    def close(self) -> None:
        self.resources.close()


def algorithm_config(config: RLlibConfig) -> AlgorithmConfig:
    """Returns RLlib's configuration of a run."""
    settings = config.game()
    register_env("neurocoder-atari", lambda _: AtariGame(settings, reward_clip=config.reward_clip))
    algorithm = (
        CONFIGS[config.algo]()
        .api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
        .environment("neurocoder-atari")
        .env_runners(
            num_env_runners=config.env_runners,
            num_envs_per_env_runner=config.envs_per_runner,
            rollout_fragment_length=config.rollout_steps,
        )
        .learners(num_learners=config.learners, num_gpus_per_learner=config.gpus_per_learner)
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=NeurocoderRLModule,
                model_config={"policy": config.policy().to_dict(), "max_seq_len": config.rollout_steps},
            )
        )
        .training(
            learner_class=LEARNERS[config.algo],
            lr=config.learning_rate,
            gamma=config.gamma,
            grad_clip=config.gradient_clip,
            entropy_coeff=config.entropy_weight,
            vf_loss_coeff=config.value_weight,
            train_batch_size_per_learner=config.batch_size,
        )
        .reporting(min_time_s_per_iteration=1, min_sample_timesteps_per_iteration=0)
        .callbacks(on_episode_start=_log_game_before, on_episode_end=_log_game_at_end)
        .debugging(seed=config.seed, log_level="ERROR")
    )
    if config.algo == "ppo":
        # RLlib's default, 30 epochs, is meant for small problems.
        algorithm.training(num_epochs=4, minibatch_size=max(1, config.batch_size // 4))
    return algorithm


def _restore(learner: Learner, statistics: dict[str, torch.Tensor]) -> None:
    """Gives a learner Adam's statistics.

    Copies the target network again, which APPO has copied from a random policy.
    """
    load_optimizer_state(_adam(learner), statistics)
    module = learner.module[MODULE].unwrapped()
    if hasattr(module, "target"):
        module.target.load_state_dict(module.policy.state_dict())


def _adam(learner: Learner) -> torch.optim.Optimizer:
    ((_, optimizer),) = learner.get_optimizers_for_module(MODULE)
    return optimizer


def _updates(adam: torch.optim.Optimizer) -> int:
    return max((int(statistics["step"]) for statistics in adam.state.values()), default=0)


def _log_game_before(*, episode: Any, metrics_logger: Any, **_: Any) -> None:
    """Logs the game that ended in the reset, if any.

    RLlib calls this once an episode, even if it cuts the episode into pieces.
    """
    _log_finished_game(episode.get_infos(0), metrics_logger)


def _log_game_at_end(*, episode: Any, metrics_logger: Any, **_: Any) -> None:
    """Logs the game that ended in the last step, if any."""
    _log_finished_game(episode.get_infos(-1), metrics_logger)


def _log_finished_game(info: dict[str, Any], metrics_logger: Any) -> None:
    """Logs score and length of a game, if `info` has the end of one."""
    if "episode" in info:
        game = (float(info["episode"]["r"]), int(info["episode"]["l"]))
        metrics_logger.log_value("games", game, reduce="item_series")
