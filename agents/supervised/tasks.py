"""The tasks that a network is trained on, with their data, losses and metrics.

Shapes: B inputs, T steps of a sequence, A steps of an answer.
"""

import math
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.image_scales import SCALES
from agents.seeding import mixed_seed
from agents.supervised.config import IMAGES, SupervisedConfig
from envs import algorithms, images, polynomials

Batch = tuple[Tensor, Tensor]
"""Inputs and targets."""


class Task(Protocol):
    """Batches, a loss and a metric. Batches depend on seed and step alone, so a run can continue at any step."""

    metric: str
    """The metric's name in curves and results."""
    larger_is_better: bool
    steps: int
    """The number of steps of a whole run."""
    evaluate_every: int
    """Steps between two evaluations. The end of the run is evaluated as well."""

    def batch(self, step: int) -> Batch:
        """Makes the batch of a step."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss, a scalar."""

    def evaluate(self, network: nn.Module, losses: Tensor) -> float:
        """Computes the metric. `losses` are those of the training steps since the last evaluation."""


def build_task(
    config: SupervisedConfig, data: Path, device: torch.device, *, few_shapes: bool = False
) -> Task:
    """Makes the task of a run, with its data on the device.

    Args:
        few_shapes: makes batches of few different shapes, where that does not change what is learnt.

    Raises:
        ValueError: data that are missing or damaged, in one line.
    """
    if config.task in IMAGES:
        return ImageTask(config, data, device)
    if config.task == "polynomials":
        return PolynomialTask(config, device)
    return AlgorithmTask(config, device, multiple_of=16 if few_shapes else 1)


class ImageTask:
    """Classification. The whole data set is one tensor on the device, and a batch is made by index."""

    # Percent.
    metric = "test_accuracy"
    larger_is_better = True

    def __init__(self, config: SupervisedConfig, data: Path, device: torch.device):
        self.config, self.device = config, device
        train, test = images.load(config.task, data)
        self.train = images.ImageSet(train.images.to(device), train.labels.to(device))
        self.test = images.ImageSet(test.images.to(device), test.labels.to(device))
        mean, deviation = torch.tensor(SCALES[config.task], device=device).view(2, 1, -1, 1, 1)
        self.factor, self.shift = 1 / (255 * deviation), -mean / deviation
        # An epoch.
        self.evaluate_every = math.ceil(len(train.images) / config.batch_size)
        self.steps = config.steps or (config.epochs or 0) * self.evaluate_every
        self.epoch, self.order = -1, torch.empty(0)

    def batch(self, step: int) -> Batch:
        """Draws images (B, C, H, W) and labels (B). Every image comes once an epoch."""
        epoch, place = divmod(step, self.evaluate_every)
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(mixed_seed("order", self.config.seed, epoch))
            self.order = torch.randperm(len(self.train.labels), generator=generator).to(self.device)
            self.epoch = epoch
        chosen = self.order[place * self.config.batch_size : (place + 1) * self.config.batch_size]
        pictures = self.train.images[chosen]
        if self.config.augment:
            pictures = flip_and_shift(pictures)
        return self._scaled(pictures), self.train.labels[chosen]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def evaluate(self, network: nn.Module, losses: Tensor) -> float:
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for pictures, labels in zip(self.test.images.split(500), self.test.labels.split(500), strict=True):
            right += (network(self._scaled(pictures)).argmax(-1) == labels).sum()
        return 100 * right.item() / len(self.test.labels)

    def _scaled(self, pictures: Tensor) -> Tensor:
        """Scales images (B, C, H, W) from bytes to numbers."""
        return torch.addcmul(self.shift, pictures.float(), self.factor)


