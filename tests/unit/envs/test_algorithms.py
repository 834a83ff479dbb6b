"""The multi-algorithm task: every episode is read step by step, as a person would, and solved with plain lists."""

import inspect
import math
from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from envs.algorithms import TASKS, bit_error, episode


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class EqualItems(Exception):
    pass


class Reader:
    """Reads the steps of one presentation one after the other, and solves its tasks."""

    def __init__(self, steps, sorted_items=3):
        self.steps, self.at, self.sorted_items = steps, 0, sorted_items

    def take(self):
        """Returns the bits, channel 9 and channel 10 of the next step."""
        step = self.steps[self.at]
        self.at += 1
        return step[:8], step[8], step[9]

    def flag(self, channels):
        assert self.take() == ([0.0] * 8, *channels)

    def vector(self):
        bits, *channels = self.take()
        assert set(bits) <= {0.0, 1.0} and channels == [0.0, 0.0]
        return bits

    def vectors_until_channel_10(self):
        vectors = []
        while self.steps[self.at][9] == 0:
            vectors.append(self.vector())
        return vectors

    def solve_all(self):
        """Returns a list of (task, structure, answer)."""
        solved = []
        while self.at < len(self.steps):
            bits, *channels = self.take()
            assert sum(bits[:4]) == sum(bits) == max(bits) == 1 and channels == [0.0, 0.0]
            task = TASKS[bits.index(1.0)]
            structure, answer = getattr(self, task)()
            solved.append((task, structure, answer))
        return solved

    def copy(self):
        self.flag((1.0, 0.0))
        vectors = self.vectors_until_channel_10()
        self.flag((0.0, 1.0))
        return (len(vectors),), vectors

    def repeat_copy(self):
        self.flag((1.0, 0.0))
        vectors = self.vectors_until_channel_10()
        bits, channel_9, share = self.take()
        assert not any(bits) and channel_9 == 0 and share in (0.5, 1.0)
        n = {0.5: 1, 1.0: 2}[share]
        return (len(vectors), n), vectors * n

    def associative_recall(self):
        items = []
        while self.steps[self.at][8] == 1:
            self.flag((1.0, 0.0))
            items.append([self.vector(), self.vector()])
        self.flag((0.0, 1.0))
        query = [self.vector(), self.vector()]
        self.flag((0.0, 1.0))
        if items.count(query) > 1:
            # This is rare, and no reader could say which item is meant.
            raise EqualItems
        place = items.index(query)
        return (len(items), place), items[place + 1]

    def priority_sort(self):
        items = []
        for _ in range(self.sorted_items):
            bits, priority, channel_10 = self.take()
            assert set(bits) <= {0.0, 1.0} and -1 <= priority <= 1 and channel_10 == 0
            items.append((priority, bits))
        items.sort(key=lambda item: -item[0])
        return (len(items),), [bits for _, bits in items[:-1]]


def read(drawn, sorted_items=3):
    """Returns what a person reads in every sequence: lists of (task, structure, answer)."""
    presented = drawn.inputs[:, : -drawn.targets.shape[1]]
    return [Reader(steps, sorted_items).solve_all() for steps in presented.tolist()]


def read_or_reject(drawn, sorted_items=3):
    try:
        return read(drawn, sorted_items)
    except EqualItems:
        reject()


def structures(tasks, count, **arguments):
    """Counts the structures of the only task in `count` episodes."""
    generator = seeded()
    episodes = (
        episode(1, tasks_per_sequence=1, tasks=tasks, generator=generator, **arguments) for _ in range(count)
    )
    return Counter(read(e, arguments.get("longest", 3))[0][0][1] for e in episodes)


def assert_uniform(counts, values):
    values, total = list(values), counts.total()
    assert set(counts) == set(values)
    for value in values:
        expected = total / len(values)
        assert abs(counts[value] - expected) < 5 * math.sqrt(expected), (value, counts)


