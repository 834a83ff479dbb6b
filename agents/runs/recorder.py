"""What a training run leaves behind as it goes: curves, checkpoints and a progress line."""

import time
from pathlib import Path
from typing import Any

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_owner import Metrics
from agents.a3c.training import Training
from agents.runs.checkpoints import prune_checkpoints
from agents.runs.curves import Curves
from agents.runs.folder import RunFolder
from agents.runs.progress import Progress
from agents.runs.snapshots import mean_return, save
from envs.atari import resolve


class Recorder:
    """Looks at a training run about once a second, and saves it every `checkpoint_every` agent steps."""

    def __init__(
        self,
        folder: RunFolder,
        settings: dict[str, Any],
        policy: A3CConfig,
        *,
        env_steps: int,
        checkpoint_every: int,
        keep: int,
    ):
        """`settings`: of the run, for people; `policy`: for those who play it. `env_steps`: where the run starts from; `keep`:
        newest checkpoints kept, beside the best one."""
        frame_skip = resolve(policy.env).frame_skip
        self.folder, self.policy, self.checkpoint_every, self.keep = folder, policy, checkpoint_every, keep
        self.progress = Progress(policy.total_steps, frame_skip=frame_skip, env_steps=env_steps)
        self.curves = Curves(folder.path, frame_skip=frame_skip, env_steps=env_steps, warn=self._warn)
        self.curves.describe(settings)
        self.mean_return: float | None = None
        self.looked = time.monotonic()
        self.next_checkpoint = env_steps + checkpoint_every

    def look(self, training: Training) -> None:
        """Call it as often as you like."""
        if time.monotonic() - self.looked < 1.0:
            return
        self.looked = time.monotonic()
        metrics = self._write_curves(training)
        self.mean_return = metrics.mean_return
        self.progress.update(metrics.env_steps, metrics.mean_return)
        if metrics.env_steps >= self.next_checkpoint:
            self.checkpoint(training)

    def checkpoint(self, training: Training) -> Path | None:
        """Saves the run as it stands; None, and a warning, if the disk refuses."""
        snapshot = training.snapshot()
        self.next_checkpoint = snapshot.env_steps + self.checkpoint_every
        try:
            path = save(self.folder.checkpoints, snapshot, self.policy)
        except OSError as error:
            self._warn(f"no checkpoint at {snapshot.env_steps:,} steps: {error}; earlier ones are whole")
            return None
        try:
            prune_checkpoints(self.folder.checkpoints, keep=self.keep, score=mean_return)
        except OSError as error:
            self._warn(f"old checkpoints stay: {error}")
        if snapshot.attention is not None:
            self.curves.write_attention(snapshot.attention, snapshot.env_steps)
        self.curves.flush()
        self.progress.say(f"checkpoint {path}")
        return path

    def finish(self, training: Training) -> Path | None:
        """Writes the last curves and the last checkpoint, as `checkpoint` does."""
        self._write_curves(training)
        path = self.checkpoint(training)
        self.curves.close()
        return path

    def _write_curves(self, training: Training) -> Metrics:
        metrics = training.drain()
        for message in metrics.messages:
            self._warn(message)
        self.curves.write(metrics, self.progress.steps_per_second)
        return metrics

    def _warn(self, line: str) -> None:
        self.progress.say(f"warning: {line}")
