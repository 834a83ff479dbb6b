"""TensorBoard curves of an A3C run. The x axis is agent steps; emulator frames = steps x frame skip."""

import math
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from agents.a3c.config import A3CConfig
from agents.a3c.parameter_owner import Metrics


class Curves:
    def __init__(self, folder: Path, *, frame_skip: int, env_steps: int):
        """`env_steps`: where the run starts from; what an earlier process wrote beyond it is hidden (no jump back)."""
        self.frame_skip = frame_skip
        self.writer = SummaryWriter(str(folder), purge_step=env_steps + 1)

    def describe(self, config: A3CConfig) -> None:
        """A page under the tab Text: what the axis means and every setting."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.to_dict().items())
        self.writer.add_text(
            "run",
            f"The x axis is agent steps; emulator frames = {self.frame_skip} x steps. Returns are the games' own scores, "
            f"not clipped.\n\n| setting | value |\n|---|---|\n{rows}",
        )

    def write(self, metrics: Metrics, steps_per_second: float) -> None:
        for step, episode in metrics.episodes:
            self.writer.add_scalar("charts/episodic_return", episode.score, step)
            self.writer.add_scalar("charts/episodic_length", episode.length, step)
        if not metrics.losses:
            return
        scalars = {
            "charts/SPS": steps_per_second,
            "charts/frames": metrics.env_steps * self.frame_skip,
            "charts/learning_rate": metrics.learning_rate,
            "a3c/staleness": metrics.staleness,
            "a3c/updates": metrics.updates,
        } | {f"losses/{name}": value for name, value in metrics.losses.items()}
        if metrics.attention is not None:
            scalars["program/usage_entropy"] = usage_entropy(metrics.attention)
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, metrics.env_steps)

    def write_attention(self, attention: np.ndarray, env_steps: int) -> None:
        """A picture of the mean attention (3, H, P): a panel for each of U, V, S, heads down, slots across."""
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
        self.writer.add_figure("program/attention", figure, env_steps)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def usage_entropy(attention: np.ndarray) -> float:
    """Entropy of the slots' shares of all attention (3, H, P), over its maximum log P: 1 if all slots are read alike."""
    usage = attention.mean(axis=(0, 1))
    usage = usage / usage.sum()
    return float(-(usage * np.log(usage + 1e-12)).sum() / math.log(len(usage)))
