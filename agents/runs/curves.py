"""TensorBoard curves of an Atari run. The x axis is agent steps; emulator frames = steps x frame skip."""

import gc
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from agents.actor_critic.training import Metrics


@cache
def _silence_writer_threads() -> None:
    """Suppresses the tracebacks of TensorBoard's writer threads.

    Each error is raised again in the thread that adds points. This lasts until the process ends. A thread
    whose disk was full may fail once more after its curves are closed.
    """
    print_exception = threading.excepthook

    def print_unless_writer(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            print_exception(arguments)

    threading.excepthook = print_unless_writer


class Curves:
    """The curves of one run. On a full disk there is a warning, and points are lost until a `flush` can write again."""

    def __init__(self, folder: Path, *, frame_skip: int, env_steps: int, warn: Callable[[str], None]):
        """
        Args:
            env_steps: the step count that the run starts from. Points that an earlier process wrote beyond
                it are hidden.
            warn: is called with one line when curves cannot be written.
        """
        _silence_writer_threads()
        self.folder, self.frame_skip, self.warn = folder, frame_skip, warn
        # Broken until the file is open.
        self.broken = True
        with self._losing_points():
            self._open(purge_step=env_steps + 1)

    def _open(self, purge_step: int | None = None) -> None:
        self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        self.broken = False

    @contextmanager
    def _losing_points(self) -> Iterator[None]:
        """Reports a failed write. Nothing more is written to that file, because half a point may stand at its end."""
        try:
            yield
        except OSError as error:
            self.broken = True
            self.warn(f"curves cannot be written to {self.folder} ({error}); points are lost until they can")

    def describe(self, settings: dict[str, Any]) -> None:
        """Writes a page under the tab Text: what the x axis means, and every setting."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
        self._add(
            SummaryWriter.add_text,
            "run",
            f"The x axis is agent steps; emulator frames = {self.frame_skip} x steps. Returns are the games' own scores, "
            f"not clipped.\n\n| setting | value |\n|---|---|\n{rows}",
        )

    def write(self, metrics: Metrics, steps_per_second: float) -> None:
        """Writes a point of every curve, and two for every game that has ended."""
        for step, episode in metrics.episodes:
            self._add(SummaryWriter.add_scalar, "charts/episodic_return", episode.score, step)
            self._add(SummaryWriter.add_scalar, "charts/episodic_length", episode.length, step)
        scalars: dict[str, float | None] = {"updates/workers": metrics.workers}
        scalars |= {f"faults/{name}": count for name, count in metrics.faults.items()}
        if metrics.scalars:
            scalars |= {
                "charts/SPS": steps_per_second,
                "charts/frames": metrics.env_steps * self.frame_skip,
                "charts/learning_rate": metrics.learning_rate,
                "charts/entropy_weight": metrics.entropy_weight,
                "updates/staleness": metrics.staleness,
                "updates/count": metrics.updates,
            }
            scalars |= metrics.scalars
            scalars |= {f"time/{name}": value for name, value in metrics.seconds.items()}
            if metrics.attention is not None:
                scalars["program/usage_entropy"] = usage_entropy(metrics.attention)
        for tag, value in scalars.items():
            if value is None:
                continue
            self._add(SummaryWriter.add_scalar, tag, value, metrics.env_steps)

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Writes the points of an evaluation, which is what `agents.runs.evaluation.evaluate` gives."""
        scalars = {
            "eval/mean_return": evaluation["mean"],
            "eval/length": evaluation["mean_length"],
            "eval/human_normalised": evaluation["human_normalised_mean"],
        }
        for tag, value in scalars.items():
            if value is not None:
                self._add(SummaryWriter.add_scalar, tag, value, evaluation["env_steps"])

    def write_precisions(self, precisions: dict[str, str], env_steps: int) -> None:
        """Writes a line under the tab Text for each kind of node that workers compute on."""
        rows = "\n".join(f"| {kind} | {precision} |" for kind, precision in precisions.items())
        self._add(
            SummaryWriter.add_text, "precision", f"| kind of node | precision |\n|---|---|\n{rows}", env_steps
        )

    def write_attention(self, attention: np.ndarray, env_steps: int) -> None:
        """Writes a picture of the mean attention (3, H, P)."""
        self._add(SummaryWriter.add_figure, "program/attention", draw_attention(attention), env_steps)
        # A figure of 2 MB refers to itself. Without this call, Python would free it only many pictures later.
        gc.collect()

    def flush(self) -> None:
        """Writes all points to the disk. A disk that was full is tried again."""
        with self._losing_points():
            if self.broken:
                self._open()
            self.writer.flush()

    def close(self) -> None:
        with self._losing_points():
            if not self.broken:
                self.writer.close()

    def _add(self, method: Callable[..., None], *point: Any) -> None:
        """Adds a point by a method of `SummaryWriter`, unless the file has failed."""
        with self._losing_points():
            if not self.broken:
                method(self.writer, *point)


def draw_attention(attention: np.ndarray) -> Any:
    """Draws the mean attention (3, H, P): a panel for each of U, V and S, with heads down and slots across."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(3, 1, figsize=(9, 6), sharex=True, layout="constrained")
    for panel, weights, name in zip(
        panels, attention, ("left vectors U", "right vectors V", "singular values S"), strict=True
    ):
        picture = panel.imshow(weights, aspect="auto", cmap="magma", vmin=0, interpolation="nearest")
        panel.set(title=name, ylabel="head")
        figure.colorbar(picture, ax=panel)
    panels[-1].set_xlabel("slot of the Program Memory")
    return figure


def usage_entropy(attention: np.ndarray) -> float:
    """Returns the entropy of the slots' shares of all attention (3, H, P), divided by its maximum log P.

    It is 1 if all slots are read alike.
    """
    usage = attention.mean(axis=(0, 1))  # (P,)
    usage = usage / usage.sum()
    return float(-(usage * np.log(usage + 1e-12)).sum() / math.log(len(usage)))
