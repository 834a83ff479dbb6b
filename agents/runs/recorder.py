"""Records an Atari run while it trains: curves, checkpoints, evaluations and a progress line."""

import json
import time
from pathlib import Path
from typing import Any

from agents.actor_critic.config import ActorCriticConfig
from agents.actor_critic.training import Metrics, Training
from agents.files import write_json_atomically
from agents.runs.best import score
from agents.runs.checkpoints import CheckpointError, amend_state, prune_checkpoints
from agents.runs.curves import Curves
from agents.runs.evaluation import evaluate
from agents.runs.evaluator import EvaluationFailed, Evaluator
from agents.runs.folder import RunFolder, software_versions
from agents.runs.policy import check_gradient
from agents.runs.progress import GamesProgress, Progress
from agents.runs.recording import Recording
from agents.runs.snapshots import save_snapshot

LOOK_EVERY = 1.0  # seconds
LAST_EVALUATIONS = 3
"""Evaluations whose mean is the score of a run."""
EVALUATIONS = "evaluation.json"
"""All evaluations of a run, in the format of `launch.evaluate --json`."""


class Recorder:
    """Looks at a training run about once a second, and saves and evaluates it when it is time."""

    def __init__(
        self,
        folder: RunFolder,
        config: ActorCriticConfig,
        recording: Recording,
        *,
        env_steps: int,
        on_ray: bool,
    ):
        """
        Args:
            env_steps: the step count that the run starts from.
            on_ray: evaluate in a Ray actor beside the run, not in this process.
        """
        frame_skip = config.game().frame_skip
        self.folder, self.config, self.recording = folder, config, recording
        self.software = software_versions()  # now, because the checkout may change while a run trains
        self.progress = Progress(config.total_steps, frame_skip=frame_skip, env_steps=env_steps)
        self.curves = Curves(folder.path, frame_skip=frame_skip, env_steps=env_steps, warn=self._warn)
        self.curves.describe(config.to_dict())
        self.evaluator = Evaluator(games=recording.evaluate_games, seed=config.seed, on_ray=on_ray)
        self.evaluations = [e for e in read_evaluations(folder.path) if e["env_steps"] <= env_steps]
        self.metrics: Metrics | None = None
        self.env_steps, self.precisions = env_steps, dict[str, str]()
        self.looked = time.monotonic()
        self.next_checkpoint = env_steps + recording.checkpoint_every
        # Counted from the last evaluation, so that a run that is resumed often is evaluated in time.
        evaluated = self.evaluations[-1]["env_steps"] if self.evaluations else 0
        self.next_evaluation = evaluated + recording.evaluate_every

    def look(self, training: Training) -> Metrics | None:
        """Records what happened since the last look and returns it. Returns None if that was less than a second ago.

        Raises TrainingError if a checkpoint is due and the run has diverged.
        """
        if time.monotonic() - self.looked < LOOK_EVERY:
            return None
        self.looked = time.monotonic()
        metrics = self._write_curves(training)
        self.progress.update(metrics.env_steps, metrics.mean_return)
        self.take_evaluation()
        if self._evaluation_is_due():
            checkpoint = self.checkpoint(training)
            if checkpoint is not None:
                self.next_evaluation = self.env_steps + self.recording.evaluate_every
                self.evaluator.begin(checkpoint)
        elif metrics.env_steps >= self.next_checkpoint:
            self.checkpoint(training)
        return metrics

    def checkpoint(self, training: Training) -> Path | None:
        """Saves the run and returns the checkpoint. Warns and returns None if the disk refuses.

        Raises TrainingError if the run has diverged: nothing can be learnt or played from there.
        """
        snapshot = training.snapshot()
        check_gradient(self.config, snapshot)
        self.next_checkpoint = snapshot.env_steps + self.recording.checkpoint_every
        try:
            path = save_snapshot(
                self.folder.checkpoints,
                snapshot.env_steps,
                snapshot,
                agent="a3c",
                policy=self.config.policy().to_dict(),
                config=self.config.to_dict(),
                software=self.software,
            )
            for evaluation in self.evaluations:
                # It belongs to the checkpoint that this one replaces.
                if evaluation["env_steps"] == snapshot.env_steps:
                    amend_state(path, evaluation=_brief(evaluation))
        except (OSError, CheckpointError) as error:
            self._warn(f"no checkpoint at {snapshot.env_steps:,} steps: {error}; earlier ones are whole")
            return None
        self._prune()
        if snapshot.attention is not None:
            self.curves.write_attention(snapshot.attention, snapshot.env_steps)
        self.curves.flush()
        self.progress.say(f"checkpoint {path}")
        return path

    def finish(self, training: Training) -> Path | None:
        """Writes the last curves and the last checkpoint. Returns and raises what `checkpoint` does."""
        self._write_curves(training)
        return self.checkpoint(training)

    @property
    def evaluating(self) -> bool:
        """True while an evaluation is playing."""
        return self.evaluator.busy

    def take_evaluation(self, *, timeout: float | None = 0.0) -> None:
        """Stores the result of an evaluation if it arrives within `timeout` seconds. None waits for it."""
        try:
            result = self.evaluator.take(timeout=timeout)
        except EvaluationFailed as error:
            self._warn(f"an evaluation failed: {error}")
            return
        if result is not None:
            self._keep_evaluation(result)
            games, steps = len(result["episode_returns"]), result["env_steps"]
            self.progress.say(
                f"evaluation at {steps:,} steps: mean return {result['mean']:.2f} over {games} games"
            )

    @property
    def recent_score(self) -> float | None:
        """The mean return of the last three evaluations; None before the first."""
        means = [each["mean"] for each in self.evaluations[-LAST_EVALUATIONS:]]
        return sum(means) / len(means) if means else None

    def evaluate_last(self, checkpoint: Path) -> dict[str, Any]:
        """Plays the games that end a run. Returns what `evaluate` returns."""
        games = self.recording.evaluate_episodes
        result = evaluate(checkpoint, episodes=games, on_progress=GamesProgress(games))
        self._keep_evaluation(result)
        return result

    def close(self) -> None:
        self.curves.close()

    def _evaluation_is_due(self) -> bool:
        wanted = self.recording.evaluate_every and self.env_steps >= self.next_evaluation
        return bool(wanted) and not self.evaluator.busy

    def _keep_evaluation(self, result: dict[str, Any]) -> None:
        """Writes a result to the curves, the run's folder and the state of its checkpoint."""
        # A trial that is restarted may play the same games again.
        others = [e for e in self.evaluations if _conditions(e) != _conditions(result)]
        self.evaluations = [*others, result]
        self.curves.write_evaluation(result)
        self.curves.flush()
        try:
            amend_state(self.folder.checkpoints / Path(result["run"]).name, evaluation=_brief(result))
            write_json_atomically(self.folder.path / EVALUATIONS, self.evaluations)
        except (OSError, CheckpointError) as error:
            self._warn(f"an evaluation could not be written: {error}")
        self._prune()

    def _prune(self) -> None:
        spare = self.evaluator.checkpoint
        try:
            prune_checkpoints(self.folder.checkpoints, keep=self.recording.keep, score=score, spare=spare)
        except OSError as error:
            self._warn(f"old checkpoints stay: {error}")

    def _write_curves(self, training: Training) -> Metrics:
        metrics = training.drain()
        for message in metrics.messages:
            self._warn(message)
        self.curves.write(metrics, self.progress.steps_per_second)
        self.env_steps, self.metrics = metrics.env_steps, metrics
        if metrics.precisions != self.precisions:
            self._keep_precisions(metrics.precisions)
        return metrics

    def _keep_precisions(self, precisions: dict[str, str]) -> None:
        self.precisions = precisions
        self.curves.write_precisions(precisions, self.env_steps)
        path = self.folder.path / "config.json"
        try:
            write_json_atomically(path, json.loads(path.read_text()) | {"precisions": precisions})
        except OSError as error:
            self._warn(f"{path} does not say in which precision workers compute: {error}")

    def _warn(self, line: str) -> None:
        self.progress.say(f"warning: {line}")


def _brief(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Returns what a checkpoint's state holds of its evaluation."""
    return {
        "games": len(evaluation["episode_returns"]),
        "mean_return": evaluation["mean"],
        "length": evaluation["mean_length"],
        "human_normalised": evaluation["human_normalised_mean"],
        "seed": evaluation["settings"]["seed"],
    }


def _conditions(evaluation: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what is equal in two evaluations that play the same games with the same policy."""
    return evaluation["env_steps"], evaluation["settings"], len(evaluation["episode_returns"])


def read_evaluations(run: Path) -> list[dict[str, Any]]:
    """Returns all evaluations of a run, the oldest first; [] if there are none or the file cannot be read."""
    try:
        stored = json.loads((run / EVALUATIONS).read_text())
        return [e for e in stored if isinstance(e, dict) and isinstance(e.get("env_steps"), int)]
    except (OSError, ValueError, TypeError):
        return []
