"""Checkpoints for tests of them."""

from pathlib import Path

import torch

from agents.runs.checkpoints import save_checkpoint

FILES = ["parameters.safetensors", "state.json", "MANIFEST.json"]


def save(folder: Path, step: int, **state: object) -> Path:
    return save_checkpoint(folder, step, {"parameters": {"weight": torch.arange(64.0) + step}}, state)
