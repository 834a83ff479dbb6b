"""Speed of RLlib's IMPALA, with RLlib's convolutions and LSTM, on an Atari game."""

import time
from typing import Any

import numpy as np

from envs.atari import resolve
from tests.benchmarks.measure import Count


def impala_rates(env: str, games: int, timing: dict[str, Any]) -> np.ndarray:
    """Trains with one runner. Returns agent steps a second, (windows,)."""
    from agents.ray_cluster import connect

    steps = 0

    def count() -> int:
        nonlocal steps
        learnt = algorithm.train().get("learners", {}).get("__all_modules__", {})
        steps = int(learnt.get("num_env_steps_trained_lifetime", steps))
        return steps

    with connect(None, cpus=4):
        algorithm = impala_config(env, games).build_algo()
        try:
            return driven_rates(count, **timing)
        finally:
            algorithm.stop()


def impala_config(env: str, games: int) -> Any:
    """Makes RLlib's settings, which are those of A3C where both have them."""
    from ray.rllib.algorithms.impala import IMPALAConfig
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.tune.registry import register_env

    register_env("stock-atari", lambda _: wrapped_game(env))
    return (
        IMPALAConfig()
        .environment("stock-atari", clip_rewards=True)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=games, rollout_fragment_length=20)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=20 * games, lr=4e-4, grad_clip=40.0)
        .rl_module(
            model_config=DefaultModelConfig(
                conv_filters=[[16, 4, 2], [32, 4, 2], [64, 4, 2], [128, 4, 2]], conv_activation="relu",
                head_fcnet_hiddens=[256], use_lstm=True, lstm_cell_size=256, max_seq_len=20,
            )
        )
        .reporting(min_time_s_per_iteration=0)
        .debugging(log_level="ERROR")
    )  # fmt: skip


def wrapped_game(env: str) -> Any:
    """Makes the game with RLlib's wrappers for Atari."""
    import ale_py
    import gymnasium
    from ray.rllib.env.wrappers.atari_wrappers import wrap_atari_for_new_api_stack

    gymnasium.register_envs(ale_py)
    rom = resolve(env).rom
    name = next(
        name
        for name in gymnasium.registry
        if name.startswith("ALE/") and gymnasium.spec(name).kwargs["game"] == rom
    )
    game = gymnasium.make(name, frameskip=1, repeat_action_probability=0.0)
    return wrap_atari_for_new_api_stack(game, dim=64)


def driven_rates(count: Count, *, windows: int, seconds: float, warm_up: float) -> np.ndarray:
    """Returns what `rates` returns, for training that advances only while `count` is called."""
    while count() == 0:
        pass
    speeds, end = [], time.perf_counter() + warm_up
    while time.perf_counter() < end:
        count()
    for _ in range(windows):
        before, start = count(), time.perf_counter()
        while time.perf_counter() < start + seconds:
            after = count()
        speeds.append((after - before) / (time.perf_counter() - start))
    return np.array(speeds)
