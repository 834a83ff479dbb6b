"""A Ray cluster that somebody else has started."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.utils import read_ray_address
from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]

from agents.errors import TrainingError

PROJECT = Path(__file__).parents[1]
PACKAGES = [str(PROJECT / name) for name in ("agents", "envs", "launch", "neurocoder")]
"""They are sent to nodes that lack them."""


@contextmanager
def shared_cluster(address: str, **settings: Any) -> Iterator[None]:
    """Connects to a cluster, and disconnects in the end.

    Args:
        address: host:port, ray://host:port, or "auto" for the cluster that RAY_ADDRESS names, else the one that
            `ray start` has started on this machine.
        settings: further arguments of `ray.init`.

    Raises:
        TrainingError: no cluster answers there within seconds, or it wants another token.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        try:
            place = address
            if address == "auto":
                place = os.environ.get("RAY_ADDRESS") or cluster_of_this_machine()
                maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            ensure_token_if_auth_enabled(create_token_if_missing=False)
            if "://" not in place:
                _ask(place)
            ray.init(address=place, runtime_env={"py_modules": PACKAGES}, **settings)
        except ray.exceptions.AuthenticationError as error:
            raise TrainingError(
                f"the Ray cluster at --address {address} wants its token; set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN to the token or RAY_AUTH_TOKEN_PATH to a file with it (without them it is read from "
                "~/.ray/auth_token)"
            ) from error
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            cause = " ".join(str(error).split())
            raise TrainingError(
                f"no Ray cluster at --address {address} ({cause}); start one with: ray start --head"
            ) from error
        yield
    finally:
        ray.shutdown()


def cluster_of_this_machine() -> str:
    """Returns the address of the cluster on this machine. Raises ValueError if there is none.

    Private clusters, which nobody else may use, are passed over: only they listen on the loopback interface without
    being named in Ray's file of the latest cluster.
    """
    services.find_gcs_addresses.cache_clear()
    named = read_ray_address()
    running = services.find_gcs_addresses()
    if named in running:
        return named
    for place in running:
        if not ip_address(place.rpartition(":")[0].strip("[]")).is_loopback:
            return place
    raise ValueError("none was started on this machine")


def _ask(place: str) -> None:
    """Asks the cluster at host:port for its name. Raises an error of Ray if it does not answer within ten seconds.

    Ray itself would try for minutes, and not be stopped by a signal.
    """
    with _without_log():
        Config.initialize('{"gcs_rpc_server_connect_timeout_s": 2, "py_gcs_connect_timeout_s": 6}')
        GcsClient(address=place).internal_kv_get(b"session_name", b"session", timeout=6)


@contextmanager
def _without_log() -> Iterator[None]:
    """Drops what Ray's C++ code writes to stderr: here each attempt that failed. An error says what they come to."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)
