"""Invented reports of workers to the parameter server."""

from typing import Any

import torch

from agents.a3c.messages import Report
from agents.a3c.parameter_server import ParameterServer

ROLLOUT_TAGS = {
    "losses/policy", "losses/value", "losses/entropy", "losses/orthogonality",
    "gradients/norm", "gradients/norm_convolutions", "gradients/norm_lstm", "gradients/norm_actor",
    "gradients/norm_critic", "values/explained_variance", "values/advantage_rms", "policy/kl",
    "network/dead_features", "network/lstm_deviation", "network/saturated_gates",
}  # fmt: skip
"""Tags of the scalars in a report, apart from the share of each action."""


def next_report(server: ParameterServer, *, worker: int = 0, steps: int = 20, **changes: Any) -> Report:
    """Makes a report of the worker's next rollout with the server's newest weights."""
    attempt, number = server._latest.get(worker, (0, 0))
    fields = dict(
        worker=worker,
        attempt=attempt,
        number=number + 1,
        version=server.updates,
        steps=steps,
        scalars={"losses/policy": 1.0},
        seconds={"exchange": 0.1, "play": 1.0, "gradient": 1.0},
        episodes=[],
        random_state=torch.zeros(1),
    )
    return Report(**fields | changes)
