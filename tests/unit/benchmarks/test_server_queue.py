"""The simulated queue of the parameter server against queueing theory."""

import numpy as np
import pytest

from tests.benchmarks.server_queue import simulate


@pytest.mark.parametrize("workers", [1, 5, 11, 12, 40])
def test_with_constant_times_the_server_or_the_workers_limit_the_rate(workers):
    queue = simulate(workers, np.array([1.0]), 0.1, pushes=4_000, seed=0)
    assert queue.pushes_per_second == pytest.approx(min(workers / 1.1, 10.0), rel=2e-3)
    # Up to 11 workers there is no queue.
    assert queue.waiting == pytest.approx(max(0.0, 1 - 11 / workers), abs=2e-3)
    assert queue.staleness == pytest.approx(workers - 1, abs=0.01)


@pytest.mark.parametrize("workers", [2, 8, 20])
def test_with_random_times_the_queue_obeys_littles_law_and_the_known_bounds(workers):
    rollouts = np.random.default_rng(1).exponential(1.0, size=20_000)
    queue = simulate(workers, rollouts, 0.1, pushes=40_000, seed=2)
    rate = queue.pushes_per_second
    # By Little's law each of the workers computes, is served or waits at any time.
    assert workers == pytest.approx(rate * (rollouts.mean() + 0.1) + workers * queue.waiting, rel=0.02)
    # With exponential service the queue is longer. Erlang's formula for a finite source gives its rate.
    weights = [1.0]
    for waiting in range(workers):
        weights.append(weights[-1] * (workers - waiting) * 0.1)
    exponential = (1 - weights[0] / sum(weights)) / 0.1
    assert exponential * 0.99 < rate < min(workers / 1.1, 10.0) * 1.01
