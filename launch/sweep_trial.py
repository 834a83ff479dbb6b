"""One A3C run as a trial of Ray Tune. Its folder holds all of its state, so a trial that is started again goes on there."""

import json
import time
from pathlib import Path
from typing import Any

from ray import tune

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.errors import TrainingError
from agents.runs.checkpoints import list_checkpoints, load_newest
from agents.runs.folder import RunFolder, write_json_atomically
from agents.runs.recorder import Recorder
from agents.runs.snapshots import to_snapshot
from launch.evaluate import evaluate
from launch.grid import RESULT

SECONDS = 10.0  # between two reports to Tune


class SweepTrial(tune.Trainable):
    """Takes {"run": folder}."""

    def setup(self, config: dict[str, Any]) -> None:
        self.folder = RunFolder.open(Path(config["run"]))
        described = json.loads((self.folder.path / "config.json").read_text())
        self.policy, kept = A3CConfig.from_dict(described["a3c"]), described["run"]
        self.episodes = kept["evaluate_episodes"]
        begun = list_checkpoints(self.folder.checkpoints)
        snapshot = to_snapshot(load_newest(self.folder.checkpoints, warn=print)) if begun else None
        self.training = start_training(self.policy, snapshot)
        self.recorder = Recorder(
            self.folder,
            self.policy.to_dict(),
            self.policy,
            env_steps=snapshot.env_steps if snapshot else 0,
            checkpoint_every=kept["checkpoint_every"],
            keep=kept["keep"],
        )

    def step(self) -> dict[str, Any]:
        """Trains for a while; the last step evaluates."""
        until = time.monotonic() + SECONDS
        while not self.training.finished and time.monotonic() < until:
            self.training.advance()
            self.recorder.look(self.training)
        if self.training.finished:
            checkpoint = self.recorder.finish(self.training)
            if checkpoint is None:
                raise OSError(f"{self.folder.path}: the last checkpoint could not be written")
            result = evaluate(checkpoint, episodes=self.episodes)
            result |= {"learning_rate": self.policy.learning_rate, "training_seed": self.policy.seed}
            write_json_atomically(self.folder.path / RESULT, result)
        progress = self.recorder.progress
        return {
            "done": self.training.finished,
            "env_steps": progress.marks[-1][1],
            "steps_per_second": round(progress.steps_per_second, 1),
            "mean_return": self.recorder.mean_return,
        }

    def cleanup(self) -> None:
        """At the end, when the sweep is stopped, and after a failure: what has been learnt is kept, if it can be had."""
        try:
            if not (self.folder.path / RESULT).exists():
                self.recorder.checkpoint(self.training)
        except TrainingError as error:
            print(error)
        finally:
            self.training.close()
            self.folder.close()
