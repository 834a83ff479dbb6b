"""The life of an Atari run in its folder: started or restored, trained, saved, evaluated, closed."""

from pathlib import Path
from typing import Self

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.actor_critic.training import Metrics, Snapshot, Training
from agents.errors import TrainingError
from agents.rllib.config import RLlibConfig
from agents.runs.folder import RunFolder
from agents.runs.recorder import Recorder
from agents.runs.recording import Recording

Config = A3CConfig | RLlibConfig


class AtariRun:
    """A training run and what records it.

    with AtariRun(folder, config, recording) as run:
        while not run.finished:
            run.advance()
        checkpoint = run.finish()
        run.stop_training()
        result = run.recorder.evaluate_last(checkpoint)
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        recording: Recording,
        snapshot: Snapshot | None = None,
        *,
        address: str | None = None,
    ):
        """Starts a run, or continues from `snapshot`.

        Args:
            address: of a Ray cluster to join; None starts a local one, if there are workers.

        Raises:
            TrainingError: no cluster at `address`, or one that is too small.
        """
        self.folder = folder
        self.training = _start(config, snapshot, address)
        try:
            self.recorder = Recorder(
                folder,
                config,
                recording,
                env_steps=snapshot.env_steps if snapshot else 0,
                on_ray=self.training.on_ray,
            )
        except BaseException:
            self.training.close()
            raise

    @property
    def finished(self) -> bool:
        return self.training.finished

    def advance(self) -> Metrics | None:
        """Trains a little. Returns what happened since the last time, about once a second, and None otherwise.

        Raises TrainingError if training cannot continue."""
        self.training.advance()
        return self.recorder.look(self.training)

    def finish(self) -> Path:
        """Writes the last curves and the last checkpoint. Raises TrainingError if that is impossible."""
        checkpoint = self.recorder.finish(self.training)
        if checkpoint is None:
            raise TrainingError(f"{self.folder.path}: the last checkpoint could not be written; make room")
        return checkpoint

    def stop_training(self) -> None:
        """Frees the games and the workers. An evaluation that is still playing is given up."""
        self.recorder.evaluator.close()  # first: it may need the cluster that the training shuts down
        self.training.close()

    def close(self) -> None:
        """May be called twice."""
        self.stop_training()
        self.recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _start(config: Config, snapshot: Snapshot | None, address: str | None) -> Training:
    if isinstance(config, RLlibConfig):
        from agents.rllib.training import RLlibTraining

        return RLlibTraining(config, snapshot, address=address)
    return start_training(config, snapshot, address=address)
