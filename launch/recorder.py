"""What a training run leaves behind as it goes: curves, checkpoints and a progress line."""

import time
from pathlib import Path

from agents.a3c.config import A3CConfig
from agents.a3c.training import Training
from envs.atari import resolve
from launch.a3c_checkpoints import mean_return, save
from launch.checkpoints import prune_checkpoints
from launch.curves import Curves
from launch.progress import Progress
from launch.run_folder import RunFolder


class Recorder:
    """Looks at a training run about once a second, and saves it every `checkpoint_every` agent steps."""

    def __init__(
        self, folder: RunFolder, config: A3CConfig, *, env_steps: int, checkpoint_every: int, keep: int
    ):
        """`env_steps`: where the run starts from; `keep`: newest checkpoints kept, beside the best one."""
        frame_skip = resolve(config.env).frame_skip
        self.folder, self.config, self.checkpoint_every, self.keep = folder, config, checkpoint_every, keep
        self.curves = Curves(folder.path, frame_skip=frame_skip, env_steps=env_steps)
        self.curves.describe(config)
        self.progress = Progress(config.total_steps, frame_skip=frame_skip, env_steps=env_steps)
        self.looked = time.monotonic()
        self.next_checkpoint = env_steps + checkpoint_every

    def look(self, training: Training) -> None:
        """Call it as often as you like."""
        if time.monotonic() - self.looked < 1.0:
            return
        self.looked = time.monotonic()
        metrics = training.drain()
        self.progress.update(metrics.env_steps, metrics.mean_return)
        self.curves.write(metrics, self.progress.steps_per_second)
        if metrics.env_steps >= self.next_checkpoint:
            self.checkpoint(training)

    def checkpoint(self, training: Training) -> Path:
        """Saves the run as it stands."""
        snapshot = training.snapshot()
        path = save(self.folder.checkpoints, snapshot, self.config)
        prune_checkpoints(self.folder.checkpoints, keep=self.keep, score=mean_return)
        if snapshot.attention is not None:
            self.curves.write_attention(snapshot.attention, snapshot.env_steps)
        self.curves.flush()
        self.progress.say(f"checkpoint {path}")
        self.next_checkpoint = snapshot.env_steps + self.checkpoint_every
        return path

    def finish(self, training: Training) -> Path:
        """Writes the last curves and the last checkpoint."""
        metrics = training.drain()
        self.curves.write(metrics, self.progress.steps_per_second)
        path = self.checkpoint(training)
        self.curves.close()
        return path
