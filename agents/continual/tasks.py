"""The stream of tasks: the classes of a data set, a few at a time (van de Ven and Tolias 2019; Hsu et al. 2018).

Shapes: N images, d features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.image_scales import SCALES
from agents.seeding import mixed_seed

CLASSES_PER_TASK = {"split-mnist": 2, "split-cifar10": 2, "split-cifar100": 5}


class Split(NamedTuple):
    """Some classes of a data set, on the device."""

    x: Tensor  # (N, d)
    labels: Tensor  # (N,), as the head counts them


class Task(NamedTuple):
    """Some classes to learn, and the head that answers."""

    train: Split
    test: Split
    head: int
    """The number of the head that answers."""
    answers: int
    """The number of the head's classes that are seen by the end of this task. They are the first ones."""


class TaskStream(NamedTuple):
    """All tasks of a run, in order."""

    tasks: list[Task]
    heads: int
    classes: int
    """The number of classes of each head."""
    features: str = ""
    """What the features are, in words."""


def split_tasks(train: Split, test: Split, *, per_task: int, scenario: str) -> TaskStream:
    """Splits a data set into tasks in the order of its classes: the first `per_task`, the next, ...

    Incremental tasks have labels from 0 and a head each. Incremental domains have labels from 0 and one head.
    Incremental classes keep their labels and have one head, which grows by the classes seen.
    """
    classes = int(train.labels.max()) + 1
    tasks = []
    for number, first in enumerate(range(0, classes, per_task)):
        offset = 0 if scenario == "class" else first

        def select(split: Split, first: int = first, offset: int = offset) -> Split:
            chosen = (split.labels >= first) & (split.labels < first + per_task)
            return Split(split.x[chosen], split.labels[chosen] - offset)

        tasks.append(
            Task(
                train=select(train),
                test=select(test),
                head=number if scenario == "task" else 0,
                answers=first + per_task if scenario == "class" else per_task,
            )
        )
    return TaskStream(
        tasks,
        heads=len(tasks) if scenario == "task" else 1,
        classes=classes if scenario == "class" else per_task,
    )


def mnist_features(images: Tensor) -> Tensor:
    """Pads MNIST's bytes (N, 1, 28, 28) to 32 x 32 and scales them as the benchmark does: (N, 1024)."""
    (mean,), (deviation,) = SCALES["mnist, padded"]
    padded = F.pad(images.float() / 255, (2, 2, 2, 2))
    return ((padded - mean) / deviation).flatten(1)


def shuffled(count: int, *, seed: int, task: int, epoch: int) -> Tensor:
    """Draws an order (count,) of a task's images, which depends on these numbers alone."""
    generator = torch.Generator().manual_seed(mixed_seed("order", seed, task, epoch))
    return torch.randperm(count, generator=generator)
