"""One continual-learning run in its folder: curves, a checkpoint after every task, and at last result.json."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from agents.continual.config import BENCHMARKS, ContinualConfig
from agents.continual.data import cifar_features, load_stream
from agents.continual.training import ContinualTraining, Snapshot
from agents.files import write_json_atomically
from agents.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
)
from agents.runs.folder import RunFolder
from agents.stored_settings import read_settings
from launch.experiments.ray_tasks import RESULT, Tell
from neurocoder.output_layers import parameter_count


class Stopped(Exception):
    """A signal came in the middle of a task."""


def prepare(path: Path) -> None:
    """Computes what all runs like this one share, so that no two of them do. ValueError for data that cannot be used."""
    described = json.loads((path / "config.json").read_text())
    data_set = BENCHMARKS[described["continual"]["benchmark"]]
    if data_set != "mnist":
        # The runs' device may be another machine's.
        device = torch.device(described["device"] if torch.cuda.is_available() else "cpu")
        cifar_features(data_set, Path(described["data"]), device)


def execute(path: Path, tell: Tell) -> None:
    """Starts or goes on with the run that is described in path/config.json.

    Raises:
        TrainingError: a loss that is not a number.
        ValueError: data or a checkpoint that cannot be used.
    """
    described = json.loads((path / "config.json").read_text())
    config = read_settings(ContinualConfig, described["continual"])
    device = torch.device(described["device"])
    with RunFolder.open(path) as folder:
        snapshot, seconds = None, 0.0
        if list_checkpoints(folder.checkpoints):
            checkpoint = load_newest(folder.checkpoints, warn=lambda line: None)
            snapshot, seconds = to_snapshot(checkpoint), checkpoint.state["seconds"]
        tell("loading")
        stream, source = load_stream(config.benchmark, config.scenario, Path(described["data"]), device)
        training = ContinualTraining(config, stream, device, snapshot)
        steps_a_task = [config.epochs * -(-len(task.train.x) // config.batch_size) for task in stream.tasks]
        writer = SummaryWriter(str(path), purge_step=sum(steps_a_task[: training.task]) + 1)
        tasks = len(stream.tasks)

        def watch(step: int, loss: float) -> None:
            before = sum(steps_a_task[: training.task])
            writer.add_scalar("losses/task", loss, before + step)
            line = f"task {training.task + 1} of {tasks}  step {step:,} / {steps_a_task[training.task]:,}  loss {loss:.4g}"
            if tell(line):
                raise Stopped

        try:
            while not training.finished:
                started = time.perf_counter()
                training.train_task(watch)
                seconds += time.perf_counter() - started
                write(writer, training, sum(steps_a_task[: training.task]))
                save(folder.checkpoints, training.snapshot(), config, seconds)
        except Stopped:
            return
        finally:
            writer.close()
        outcome = result(described, config, training, seconds=seconds, source=source)
        write_json_atomically(path / RESULT, outcome)
        tell(f"average accuracy {training.accuracy[:, -1].mean().item():.2f}")


def write(writer: SummaryWriter, training: ContinualTraining, step: int) -> None:
    """Accuracies after a task, means over the seeds; the x axis is optimiser steps."""
    seen = training.accuracy[:, training.task - 1, : training.task].mean(dim=0)
    writer.add_scalar("charts/average_accuracy", seen.mean().item(), step)
    for number, accuracy in enumerate(seen.tolist(), start=1):
        writer.add_scalar(f"accuracy/task_{number}", accuracy, step)


def save(folder: Path, snapshot: Snapshot, config: ContinualConfig, seconds: float) -> None:
    """Writes the state after a task; the one before is dropped."""
    tensors = {
        "parameters": {"theta": snapshot.theta},
        "optimizer": snapshot.optimizer,
        "regularizer": snapshot.regularizer,
        "accuracy": {"accuracy": snapshot.accuracy, "untrained": snapshot.untrained},
    }
    state = {"agent": "continual", "seconds": seconds, "config": config.to_dict()}
    save_checkpoint(folder, snapshot.task, tensors, state)
    prune_checkpoints(folder, keep=1, score=lambda state: None)


def to_snapshot(checkpoint: Checkpoint) -> Snapshot:
    """The inverse of `save`. CheckpointError if the checkpoint is not of a continual-learning run."""
    try:
        return Snapshot(
            task=checkpoint.step,
            theta=checkpoint.tensors["parameters"]["theta"],
            optimizer=checkpoint.tensors["optimizer"],
            regularizer=checkpoint.tensors["regularizer"],
            accuracy=checkpoint.tensors["accuracy"]["accuracy"],
            untrained=checkpoint.tensors["accuracy"]["untrained"],
        )
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint.path}: not a checkpoint of a continual-learning run, it has no {error}"
        ) from error


def result(
    described: dict[str, Any],
    config: ContinualConfig,
    training: ContinualTraining,
    *,
    seconds: float,
    source: str,
) -> dict[str, Any]:
    """What a finished run came to: for each seed the accuracies R[t][i] on task i after task t, in percent."""
    cuda = training.device.type == "cuda"
    return {
        "label": described["label"],
        "seeds": list(config.seeds),
        "accuracy": training.accuracy.tolist(),
        "untrained": training.untrained.tolist(),
        "features": source,
        "parameters": parameter_count(training.network),
        "seconds": round(seconds, 3),
        "device": torch.cuda.get_device_name(training.device) if cuda else "cpu",
        "config": config.to_dict(),
        "software": described["software"],
    }
