"""A discrete-event simulation of workers that share one parameter server."""

import heapq
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Queue:
    pushes_per_second: float
    waiting: float
    """Share of a worker's time that its push spends in the queue."""
    staleness: float
    """Mean number of pushes served between a worker's last answer and its next push."""


def simulate(workers: int, rollouts: np.ndarray, service: float, *, pushes: int, seed: int) -> Queue:
    """Simulates workers that compute, wait for their turn, are served, and begin again.

    The first half of the pushes is a warm-up.

    Args:
        rollouts: seconds of measured rollouts, from which the time to compute is drawn.
        service: seconds that the server takes for a push.
    """
    random = np.random.default_rng(seed)
    times = iter(random.choice(rollouts, size=workers + pushes))
    # The workers do not all start in step.
    arrivals = [(next(times) * random.random(), worker) for worker in range(workers)]
    heapq.heapify(arrivals)
    free = start = waited = 0.0
    stale, counted = 0, range(pushes // 2, pushes)
    answered = [0] * workers  # pushes served when a worker got its last answer
    for served in range(pushes):
        arrival, worker = heapq.heappop(arrivals)
        begin = max(arrival, free)
        if served in counted:
            waited += begin - arrival
            stale += served - answered[worker]
        free = begin + service
        if served not in counted:
            start = free
        answered[worker] = served + 1
        heapq.heappush(arrivals, (free + next(times), worker))
    elapsed = free - start
    return Queue(len(counted) / elapsed, waited / (workers * elapsed), stale / len(counted))
