"""One A3C run as a trial of Ray Tune. Its folder holds all of its state, so a trial that is started again goes on there."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray import tune

from agents.a3c import start_training
from agents.a3c.config import A3CConfig
from agents.errors import TrainingError
from agents.runs.checkpoints import list_checkpoints, load_newest
from agents.runs.folder import RunFolder, write_json_atomically
from agents.runs.recorder import LAST_EVALUATIONS, Recorder
from agents.runs.recording import Recording
from agents.runs.snapshots import to_snapshot
from agents.runs.transfer import start_from
from launch.experiments.ray_tasks import RESULT

SECONDS = 10.0  # between two reports to Tune


class SweepTrial(tune.Trainable):
    """Takes {"run": folder}."""

    recorder: Recorder | None = None  # None until setup is done

    def setup(self, config: dict[str, Any]) -> None:
        with ExitStack() as resources:  # freed at once if what follows them fails
            folder = resources.enter_context(RunFolder.open(Path(config["run"])))
            described = json.loads((folder.path / "config.json").read_text())
            self.policy, recording = A3CConfig.from_dict(described["a3c"]), Recording(**described["run"])
            snapshot = None
            if list_checkpoints(folder.checkpoints):
                snapshot = to_snapshot(load_newest(folder.checkpoints, warn=print))
            elif described.get("from"):
                snapshot, lines = start_from(Path(described["from"]), self.policy)
                print("\n".join(lines))
            self.training = resources.enter_context(start_training(self.policy, snapshot))
            recorder = Recorder(
                folder,
                self.policy.to_dict(),
                self.policy,
                recording,
                env_steps=snapshot.env_steps if snapshot else 0,
                on_ray=True,
            )
            resources.callback(recorder.close)
            self.folder, self.recorder, self.resources = folder, recorder, resources.pop_all()

    def step(self) -> dict[str, Any]:
        """Trains for a while; the last step evaluates."""
        assert self.recorder is not None
        until = time.monotonic() + SECONDS
        while not self.training.finished and time.monotonic() < until:
            self.training.advance()
            self.recorder.look(self.training)
        if self.training.finished:
            checkpoint = self.recorder.finish(self.training)
            self.recorder.take_evaluation(timeout=None)
            if checkpoint is None:
                raise OSError(f"{self.folder.path}: the last checkpoint could not be written")
            result = self.recorder.evaluate_last(checkpoint)
            result |= {"learning_rate": self.policy.learning_rate, "training_seed": self.policy.seed}
            evaluations = min(LAST_EVALUATIONS, len(self.recorder.evaluations))
            result |= {"score": self.recorder.recent_score, "score_evaluations": evaluations}
            write_json_atomically(self.folder.path / RESULT, result)
        return {
            "done": self.training.finished,
            "env_steps": self.recorder.env_steps,
            "steps_per_second": round(self.recorder.progress.steps_per_second, 1),
            "score": self.recorder.recent_score,
        }

    def cleanup(self) -> None:
        """At the end, when the sweep is stopped, and after a failure: what has been learnt is kept, if it can be had."""
        if self.recorder is None:  # setup has failed, and freed what it had
            return
        with self.resources:
            try:
                if not (self.folder.path / RESULT).exists():
                    self.recorder.checkpoint(self.training)
            except TrainingError as error:
                print(error)
