"""One A3C run as a trial of Ray Tune. Its folder holds all of its state, so a trial that is started again continues
there.

Sweeps run as trials of Tune, because a run has several actors and Tune reserves a placement group for them.
`launch.experiments.ray_tasks` is for runs that are a single process each.
"""

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray import tune

from agents.a3c.config import A3CConfig
from agents.actor_critic.training import Snapshot
from agents.errors import TrainingError
from agents.files import write_json_atomically
from agents.ray_cluster import available_cores, check_room, connect
from agents.runs.atari_run import AtariRun
from agents.runs.checkpoints import list_checkpoints, load_newest
from agents.runs.folder import FAILED, RESULT, RunFolder
from agents.runs.recorder import LAST_EVALUATIONS
from agents.runs.recording import Recording
from agents.runs.snapshots import to_snapshot
from agents.runs.transfer import start_from
from agents.stored_settings import read_settings
from launch.experiments.board import Board
from launch.experiments.interruption import Interruption

REPORT_SECONDS = 10.0  # between two reports to Tune


class SweepTrial(tune.Trainable):
    """Takes {"run": folder}."""

    run: AtariRun | None = None  # None until setup is done

    def setup(self, config: dict[str, Any]) -> None:
        with ExitStack() as resources:  # freed at once if what follows them fails
            folder = resources.enter_context(RunFolder.open(Path(config["run"])))
            (folder.path / FAILED).unlink(missing_ok=True)  # of an earlier attempt
            described = json.loads((folder.path / "config.json").read_text())
            self.settings = A3CConfig.from_dict(described["a3c"])
            recording = read_settings(Recording, described["run"])
            snapshot = first_snapshot(folder, self.settings, described.get("from"))
            self.run = resources.enter_context(AtariRun(folder, self.settings, recording, snapshot))
            self.resources = resources.pop_all()

    def step(self) -> dict[str, Any]:
        """Trains for a while. The last step evaluates. An error of the training stays in the folder as failed.json."""
        assert self.run is not None
        recorder, until = self.run.recorder, time.monotonic() + REPORT_SECONDS
        try:
            while not self.run.finished and time.monotonic() < until:
                self.run.advance()
            if self.run.finished:
                self._conclude(self.run)
        except TrainingError as error:
            write_json_atomically(self.run.folder.path / FAILED, {"error": str(error)})
            raise
        score = "-" if recorder.recent_score is None else f"{recorder.recent_score:.1f}"
        return {
            "done": self.run.finished,
            "env_steps": recorder.env_steps,
            "score": recorder.recent_score,
            "progress": f"{recorder.env_steps:,} / {self.settings.total_steps:,} steps  score {score}",
        }

    def _conclude(self, run: AtariRun) -> None:
        """Writes the last checkpoint, plays the last games and leaves result.json."""
        recorder, checkpoint = run.recorder, run.finish()
        recorder.take_evaluation(timeout=None)
        result = recorder.evaluate_last(checkpoint)
        result |= {
            "learning_rate": self.settings.learning_rate,
            "training_seed": self.settings.seed,
            "score": recorder.recent_score,
            "score_evaluations": min(LAST_EVALUATIONS, len(recorder.evaluations)),
        }
        write_json_atomically(run.folder.path / RESULT, result)

    def cleanup(self) -> None:
        """Saves what was learnt, if it can be had: at the end, when the sweep is stopped, and after a failure."""
        if self.run is None:  # setup has failed, and freed what it had
            return
        with self.resources:
            try:
                if not (self.run.folder.path / RESULT).exists():
                    self.run.finish()
            except TrainingError as error:
                print(error)


class OnBoard(tune.Callback):
    """Shows the trials on a board, in place of the tables of Tune."""

    def __init__(self, runs: list[Path]):
        self.board = Board(runs)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.board.update({str(trial): "starting"})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.board.update({str(trial): result["progress"]})

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.board.update({})

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.board.update({str(trial): "has failed, starts again"})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.board.end(str(trial), "done")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.board.end(str(trial), "failed")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for trial in trials:
            if str(trial) in self.board.running:  # it was stopped, perhaps while it played its last games
                done = (Path(trial.config["run"]) / RESULT).exists()
                self.board.end(str(trial), "done" if done else "stopped")


def first_snapshot(folder: RunFolder, settings: A3CConfig, weights_of: str | None) -> Snapshot | None:
    """The state that a trial starts from: its newest checkpoint, the weights of another run, or None."""
    if list_checkpoints(folder.checkpoints):
        return to_snapshot(Snapshot, load_newest(folder.checkpoints, warn=print))
    if weights_of is None:
        return None
    snapshot, lines = start_from(Path(weights_of), settings)
    print("\n".join(lines))
    return snapshot


def run_on_tune(runs: list[Path], interruption: Interruption, *, address: str | None, retries: int) -> None:
    """Trains all runs, until they have ended or a signal arrives.

    Args:
        runs: their folders. All take as many cores and GPUs as the first one.
        retries: how often a run that fails is restarted.

    Raises:
        TrainingError: no cluster at `address`, or none with room for a run.
    """
    os.environ |= {
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",  # it prints tables whatever `verbose` is
    }

    class UntilSignal(tune.Stopper):
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return interruption.signal is not None

    config = A3CConfig.from_dict(json.loads((runs[0] / "config.json").read_text())["a3c"])
    assert config.workers != "auto"
    worker = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    workers = max(config.workers, 1)
    with interruption.joining(address):
        connection = connect(address, cpus=max(workers * config.cpus_per_worker, available_cores()))
    with connection:
        check_room(workers, "workers", cpus=config.cpus_per_worker, gpus=config.gpus_per_worker)
        tuner = tune.Tuner(
            tune.with_resources(
                SweepTrial, tune.PlacementGroupFactory([{}] + [worker] * config.workers if config.workers else [worker])
            ),
            param_space={"run": tune.grid_search([str(run.absolute()) for run in runs])},
            tune_config=tune.TuneConfig(trial_name_creator=lambda trial: Path(trial.config["run"]).name),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(runs[0].parent.absolute()),
                verbose=0, callbacks=[OnBoard(runs)],
                failure_config=tune.FailureConfig(max_failures=retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run has its own
                stop=UntilSignal(),
            ),
        )  # fmt: skip
        if interruption.signal is None:  # Ray may have taken a while to start
            tuner.fit()
