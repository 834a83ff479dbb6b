"""The metrics against a matrix worked by hand and plain loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.continual.metrics import (
    accuracy_on_seen_tasks,
    average_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learned,
)

R = torch.tensor([[0.9, 0.6, 0.4], [0.7, 1.0, 0.5], [0.8, 0.7, 0.9]])
RANDOM = torch.tensor([0.5, 0.5, 0.25])
METRICS = [average_accuracy, learned, backward_transfer, forgetting]


def test_a_matrix_worked_by_hand():
    def value(metric, *arguments):
        return pytest.approx(metric(R, *arguments).item(), abs=1e-6)

    assert value(average_accuracy) == (0.8 + 0.7 + 0.9) / 3
    assert value(learned) == (0.9 + 1.0 + 0.9) / 3
    assert value(backward_transfer) == ((0.8 - 0.9) + (0.7 - 1.0)) / 2
    assert value(forgetting) == ((0.9 - 0.8) + (1.0 - 0.7)) / 2
    assert value(forward_transfer, RANDOM) == ((0.6 - 0.5) + (0.5 - 0.25)) / 2
    assert accuracy_on_seen_tasks(R).tolist() == pytest.approx([0.9, 0.85, 0.8], abs=1e-6)


@given(seed=st.integers(0, 2**32), tasks=st.integers(2, 6))
def test_every_metric_equals_a_loop_over_tasks(seed, tasks):
    generator = torch.Generator().manual_seed(seed)
    R = torch.rand(tasks, tasks, generator=generator, dtype=torch.float64)
    random = torch.rand(tasks, generator=generator, dtype=torch.float64)
    r, last, earlier = R.tolist(), R[-1].tolist(), range(tasks - 1)

    def close(actual, expected):
        return math.isclose(actual.item(), expected, rel_tol=1e-12, abs_tol=1e-12)

    assert close(average_accuracy(R), sum(last) / tasks)
    assert close(learned(R), sum(r[i][i] for i in range(tasks)) / tasks)
    assert close(backward_transfer(R), sum(last[i] - r[i][i] for i in earlier) / (tasks - 1))
    best = [max(row[i] for row in r) for i in earlier]
    assert close(forgetting(R), sum(best[i] - last[i] for i in earlier) / (tasks - 1))
    gains = [r[i - 1][i] - random[i].item() for i in range(1, tasks)]
    assert close(forward_transfer(R, random), sum(gains) / (tasks - 1))
    for t, seen in enumerate(accuracy_on_seen_tasks(R)):
        assert close(seen, sum(r[t][: t + 1]) / (t + 1))


def test_leading_axes_are_seeds():
    both = torch.stack((R, R.flip(0)))
    for metric in METRICS:
        torch.testing.assert_close(metric(both), torch.stack([metric(R), metric(R.flip(0))]))
    torch.testing.assert_close(accuracy_on_seen_tasks(both)[1], accuracy_on_seen_tasks(R.flip(0)))
    of_both = forward_transfer(both, RANDOM.expand(2, -1))
    torch.testing.assert_close(of_both[0], forward_transfer(R, RANDOM))


def test_with_one_task_accuracies_exist_and_transfer_is_not_a_number():
    single = torch.tensor([[0.75]])
    assert average_accuracy(single) == learned(single) == accuracy_on_seen_tasks(single) == 0.75
    assert backward_transfer(single).isnan() and forgetting(single).isnan()
    assert forward_transfer(single, torch.tensor([0.5])).isnan()


def test_results_are_in_double_precision():
    assert all(metric(R).dtype == torch.float64 for metric in METRICS)
    assert forward_transfer(R, RANDOM).dtype == accuracy_on_seen_tasks(R).dtype == torch.float64


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 0)])
def test_a_matrix_that_is_not_square_is_an_error(shape):
    with pytest.raises(ValueError, match="R has shape"):
        average_accuracy(torch.zeros(shape))


def test_as_many_random_accuracies_as_tasks_are_needed():
    with pytest.raises(ValueError, match="random has shape"):
        forward_transfer(R, torch.zeros(2))
