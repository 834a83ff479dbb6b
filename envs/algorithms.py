"""Four small algorithms on random bits, several in an episode: the tasks of the Neural Turing Machine.

An episode presents m tasks and then asks for all answers: t_1, x^1, ..., t_m, x^m -> y^1, ..., y^m. A step
is 10 numbers wide: 8 bits, and 2 channels for marks. The step t_i holds the number of the task, one-hot on
the first four bits. The input is zero during the answers, and no mark says that they begin. The sequences
of a batch have the same tasks, lengths, repeats and place of the query. Their bits and priorities differ.

Source: the paper's appendix, "Multi-task learning experiments", and its Table 4 for the sizes. The paper
does not mention marks. Those of the copies follow the NSM repository, whose network the paper uses. That
repository has no recall and no sort, whose marks follow vlgiitr/ntm-pytorch, where the copies are the same.
The one-hot number on four bits is our choice.

Shapes: B sequences, I steps of a task, O steps of its answer, T steps and A answer steps of an episode.
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TASKS = ("copy", "repeat_copy", "associative_recall", "priority_sort")
"""The names of the tasks. The place of a name is the number of the task."""
BITS = 8
WIDTH = BITS + 2
START, END = BITS, BITS + 1
"""The channels for marks."""
MOST_REPEATS = 2
ITEM_STEPS = 2
"""Steps of an item in associative recall."""


class Episode(NamedTuple):
    """Sequences of one structure. The network's logits at the last A steps are its answers."""

    inputs: Tensor
    """(B, T, 10)."""
    targets: Tensor
    """(B, A, 8), the bits of all answers."""
    tasks: tuple[str, ...]
    """The tasks in the order of their presentation and of their answers."""
    answer_steps: tuple[int, ...]
    """O of each task: `targets.split(answer_steps, dim=1)` are the answers."""


def episode(
    batch: int,
    *,
    tasks_per_sequence: int = 8,
    longest: int = 3,
    tasks: Sequence[str] = TASKS,
    generator: torch.Generator,
) -> Episode:
    """Draws a batch of sequences, float32 on the CPU.

    Args:
        batch: B, the number of sequences.
        tasks_per_sequence: m, 4 in the paper's text and 8 in its Figure 7. Tasks are drawn without
            replacement if there are enough of them, so 4 of 4 come in a random order. Otherwise they are
            drawn with replacement. The paper does not say how they are drawn.
        longest: the largest number of vectors to copy and of items to recall from, and the number of
            vectors to sort. It is 3 in Table 4. A larger one makes longer sequences than those of training.
        tasks: the tasks to draw from, one or more of TASKS.
        generator: the source of all randomness, on the CPU.

    Raises:
        ValueError: a size too small, no task, or an unknown one, to which the message adds near names.
    """
    for name, size, least in (
        ("batch", batch, 1),
        ("tasks_per_sequence", tasks_per_sequence, 1),
        ("longest", longest, 2),
        ("number of tasks", len(tasks), 1),
    ):
        if size < least:
            raise ValueError(f"{name} is {size}; it must be at least {least}")
    for name in tasks:
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS, cutoff=0.5)
            hint = f"near names: {', '.join(near)}" if near else f"the tasks are {', '.join(TASKS)}"
            raise ValueError(f"task {name!r} is unknown; {hint}")

    if tasks_per_sequence <= len(tasks):
        places = torch.randperm(len(tasks), generator=generator)[:tasks_per_sequence]
    else:
        places = torch.randint(len(tasks), (tasks_per_sequence,), generator=generator)
    chosen = tuple(tasks[place] for place in places.tolist())
    presented, answers = [], []
    for name in chosen:
        inputs, answer = _MAKERS[name](batch, longest, generator)
        presented += [_mark(batch, TASKS.index(name)), inputs]
        answers.append(answer)
    targets = torch.cat(answers, dim=1)
    silence = targets.new_zeros(batch, targets.shape[1], WIDTH)
    inputs = torch.cat((*presented, silence), dim=1)
    return Episode(inputs, targets, chosen, tuple(answer.shape[1] for answer in answers))


