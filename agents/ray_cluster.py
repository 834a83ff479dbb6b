"""Joining a Ray cluster, or starting one on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from agents.errors import TrainingError


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Makes a cluster that is started within listen on this machine's loopback alone, not on all of its networks.

    Ray does this only on Windows and macOS, where it does not support clusters. It reads the setting when imported.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[name]
        ray_constants.ENABLE_RAY_CLUSTER = before


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


def connect(address: str | None, *, cpus: int) -> bool:
    """Joins the Ray cluster at `address` ("auto": the one running on this machine), or starts a local one with
    `cpus` CPUs.

    Returns:
        True if this call connected; False if the process already was, inside a Ray task for example.

    Raises:
        TrainingError: no cluster at `address`.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's default prints a warning
    quiet: dict[str, Any] = dict(logging_level="ERROR", log_to_driver=False)
    if address is None:
        print("starting Ray, which takes some seconds ...", flush=True)
        with _on_loopback():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        return True
    print(f"joining the Ray cluster at {address} ...", flush=True)
    project = Path(__file__).parents[1]
    folders = ("agents", "envs", "launch", "neurocoder")
    packages = [str(project / name) for name in folders]  # for nodes that lack them
    try:
        ray.init(address=address, runtime_env={"py_modules": packages}, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        cause = " ".join(str(error).split())
        raise TrainingError(
            f"no Ray cluster at --address {address} ({cause}); start one with: ray start --head"
        ) from error
    return True
