"""TensorBoard curves of an Atari run. The x axis is agent steps; emulator frames = steps x frame skip."""

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from agents.actor_critic.training import Metrics
from agents.runs.curve_file import CurveFile


class Curves(CurveFile):
    """The curves of one Atari run."""

    def __init__(self, folder: Path, *, frame_skip: int, env_steps: int, warn: Callable[[str], None]):
        """
        Args:
            env_steps: the step count that the run starts from.
            warn: is called with one line when curves cannot be written.
        """
        super().__init__(folder, step=env_steps, warn=warn)
        self.frame_skip = frame_skip

    def describe(self, settings: dict[str, Any]) -> None:
        """Writes a page under the tab Text: what the x axis means, and every setting."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
        self.add(
            SummaryWriter.add_text,
            "run",
            f"The x axis is agent steps; emulator frames = {self.frame_skip} x steps. Returns are the games' own scores, "
            f"not clipped.\n\n| setting | value |\n|---|---|\n{rows}",
        )

    def write(self, metrics: Metrics, steps_per_second: float) -> None:
        """Writes a point of every curve, and two for every game that has ended."""
        for step, episode in metrics.episodes:
            self.add(SummaryWriter.add_scalar, "charts/episodic_return", episode.score, step)
            self.add(SummaryWriter.add_scalar, "charts/episodic_length", episode.length, step)
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
            self.add(SummaryWriter.add_scalar, tag, value, metrics.env_steps)

    def write_evaluation(self, evaluation: dict[str, Any]) -> None:
        """Writes the points of an evaluation, which is what `agents.runs.evaluation.evaluate` gives."""
        scalars = {
            "eval/mean_return": evaluation["mean"],
            "eval/length": evaluation["mean_length"],
            "eval/human_normalised": evaluation["human_normalised_mean"],
        }
        for tag, value in scalars.items():
            if value is not None:
                self.add(SummaryWriter.add_scalar, tag, value, evaluation["env_steps"])

    def write_precisions(self, precisions: dict[str, str], env_steps: int) -> None:
        """Writes a line under the tab Text for each kind of node that workers compute on."""
        rows = "\n".join(f"| {kind} | {precision} |" for kind, precision in precisions.items())
        self.add(
            SummaryWriter.add_text, "precision", f"| kind of node | precision |\n|---|---|\n{rows}", env_steps
        )

    def write_attention(self, attention: np.ndarray, env_steps: int) -> None:
        """Writes a picture of the mean attention (3, H, P)."""
        self.add(SummaryWriter.add_figure, "program/attention", draw_attention(attention), env_steps)
        # A figure of 2 MB refers to itself. Without this call, Python would free it only many pictures later.
        gc.collect()


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
