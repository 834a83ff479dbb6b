"""Starts a run from the weights of another run. Counters start at zero."""

from pathlib import Path

import torch

from agents.actor_critic.config import NETWORK_SETTINGS, ActorCriticConfig, PolicySettings
from agents.actor_critic.network import build_network
from agents.actor_critic.training import Snapshot
from agents.flags import flag
from agents.runs.best import find_checkpoints
from agents.runs.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from agents.runs.policy import policy_settings
from agents.runs.snapshots import to_snapshot

OUTPUT_LAYERS = ("actor", "critic")


def start_from(run: Path, config: ActorCriticConfig) -> tuple[Snapshot, list[str]]:
    """Makes the first snapshot of a run from the weights of another run.

    An output layer of another kind or size starts with fresh weights. All counters and statistics are zero.

    Args:
        run: a run folder, whose newest whole checkpoint is taken, or a checkpoint folder.

    Returns:
        The snapshot, and lines for people: one about the weights that are used, and one for each output layer that
            starts fresh.

    Raises:
        ValueError: no checkpoint there, none that can be used, or a network that differs in more than its output
            layers.
    """
    source, settings = _newest(run)
    for name in NETWORK_SETTINGS:
        before, now = getattr(settings, name), getattr(config, name)
        if before != now:
            raise ValueError(
                f"{source.path}: its policy has {flag(name)} {before}, not {now}; give {flag(name)} {before}"
            )
    theirs = source.tensors["parameters"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        ours = build_network(config).state_dict()
    fresh = [head for head in OUTPUT_LAYERS if _shapes(theirs, head) != _shapes(ours, head)]
    taken = {name: tensor for name, tensor in ours.items() if name.partition(".")[0] not in fresh}
    for name, tensor in taken.items():
        if name not in theirs or theirs[name].shape != tensor.shape:
            raise ValueError(f"{source.path}: its network has no {name} of shape {tuple(tensor.shape)}")
    lines = [f"starting from the weights of {source.path} ({settings.env}, {source.step:,} steps)"]
    lines += [f"the {head} starts with fresh weights: {_describe(theirs, ours, head)}" for head in fresh]
    snapshot = Snapshot(
        env_steps=0,
        updates=0,
        episodes=0,
        recent_returns=[],
        parameters=ours | {name: theirs[name] for name in taken},
        optimizer={},
        random_states={},
    )
    return snapshot, lines


def _newest(run: Path) -> tuple[Checkpoint, PolicySettings]:
    errors = []
    for path in find_checkpoints(run, best=False):
        try:
            checkpoint = load_checkpoint(path)
            to_snapshot(Snapshot, checkpoint)
            return checkpoint, policy_settings(checkpoint)
        except CheckpointError as error:
            errors.append(error)
    raise ValueError(f"{run} has no checkpoint that can be used: {errors[0]}")


def _shapes(parameters: dict[str, torch.Tensor], head: str) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in parameters.items() if name.startswith(f"{head}.")}


def _describe(theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor], head: str) -> str:
    """Says how an output layer differs, by its first parameter that does."""
    before, now = _shapes(theirs, head), _shapes(ours, head)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            shapes = [tuple(shapes[name]) if name in shapes else "missing" for shapes in (before, now)]
            return f"{name} is {shapes[0]} there and {shapes[1]} here"
    raise AssertionError(head)
