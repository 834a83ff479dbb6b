"""Joining a Ray cluster, or starting one on this machine."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from agents.errors import TrainingError
from agents.private_cluster import private_cluster
from agents.shared_cluster import shared_cluster


def beside_driver() -> Any:
    """Returns the scheduling strategy of an actor on the driver's node, in its placement group if there is one."""
    group = get_current_placement_group()
    if group is not None:
        return PlacementGroupSchedulingStrategy(group)
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def available_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Returns the number of cores that this process may use, at least 1.

    Args:
        quota: the file in which Linux states how much of the processor a container may use, as "200000 100000" or "max 100000".
    """
    cores = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, int(allowed) // int(period)))
    except (OSError, ValueError):
        return cores


def check_room(count: int, what: str, *, cpus: float, gpus: float) -> None:
    """Raises TrainingError if the cluster cannot hold this many actors. Ray itself would wait silently."""
    shares = {kind: share for kind, share in (("CPU", cpus), ("GPU", gpus)) if share}

    def places(node: dict[str, Any]) -> int:
        amounts = {kind: node["Resources"].get(kind, 0) for kind in shares}
        # Several actors can share one GPU, but none can have parts of two.
        return min(
            int(
                amounts[kind] * int(1 / share + 1e-6)
                if kind == "GPU" and share < 1
                else amounts[kind] / share
            )
            for kind, share in shares.items()
        )

    room = sum(places(node) for node in ray.nodes() if node["Alive"])
    if room < count:
        each = " and ".join(f"{share:g} {kind}{'s' * (share > 1)}" for kind, share in shares.items())
        raise TrainingError(
            f"{count} {what} of {each} each are asked for, but the Ray cluster has room for {room}; ask for fewer or less"
        )


def connect(address: str | None, *, cpus: int) -> ExitStack:
    """Joins the Ray cluster at `address`, or starts a private one with `cpus` CPUs if it is None.

    Args:
        address: host:port, ray://host:port, or "auto" for the cluster that RAY_ADDRESS names, else the one that
            `ray start` has started on this machine.

    Returns:
        What disconnects when it is closed. It does nothing if the process was connected before, as in a Ray task.

    Raises:
        TrainingError: no cluster at `address`, or Ray cannot start.
    """
    with ExitStack() as connection:
        if not ray.is_initialized():
            # Ray's default prints a warning.
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            quiet: dict[str, Any] = dict(logging_level="ERROR", log_to_driver=False)
            with _own_handler():
                if address is None:
                    print("starting Ray, which takes some seconds ...", flush=True)
                    connection.enter_context(private_cluster(cpus=cpus, **quiet))
                else:
                    print(f"joining the Ray cluster at {address} ...", flush=True)
                    connection.enter_context(shared_cluster(address, **quiet))
        return connection.pop_all()


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keeps the program's handler of SIGTERM, if it has one. Ray installs two that end the process."""
    handler, before = signal.getsignal(signal.SIGTERM), ray._private.utils.set_sigterm_handler
    if handler is signal.SIG_DFL:
        yield
        return
    ray._private.utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = before
        signal.signal(signal.SIGTERM, handler)  # instead of that of Ray's C++ code