# Against a reader


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    m=st.integers(1, 10),
    longest=st.integers(2, 6),
    tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=4, unique=True),
)
def test_a_person_who_reads_an_episode_finds_the_same_tasks_and_answers(seed, m, longest, tasks):
    drawn = episode(3, tasks_per_sequence=m, longest=longest, tasks=tasks, generator=seeded(seed))
    for solved, targets in zip(read_or_reject(drawn, longest), drawn.targets.tolist(), strict=True):
        assert tuple(task for task, _, _ in solved) == drawn.tasks
        assert tuple(len(answer) for _, _, answer in solved) == drawn.answer_steps
        assert [bits for _, _, answer in solved for bits in answer] == targets


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), m=st.integers(1, 8))
def test_the_sequences_of_a_batch_share_their_structure_and_differ_in_content(seed, m):
    drawn = episode(8, tasks_per_sequence=m, generator=seeded(seed))
    first, *others = [
        [(task, structure) for task, structure, _ in solved] for solved in read_or_reject(drawn)
    ]
    assert all(other == first for other in others)
    assert len(drawn.inputs.flatten(1).unique(dim=0)) > 1


def test_the_input_is_zero_while_answering():
    drawn = episode(16, generator=seeded())
    assert drawn.targets.shape[1] == sum(drawn.answer_steps)
    assert not drawn.inputs[:, -drawn.targets.shape[1] :].any()


def test_inputs_are_10_wide_targets_are_8_bits():
    drawn = episode(5, generator=seeded())
    assert drawn.inputs.shape[::2] == (5, 10) and drawn.targets.shape[::2] == (5, 8)
    assert drawn.inputs.dtype == drawn.targets.dtype == torch.float32
    assert drawn.targets.unique().tolist() == [0, 1]
    assert len(drawn.tasks) == 8


def test_bits_are_even():
    drawn = episode(1000, tasks_per_sequence=4, generator=seeded())
    share = drawn.targets.mean(dim=0)
    assert (share - 0.5).abs().max() < 5 * math.sqrt(0.25 / 1000)


def test_a_sort_answers_with_whole_vectors_of_the_input_by_falling_priority():
    drawn = episode(500, tasks_per_sequence=1, tasks=("priority_sort",), generator=seeded())
    vectors, priorities = drawn.inputs[:, 1:4, :8], drawn.inputs[:, 1:4, 8]
    assert priorities.min() < -0.95 and priorities.max() > 0.95 and abs(priorities.mean()) < 0.1
    for b in range(500):
        first, second, _ = sorted(range(3), key=lambda i: -priorities[b, i].item())
        assert torch.equal(drawn.targets[b], vectors[b, [first, second]])


# What is drawn


def test_copies_have_1_to_3_vectors():
    assert_uniform(structures(["copy"], 600), [(1,), (2,), (3,)])


def test_repeat_copies_have_1_to_3_vectors_once_or_twice():
    assert_uniform(structures(["repeat_copy"], 600), [(t, n) for t in (1, 2, 3) for n in (1, 2)])


def test_recall_has_2_or_3_items_and_never_asks_for_the_last():
    counts = structures(["associative_recall"], 600)
    assert set(counts) == {(2, 0), (3, 0), (3, 1)}
    assert_uniform(Counter({2: counts[2, 0], 3: counts[3, 0] + counts[3, 1]}), [2, 3])
    assert_uniform(Counter({place: counts[3, place] for place in (0, 1)}), [0, 1])


def test_three_vectors_are_sorted_and_two_are_asked_for():
    assert structures(["priority_sort"], 20) == {(3,): 20}
    drawn = episode(2, tasks_per_sequence=1, tasks=["priority_sort"], generator=seeded())
    assert drawn.answer_steps == (2,)


def test_longer_sequences_can_be_asked_for():
    assert set(structures(["copy"], 200, longest=6)) == {(t,) for t in range(1, 7)}
    assert {items for items, _ in structures(["associative_recall"], 200, longest=6)} == {2, 3, 4, 5, 6}
    assert set(structures(["priority_sort"], 2, longest=6)) == {(6,)}


def test_four_tasks_are_every_task_once_in_every_order():
    generator = seeded()
    orders = Counter(episode(1, tasks_per_sequence=4, generator=generator).tasks for _ in range(720))
    assert_uniform(orders, permutations(TASKS))