def bit_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the percentage of wrong bits, a scalar.

    A logit above 0 means 1. All sequences of a batch have the same number of bits, so this is the mean of
    their errors.

    Args:
        logits: (..., 8), of the answer steps only.
        targets: (..., 8).

    Raises:
        ValueError: the shapes differ.
    """
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}, targets {tuple(targets.shape)}; they must have the same"
        )
    return 100 * ((logits > 0) != (targets > 0.5)).float().mean()


# Each task returns its inputs (B, I, 10) and answers (B, O, 8).


def _copy(batch: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Presents a start mark, 1 to `longest` vectors and an end mark. The answer is the vectors."""
    vectors = _bits(batch, _between(1, longest, generator), generator)
    return torch.cat((_mark(batch, START), _steps(vectors), _mark(batch, END)), dim=1), vectors


def _repeat_copy(batch: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Presents a start mark, 1 to `longest` vectors, and n / 2 on the end channel.

    The answer is n times the vectors. n is 1 or 2. Table 4 puts n first. Here it comes at the end, as in
    the NSM repository, which standardises n. n / 2 is our choice.
    """
    vectors = _bits(batch, _between(1, longest, generator), generator)
    n = _between(1, MOST_REPEATS, generator)
    inputs = torch.cat((_mark(batch, START), _steps(vectors), _mark(batch, END, n / MOST_REPEATS)), dim=1)
    return inputs, vectors.repeat(1, n, 1)


def _associative_recall(batch: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Presents 2 to `longest` items, and one of them again, but not the last one.

    The answer is the item after that one. An item is two vectors. A start mark comes before each item, and
    end marks come before and after the repeated one. Two items of a sequence may be equal by chance (1 in
    65,536 pairs).
    """
    items = [_bits(batch, ITEM_STEPS, generator) for _ in range(_between(2, longest, generator))]
    query = _between(0, len(items) - 2, generator)
    listed = [part for item in items for part in (_mark(batch, START), _steps(item))]
    asked = [_mark(batch, END), _steps(items[query]), _mark(batch, END)]
    return torch.cat(listed + asked, dim=1), items[query + 1]


def _priority_sort(batch: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Presents `longest` vectors, each with a priority in [-1, 1] on the start channel.

    The answer is all but the vector of lowest priority, the highest first. Whole vectors are sorted.
    ntm-pytorch, which is widely copied, sorts the column of every bit separately, which destroys the task.
    """
    vectors = _bits(batch, longest, generator)
    priorities = 2 * torch.rand(batch, longest, generator=generator) - 1
    inputs = _steps(vectors)
    inputs[..., START] = priorities
    order = priorities.argsort(dim=1, descending=True, stable=True)[:, :-1]
    return inputs, vectors.take_along_dim(order.unsqueeze(-1), dim=1)


_MAKERS = dict(zip(TASKS, (_copy, _repeat_copy, _associative_recall, _priority_sort), strict=True))


def _between(low: int, high: int, generator: torch.Generator) -> int:
    """Draws a number, uniform in low..high."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _bits(batch: int, steps: int, generator: torch.Generator) -> Tensor:
    """Draws vectors of random bits, (B, steps, 8)."""
    return torch.randint(2, (batch, steps, BITS), generator=generator).float()


def _steps(vectors: Tensor) -> Tensor:
    """Returns vectors (B, steps, 8) as inputs (B, steps, 10) without a mark."""
    return F.pad(vectors, (0, WIDTH - BITS))


def _mark(batch: int, channel: int, value: float = 1.0) -> Tensor:
    """Returns one step (B, 1, 10) that is zero but on one channel."""
    step = torch.zeros(batch, 1, WIDTH)
    step[..., channel] = value
    return step
