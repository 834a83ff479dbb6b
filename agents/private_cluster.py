"""The Ray cluster of one process: on this machine alone, for nobody else, and gone with its files at the end."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from agents.errors import TrainingError

LONGEST_FOLDER = 28
"""Bytes of the path of a folder. Up to 79 are added for Ray's sockets, and Linux takes 107 for a socket."""


@contextmanager
def private_cluster(*, cpus: int, **settings: Any) -> Iterator[None]:
    """Starts a cluster and connects to it. In the end its processes are stopped and its files are removed.

    Args:
        settings: further arguments of `ray.init`.

    Raises:
        TrainingError: Ray cannot start here.
    """
    folder = _make_folder()
    # The token stays in the environment, which only this user can read. So no home folder is needed for it, and
    # other programs that look for a cluster cannot connect to this one.
    with _environment(
        RAY_AUTH_MODE=os.environ.get("RAY_AUTH_MODE", "token"), RAY_AUTH_TOKEN=secrets.token_hex(32)
    ):
        try:
            try:
                with _on_loopback(), _in_own_sessions():
                    ray.init(
                        address="local",
                        num_cpus=cpus,
                        include_dashboard=False,
                        # Ray opens its folder to all users.
                        _temp_dir=str(folder / "r"),
                        **settings,
                    )
            except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
                raise TrainingError(f"Ray cannot start here: {error}") from error
            yield
        finally:
            _shut_down(folder)


def _make_folder() -> Path:
    """Makes a folder for Ray's sockets and logs. Raises TrainingError if that is impossible."""
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_FOLDER:
        parent = "/tmp"
    try:
        return Path(tempfile.mkdtemp(prefix="ray-", dir=parent))
    except OSError as error:
        raise TrainingError(
            f"{parent}: Ray cannot keep its files there ({error.strerror}); set RAY_TMPDIR to a folder that can be "
            f"written and whose path has at most {LONGEST_FOLDER} bytes"
        ) from error


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Gives Ray these variables of the environment. Ray reads some of them only when told to."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    _read_environment()
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value
        _read_environment()


def _read_environment() -> None:
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


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


@contextmanager
def _in_own_sessions() -> Iterator[None]:
    """Starts Ray's processes in sessions of their own.

    A terminal, `timeout` and batch systems send a signal to a whole process group. Ray must outlive it, so that a run
    can write its last checkpoint. The kernel ends Ray when this process ends.
    """
    before = services.ConsolePopen
    services.ConsolePopen = partial(subprocess.Popen, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = before


def _shut_down(folder: Path) -> None:
    """Stops Ray. Its folder is removed, unless one of its processes died: then the logs in there say why."""
    node = ray._private.worker._global_node
    died = [name for name, _ in node.dead_processes()] if node is not None else []
    ray.shutdown(wait_for_processes=True)
    if died:
        print(f"warning: {', '.join(died)} of Ray died; the logs are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
