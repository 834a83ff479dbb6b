"""What an A3C run keeps in a checkpoint, and how a policy comes out of it again."""

from pathlib import Path
from typing import Any

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_owner import Snapshot
from agents.a3c.policy import build_policy
from agents.runs.checkpoints import Checkpoint, CheckpointError, save_checkpoint
from agents.runs.folder import software_versions
from envs.atari import action_count, resolve
from neurocoder.networks.conv_lstm import ConvLSTM

SOFTWARE = software_versions()  # once, at the start: the checkout may move on while a run goes


def save(folder: Path, snapshot: Snapshot, config: A3CConfig) -> Path:
    """Writes a snapshot with all that is needed to play its policy: the settings of run and games."""
    tensors = {
        "parameters": snapshot.parameters,
        "optimizer": snapshot.optimizer,
        "random_states": snapshot.random_states,
    }
    state = {
        "agent": "a3c",
        "env_steps": snapshot.env_steps,
        "updates": snapshot.updates,
        "episodes": snapshot.episodes,
        "recent_returns": snapshot.recent_returns,
        "mean_return": snapshot.mean_return,
        "config": config.to_dict(),
        "software": SOFTWARE,
    }
    return save_checkpoint(folder, snapshot.env_steps, tensors, state)


def mean_return(state: dict[str, Any]) -> float | None:
    """What the best checkpoint is chosen by: the mean return of the last 100 training games."""
    return state.get("mean_return")


def to_snapshot(checkpoint: Checkpoint) -> Snapshot:
    """The inverse of `save`. CheckpointError if the checkpoint is not of an A3C run."""
    state = checkpoint.state
    try:
        return Snapshot(
            env_steps=state["env_steps"],
            updates=state["updates"],
            episodes=state["episodes"],
            recent_returns=state["recent_returns"],
            parameters=checkpoint.tensors["parameters"],
            optimizer=checkpoint.tensors["optimizer"],
            random_states=checkpoint.tensors["random_states"],
        )
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path}: not a checkpoint of an A3C run, it has no {error}"
        ) from error


def to_policy(checkpoint: Checkpoint) -> tuple[ConvLSTM, A3CConfig]:
    """The policy network with the checkpoint's weights, and its run's settings.

    Raises:
        CheckpointError: not an A3C run's, of settings this version does not know, or tensors that do not fit them.
    """
    snapshot = to_snapshot(checkpoint)
    try:
        config = A3CConfig.from_dict(checkpoint.state["config"])
        network = build_policy(config, action_count(resolve(config.env).rom))
        network.load_state_dict(snapshot.parameters)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: its policy cannot be built: {' '.join(str(error).split())}"
        ) from error
    return network.eval().requires_grad_(False), config