def test_fewer_tasks_than_there_are_do_not_repeat():
    generator = seeded()
    chosen = [episode(1, tasks_per_sequence=2, generator=generator).tasks for _ in range(200)]
    assert all(first != second for first, second in chosen)
    assert len(set(chosen)) == 12


def test_eight_tasks_are_drawn_with_replacement():
    generator = seeded()
    chosen = [episode(1, tasks_per_sequence=8, generator=generator).tasks for _ in range(300)]
    for place in range(8):
        assert_uniform(Counter(tasks[place] for tasks in chosen), TASKS)
    complete = sum(set(tasks) == set(TASKS) for tasks in chosen) / 300
    # 1 - 4 (3/4)^8 + 6 (1/2)^8 - 4 (1/4)^8
    assert abs(complete - 0.623) < 0.14


def test_a_single_task_keeps_its_number():
    for number, task in enumerate(TASKS):
        drawn = episode(3, tasks_per_sequence=1, tasks=(task,), generator=seeded())
        assert drawn.tasks == (task,)
        assert torch.equal(drawn.inputs[:, 0], torch.eye(10)[number].expand(3, -1))


def test_eight_tasks_of_published_sizes_are_the_default():
    defaults = {name: p.default for name, p in inspect.signature(episode).parameters.items()}
    assert (defaults["tasks_per_sequence"], defaults["longest"], defaults["tasks"]) == (8, 3, TASKS)


def test_the_same_seed_gives_the_same_episode_and_nothing_else_is_random():
    before = torch.random.get_rng_state()
    first = episode(4, generator=seeded(1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(5)
    again, other = episode(4, generator=seeded(1)), episode(4, generator=seeded(2))
    assert torch.equal(first.inputs, again.inputs) and torch.equal(first.targets, again.targets)
    assert first.tasks == again.tasks and first.answer_steps == again.answer_steps
    assert first.inputs.shape != other.inputs.shape or not torch.equal(first.inputs, other.inputs)


# Bit error


def test_bit_error_is_the_percentage_of_wrong_bits():
    targets = torch.tensor([[[1.0, 0, 1, 0, 1, 0, 1, 0]], [[1.0, 1, 1, 1, 0, 0, 0, 0]]])
    right = 4 * targets - 2
    assert bit_error(right, targets) == 0 and bit_error(-right, targets) == 100
    wrong = right.clone()
    wrong[0, 0, :3] *= -1
    assert bit_error(wrong, targets) == 100 * 3 / 16
    assert bit_error(wrong, targets).shape == ()


def test_bit_error_can_be_told_apart_by_task():
    drawn = episode(4, tasks_per_sequence=4, generator=seeded())
    logits = drawn.targets - 0.5
    logits[:, -drawn.answer_steps[-1] :] *= -1
    answers = zip(
        logits.split(drawn.answer_steps, 1), drawn.targets.split(drawn.answer_steps, 1), strict=True
    )
    assert [bit_error(*answer).item() for answer in answers] == [0, 0, 0, 100]


def test_bit_error_of_more_steps_than_the_answers_is_refused():
    with pytest.raises(ValueError, match=r"logits have shape \(2, 5, 8\), targets \(2, 1, 8\)"):
        bit_error(torch.zeros(2, 5, 8), torch.zeros(2, 1, 8))


# Errors


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("copi", "near names: copy"),
        ("recall", "associative_recall"),
        ("xyz", "the tasks are " + ", ".join(TASKS)),
    ],
)
def test_an_unknown_task_is_refused_with_near_names(name, near):
    with pytest.raises(ValueError, match=f"task {name!r} is unknown; .*{near}") as error:
        episode(2, tasks=("copy", name), generator=seeded())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch=0), "batch is 0; it must be at least 1"),
        (dict(tasks_per_sequence=0), "tasks_per_sequence is 0; it must be at least 1"),
        (dict(longest=1), "longest is 1; it must be at least 2"),
        (dict(tasks=()), "number of tasks is 0; it must be at least 1"),
    ],
)
def test_a_size_too_small_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        episode(**(dict(batch=2) | arguments), generator=seeded())
