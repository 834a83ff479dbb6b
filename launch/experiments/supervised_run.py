"""One supervised run in its folder: curves, checkpoints and at last result.json."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from agents.files import write_json_atomically
from agents.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
)
from agents.runs.folder import RunFolder, software_versions
from agents.runs.progress import clock
from agents.stored_settings import read_settings
from agents.supervised.config import SupervisedConfig
from agents.supervised.training import Record, Snapshot, SupervisedTraining, best
from launch.experiments.ray_tasks import RESULT, Tell

KEEP = 2  # newest checkpoints, beside the best


def execute(path: Path, tell: Tell) -> None:
    """Starts or goes on with the run that is described in path/config.json.

    Raises:
        TrainingError: a loss that is not a number.
        ValueError: data or a checkpoint that cannot be used.
    """
    described = json.loads((path / "config.json").read_text())
    config = read_settings(SupervisedConfig, described["supervised"])
    device = torch.device(described["device"])
    with RunFolder.open(path) as folder:
        snapshot = None
        if list_checkpoints(folder.checkpoints):
            snapshot = to_snapshot(load_newest(folder.checkpoints, warn=lambda line: None))
        tell("loading")
        training = SupervisedTraining(config, Path(described["data"]), device, snapshot)
        # What an earlier process wrote beyond the checkpoint is hidden: no jump back.
        writer = SummaryWriter(str(path), purge_step=training.step + 1)
        saved = told = time.monotonic()
        stop = False
        while not training.finished and not stop:
            record = training.advance()
            write(writer, record, training)
            now = time.monotonic()
            if now - told >= 1.0:
                told, stop = now, tell(progress_line(record, training))
            if now - saved >= described["checkpoint_seconds"] or stop or training.finished:
                writer.flush()  # first, so that a run which goes on from here has no gap in its curves
                save(folder.checkpoints, training.snapshot(), config, training)
                saved = now
        writer.close()
        if training.finished:
            write_json_atomically(path / RESULT, result(described, config, training))
            tell(f"{training.task.metric} {training.curve[-1][1]:.5g}")


def write(writer: SummaryWriter, record: Record, training: SupervisedTraining) -> None:
    """Curves for TensorBoard; the x axis is optimiser steps."""
    for name, value in record.losses.items():
        writer.add_scalar(f"losses/{name}", value, record.step)
    writer.add_scalar("charts/learning_rate", record.learning_rate, record.step)
    writer.add_scalar("charts/samples_per_second", record.samples_per_second, record.step)
    if record.metric is not None:
        writer.add_scalar(f"charts/{training.task.metric}", record.metric, record.step)


def progress_line(record: Record, training: SupervisedTraining) -> str:
    steps, metric = training.task.steps, training.task.metric
    left = (steps - record.step) * training.config.batch_size / record.samples_per_second
    latest = f"{training.curve[-1][1]:.5g}" if training.curve else "-"
    return (
        f"{record.step:,} / {steps:,} steps  {record.samples_per_second:,.0f} samples/s  "
        f"loss {record.losses['task']:.4g}  {metric} {latest}  ETA {clock(left)}"
    )


def save(folder: Path, snapshot: Snapshot, config: SupervisedConfig, training: SupervisedTraining) -> None:
    """Writes a snapshot, and drops those not kept."""
    state = {
        "agent": "supervised",
        "seconds": snapshot.seconds,
        "curve": snapshot.curve,
        "metric": snapshot.curve[-1][1] if snapshot.curve else None,
        "config": config.to_dict(),
        "software": software_versions(),
    }
    save_checkpoint(
        folder, snapshot.step, {"parameters": snapshot.parameters, "optimizer": snapshot.optimizer}, state
    )
    sign = 1 if training.task.larger_is_better else -1

    def score(state: dict[str, Any]) -> tuple[float] | None:
        return None if state.get("metric") is None else (sign * state["metric"],)

    prune_checkpoints(folder, keep=KEEP, score=score)


def to_snapshot(checkpoint: Checkpoint) -> Snapshot:
    """The inverse of `save`. CheckpointError if the checkpoint is not of a supervised run."""
    try:
        return Snapshot(
            step=checkpoint.step,
            seconds=checkpoint.state["seconds"],
            curve=[(step, metric) for step, metric in checkpoint.state["curve"]],
            parameters=checkpoint.tensors["parameters"],
            optimizer=checkpoint.tensors["optimizer"],
        )
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path}: not a checkpoint of a supervised run, it has no {error}"
        ) from error


def result(
    described: dict[str, Any], config: SupervisedConfig, training: SupervisedTraining
) -> dict[str, Any]:
    """What a finished run came to."""
    task = training.task
    best_step, best_value = best(training.curve, larger_is_better=task.larger_is_better) or (None, None)
    cuda = training.device.type == "cuda"
    return {
        "label": described["label"],
        "seed": config.seed,
        "metric": task.metric,
        "larger_is_better": task.larger_is_better,
        "final": training.curve[-1][1],
        "best": best_value,
        "best_step": best_step,
        "parameters": training.parameters,
        "steps": training.step,
        "seconds": round(training.seconds, 3),
        "device": torch.cuda.get_device_name(training.device) if cuda else "cpu",
        "curve": training.curve,
        "config": config.to_dict(),
        "software": described["software"],
    }
