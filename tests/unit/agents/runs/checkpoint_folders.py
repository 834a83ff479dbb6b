"""Small checkpoints for tests."""

from pathlib import Path

import torch

from agents.runs.checkpoints import list_checkpoints, save_checkpoint

FILES = ["parameters.safetensors", "state.json", "MANIFEST.json"]


def save(folder: Path, step: int, **state: object) -> Path:
    return save_checkpoint(folder, step, {"parameters": {"weight": torch.arange(64.0) + step}}, state)


def steps(folder: Path) -> list[int]:
    """Returns the steps of a folder's checkpoints, newest first."""
    return [int(path.stem.removeprefix("step-")) for path in list_checkpoints(folder)]
