"""The stream of tasks: the classes of a data set, a few at a time (van de Ven and Tolias 2019; Hsu et al. 2018).

Shapes: N images, d features.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from agents.seeding import mixed_seed

CLASSES_PER_TASK = {"split-mnist": 2, "split-cifar10": 2, "split-cifar100": 5}


class Split(NamedTuple):
    """Some classes of a data set, on the device."""

    x: Tensor  # (N, d)
    labels: Tensor  # (N,), as the head counts them


class Task(NamedTuple):
    train: Split
    test: Split
    head: int
    """The head that answers."""
    answers: int
    """Of the head's classes, how many are seen by the end of this task: the first ones."""


class TaskStream(NamedTuple):
    tasks: list[Task]
    heads: int
    classes: int
    """Of each head."""


def split_tasks(train: Split, test: Split, *, per_task: int, scenario: str) -> TaskStream:
    """The tasks in the order of their classes: the first `per_task`, the next, ...

    Incremental tasks have labels from 0 and a head each, incremental domains labels from 0 and one head, incremental classes their
    own labels and one head, which grows by the classes seen.
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
    """MNIST's bytes (N, 1, 28, 28) -> (N, 1024), padded to 32 x 32 and normalised, as the benchmark and the released code do."""
    padded = F.pad(images.float() / 255, (2, 2, 2, 2))
    return ((padded - 0.1000) / 0.2752).flatten(1)


def shuffled(count: int, *, seed: int, task: int, epoch: int) -> Tensor:
    """An order of a task's images that depends on nothing but these numbers, (count,)."""
    generator = torch.Generator().manual_seed(mixed_seed("order", seed, task, epoch))
    return torch.randperm(count, generator=generator)
