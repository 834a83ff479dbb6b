"""Trains one Atari run from its start to its end in its folder. launch.train does this, and so can any program.

from agents import train
from agents.a3c.config import A3CConfig

result = train(A3CConfig(env="Pong", total_steps=100_000), "runs/mine")
"""

import json
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.actor_critic.training import Metrics, Snapshot
from agents.errors import TrainingError
from agents.files import write_json_atomically
from agents.runs.atari_run import AtariRun, Config
from agents.runs.checkpoints import Checkpoint, list_checkpoints, load_newest
from agents.runs.folder import RunFolder, software_versions
from agents.runs.recording import Recording
from agents.runs.snapshots import to_snapshot
from agents.runs.transfer import start_from

Callback = Callable[[int, Metrics | None], bool | None]
"""Takes the agent steps so far and what happened since the last call. Returns True to stop the run.

It is called about once a second. It is called without metrics when training has started, and when training has
ended. True at the end prevents the last games."""


@dataclass(frozen=True)
class RunResult:
    """The result of a run."""

    folder: Path
    checkpoint: Path
    """The last checkpoint."""
    env_steps: int
    """Agent steps taken."""
    stopped: bool
    """True if the callback stopped the run early."""
    evaluation: dict[str, Any] | None
    """Result of the last games, in the format of `launch.evaluate --json`; None if none were played."""


def train(
    config: Config,
    folder: str | Path,
    callback: Callback | None = None,
    *,
    recording: Recording = Recording(),  # noqa: B008, it is frozen
    resume: bool = False,
    weights_of: str | Path | None = None,
    address: str | None = None,
) -> RunResult:
    """Trains a policy, with curves, checkpoints and evaluations in `folder`, and plays with the result.

    Args:
        config: an `A3CConfig`, or an `RLlibConfig` to train with RLlib.
        folder: for a new run; with `resume`, the folder of the run to continue with these settings.
        callback: see `Callback`.
        recording: how often the run is saved and evaluated.
        resume: continue from the newest checkpoint in `folder`.
        weights_of: a run or checkpoint folder whose weights a new run starts from.
        address: of a Ray cluster to join; None starts a local one, if there are workers.

    Raises:
        ValueError: a setting out of range, a folder that holds a run already, or one that holds none to resume.
        TrainingError: training cannot continue; checkpoints and curves so far are in the folder.
    """
    config.check()
    recording.check()
    if resume and weights_of is not None:
        raise ValueError("resume and weights_of cannot both be given: a resumed run has weights of its own")
    callback = callback or (lambda *_: None)
    snapshot = None
    if weights_of is not None:
        snapshot, lines = start_from(Path(weights_of), config)
        print("\n".join(lines), flush=True)
    with (RunFolder.open if resume else RunFolder.create)(Path(folder)) as run_folder:
        if resume:
            snapshot = restore(run_folder, config)
        print(
            f"run folder {run_folder.path}   curves: tensorboard --logdir {shlex.quote(str(run_folder.path.parent))}"
        )
        print(f"one step is {config.game().frame_skip} emulator frames", flush=True)
        with AtariRun(run_folder, config, recording, snapshot, address=address) as run:
            stopped = bool(callback(run.recorder.env_steps, None))
            try:
                describe(run_folder, config, recording, weights_of)
            except OSError as error:
                if not resume:
                    raise TrainingError(f"{error}; make room and start again") from error
                _warn(f"{error}; the settings of the run so far stay in config.json")
            stopped = _train(run, callback) if not stopped else True
            checkpoint = run.finish()
            stopped = stopped or _await_evaluation(run, callback)
            run.stop_training()
            stopped = bool(callback(run.recorder.env_steps, None)) or stopped
            evaluation = None
            if recording.evaluate_episodes and not stopped:
                evaluation = run.recorder.evaluate_last(checkpoint)
    return RunResult(run_folder.path, checkpoint, run.recorder.env_steps, stopped, evaluation)


def _train(run: AtariRun, callback: Callback) -> bool:
    """Trains to the end.

    Returns True if the callback stopped the run. Whatever fails, what was learnt is saved first.
    """
    try:
        while not run.finished:
            metrics = run.advance()
            if metrics is not None and callback(metrics.env_steps, metrics):
                return True
    except TrainingError:
        with suppress(TrainingError):  # its state may be lost, too
            run.finish()
        raise
    return False


def _await_evaluation(run: AtariRun, callback: Callback) -> bool:
    """Waits for the evaluation under way. Returns True if the callback stopped the run."""
    recorder = run.recorder
    while recorder.evaluating:
        recorder.take_evaluation(timeout=1.0)
        if callback(recorder.env_steps, recorder.metrics):
            return True
    return False


def describe(
    run: RunFolder,
    config: Config,
    recording: Recording,
    weights_of: str | Path | None = None,
) -> None:
    """Writes the run's config.json."""
    path = run.path / "config.json"
    described: dict[str, Any] = {
        config.key: config.to_dict(),
        "run": asdict(recording),
        "software": software_versions(),
    }
    if weights_of is not None:
        described["from"] = str(weights_of)
    elif path.exists() and "from" in (before := json.loads(path.read_text())):
        described["from"] = before["from"]  # of a resumed run
    write_json_atomically(path, described)


def restore(run: RunFolder, config: Config) -> Snapshot:
    """Returns the newest usable snapshot of a run, and prints where the run continues.

    Raises ValueError if there is none, or if nothing is left to do."""
    if not list_checkpoints(run.checkpoints):
        raise ValueError(
            f"--resume {run.path}: it has no checkpoint yet; restart it with --run-dir {run.path}"
        )
    checkpoint = load_newest(run.checkpoints, warn=_warn)
    snapshot = to_snapshot(Snapshot, checkpoint)
    if snapshot.env_steps >= config.total_steps:
        raise ValueError(
            f"{run.path} has taken {snapshot.env_steps:,} of its {config.total_steps:,} steps; "
            f"give a larger --total-steps to continue"
        )
    print(f"resuming at {snapshot.env_steps:,} steps; games restart")
    for line in jumps(checkpoint, config):
        print(line)
    return snapshot


def jumps(checkpoint: Checkpoint, config: Config) -> list[str]:
    """Returns a line for each schedule that jumps where a run continues with other settings than its checkpoint's."""
    try:
        before = type(config).from_dict(checkpoint.state["config"])
    except (KeyError, ValueError):  # another version wrote it
        return []
    step, end, lines = checkpoint.step, config.total_steps, []
    for name, then, now in (
        ("learning rate", before.learning_rate_at, config.learning_rate_at),
        ("entropy weight", before.entropy_weight_at, config.entropy_weight_at),
    ):
        if then(step) != now(step):
            falls = f": it now falls to 0 at step {end:,}" if now(end) == 0 < now(step) else ""
            lines.append(f"the {name} jumps from {then(step):.3g} to {now(step):.3g}{falls}")
    return lines


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr)
