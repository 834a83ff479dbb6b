"""The life of a supervised or continual run in its folder: curves, checkpoints and at last result.json."""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.tensorboard import SummaryWriter

from agents.continual.config import ContinualConfig
from agents.continual.data import cifar_features, load_stream
from agents.continual.training import ContinualTraining
from agents.continual.training import Snapshot as ContinualSnapshot
from agents.files import write_json_atomically
from agents.runs.checkpoints import CheckpointError, list_checkpoints, load_newest, prune_checkpoints
from agents.runs.curve_file import CurveFile
from agents.runs.folder import RESULT, RunFolder, software_versions
from agents.runs.snapshots import Snapshot, save_snapshot, to_snapshot
from agents.supervised.config import SupervisedConfig
from agents.supervised.training import Snapshot as SupervisedSnapshot
from agents.supervised.training import SupervisedTraining
from launch.experiments.ray_tasks import REPORT_SECONDS, Progress

Training = SupervisedTraining | ContinualTraining
"""A run in this process: `advance` until `finished`."""


class Kind(NamedTuple):
    """One kind of run, named by the key of its settings in config.json."""

    config: Any
    snapshot: type[Snapshot]
    start: Callable[[Any, Path, torch.device, Any], Training]
    """Takes the settings, the data folder, the device, and a snapshot or None."""
    kept_checkpoints: int
    """The number of newest checkpoints that are kept, in addition to the best one."""


def start_continual(
    config: ContinualConfig, data: Path, device: torch.device, snapshot: ContinualSnapshot | None
) -> Training:
    """Loads the tasks, and starts or continues a run."""
    stream = load_stream(config.benchmark, config.scenario, data, device)
    return ContinualTraining(config, stream, device, snapshot)


KINDS = {
    "supervised": Kind(SupervisedConfig, SupervisedSnapshot, SupervisedTraining, 2),
    "continual": Kind(ContinualConfig, ContinualSnapshot, start_continual, 1),
}


def prepare(path: Path, changes: Mapping[str, Any]) -> None:
    """Computes what all runs like this one share, so that no two of them do.

    Raises:
        ValueError: data that cannot be used.
    """
    described = json.loads((path / "config.json").read_text()) | changes
    if "continual" in described:
        data_set = ContinualConfig.from_dict(described["continual"]).data_set
        if data_set != "mnist":
            # The runs may compute on the GPU of another machine.
            device = torch.device(described["device"] if torch.cuda.is_available() else "cpu")
            cifar_features(data_set, Path(described["data"]), device)


def execute(path: Path, progress: Progress, changes: Mapping[str, Any] | None = None) -> None:
    """Starts or continues the run that is described in path/config.json.

    Args:
        changes: entries that replace those of config.json, such as the device.

    Raises:
        TrainingError: a loss that is not a number.
        ValueError: data or a checkpoint that cannot be used.
        OSError: result.json cannot be written.
    """
    described = json.loads((path / "config.json").read_text()) | (changes or {})
    name = next(name for name in KINDS if name in described)
    kind, device = KINDS[name], torch.device(described["device"])
    config = kind.config.from_dict(described[name])
    with RunFolder.open(path) as folder:
        snapshot = None
        if list_checkpoints(folder.checkpoints):
            snapshot = to_snapshot(kind.snapshot, load_newest(folder.checkpoints, warn=lambda line: None))
        progress.report("loading")
        training = kind.start(config, Path(described["data"]), device, snapshot)
        about = {"agent": name, "config": config.to_dict(), "software": software_versions()}
        save_now = partial(save, training, folder.checkpoints, keep=kind.kept_checkpoints, about=about)
        train(training, path, progress, save_now, save_seconds=described.get("checkpoint_seconds", 0.0))
        if training.finished:
            outcome = {
                "label": described["label"],
                **training.result(),
                "seconds": round(training.seconds, 3),
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
                "config": config.to_dict(),
                "software": described["software"],
            }
            write_json_atomically(path / RESULT, outcome)
            progress.report(f"{outcome['metric']} {outcome['curve'][-1][1]:.5g}")


def train(
    training: Training, path: Path, progress: Progress, save_now: Callable[[], None], *, save_seconds: float
) -> None:
    """Trains to the end, or until the run should stop. Writes curves, reports and saves on the way.

    A full disk costs a warning.
    """
    # Curves that an earlier process wrote beyond its last checkpoint are hidden, so that none jumps back.
    curves = CurveFile(path, step=training.step, warn=progress.warn)
    saved = reported = time.monotonic()
    stop = False
    try:
        while not training.finished and not stop:
            record = training.advance(progress.should_stop)
            stop, now = record is None, time.monotonic()
            if record is not None:
                for tag, value in record.scalars.items():
                    curves.add(SummaryWriter.add_scalar, tag, value, record.step)
                if now - reported >= REPORT_SECONDS:
                    progress.report(record.progress)
                    reported = now
            due = training.is_save_point and now - saved >= save_seconds
            if stop or due or training.finished:
                # Curves come first, so that a run which continues from the checkpoint has no gap in them.
                curves.flush()
                try:
                    save_now()
                except (OSError, CheckpointError) as error:
                    progress.warn(
                        f"no checkpoint at {training.step:,} steps: {error}; earlier ones are whole"
                    )
                saved = now
    finally:
        curves.close()


def save(training: Training, folder: Path, *, keep: int, about: dict[str, Any]) -> None:
    """Writes a checkpoint, and removes all but the `keep` newest ones and the best one."""
    snapshot, sign = training.snapshot(), 1 if training.larger_is_better else -1
    save_snapshot(folder, snapshot.step, snapshot, **about)

    def score(state: dict[str, Any]) -> tuple[float] | None:
        metric = state.get("metric")
        return None if metric is None else (sign * metric,)

    prune_checkpoints(folder, keep=keep, score=score)