def flip_and_shift(pictures: Tensor, pixels: int = 4) -> Tensor:
    """Mirrors half of the images (B, C, H, W), and moves each by up to `pixels`, with zeros beyond its edge.

    This is the usual augmentation of CIFAR (He et al. 2016). It pads the bytes, so "zero" is black.
    """
    count, _, height, width = pictures.shape
    device = pictures.device
    padded = F.pad(pictures, (pixels,) * 4)
    down = torch.randint(2 * pixels + 1, (count, 1), device=device)  # (B, 1)
    rows = torch.arange(height, device=device) + down  # (B, H)
    columns = torch.arange(width, device=device).expand(count, -1)  # (B, W)
    columns = torch.where(torch.rand(count, 1, device=device) < 0.5, columns.flip(-1), columns)
    columns = columns + torch.randint(2 * pixels + 1, (count, 1), device=device)
    numbers = torch.arange(count, device=device)
    moved = padded[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return moved.permute(0, 3, 1, 2)


class PolynomialTask:
    """Auto-regression of polynomials. Sequences are fresh at every step, so a training loss is a test loss."""

    metric = "mse"
    larger_is_better = False
    evaluate_every = 100

    def __init__(self, config: SupervisedConfig, device: torch.device):
        assert config.steps is not None
        self.config, self.device, self.steps = config, device, config.steps

    def batch(self, step: int) -> Batch:
        """Draws inputs (B, T, 2) and the numbers to predict (B, T)."""
        config = self.config
        inputs, targets = polynomials.sequences(
            config.batch_size,
            points=config.points,
            pieces=config.pieces,
            noise=config.noise,
            scale=config.scale,
            generator=torch.Generator().manual_seed(mixed_seed("sequences", config.seed, step)),
        )
        return inputs.to(self.device), targets.to(self.device)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)

    def evaluate(self, network: nn.Module, losses: Tensor) -> float:
        return losses.mean().item()


class AlgorithmTask:
    """Several algorithms in one sequence, with their answers at its end. Sequences are fresh at every step."""

    # Percent of wrong bits.
    metric = "bit_error"
    larger_is_better = False
    evaluate_every = 200
    EVALUATION_BATCHES = 4

    def __init__(self, config: SupervisedConfig, device: torch.device, *, multiple_of: int = 1):
        """`multiple_of`: the batches of training have empty steps appended until T is a multiple of this."""
        assert config.steps is not None
        self.config, self.device, self.steps = config, device, config.steps
        self.multiple_of = multiple_of

    def batch(self, step: int) -> Batch:
        """Draws inputs (B, T, 10) and the bits to answer with (B, T, 8), NaN where nothing is asked."""
        inputs, targets = self._sequences("training", step)
        asked_from, after = inputs.shape[1] - targets.shape[1], -inputs.shape[1] % self.multiple_of
        inputs = F.pad(inputs, (0, 0, 0, after))
        return inputs, F.pad(targets, (0, 0, asked_from, after), value=math.nan)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        asked = targets.isfinite()
        errors = F.binary_cross_entropy_with_logits(outputs, targets.nan_to_num(), reduction="none")
        return errors.where(asked, 0.0).sum() / asked.sum()

    def evaluate(self, network: nn.Module, losses: Tensor) -> float:
        """Computes the bit error on sequences that training never sees."""
        logits, bits = [], []
        for number in range(self.EVALUATION_BATCHES):
            inputs, targets = self._sequences("evaluation", number)
            logits.append(network(inputs)[:, -targets.shape[1] :].flatten(0, 1))  # (B A, 8)
            bits.append(targets.flatten(0, 1))
        return algorithms.bit_error(torch.cat(logits), torch.cat(bits)).item()

    def _sequences(self, use: str, number: int) -> Batch:
        """Draws inputs (B, T, 10) and the bits to answer with at the last steps (B, A, 8)."""
        episode = algorithms.episode(
            self.config.batch_size,
            tasks_per_sequence=self.config.tasks_per_sequence,
            generator=torch.Generator().manual_seed(mixed_seed(use, self.config.seed, number)),
        )
        return episode.inputs.to(self.device), episode.targets.to(self.device)
