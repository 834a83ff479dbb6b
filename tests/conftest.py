"""Settings of Ray for all tests."""

import os
import tempfile

import pytest

folder = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config: pytest.Config) -> None:
    """Gives Ray a temporary folder for its token and its logs, and switches off its usage reports.

    Subprocesses inherit both.

    Ray reads the environment when a test module imports it. Its sockets need a short path.
    """
    config.stash[folder] = tempfile.TemporaryDirectory(prefix="ray-")
    path = config.stash[folder].name
    token = os.path.join(path, "token")
    with open(token, "w") as file:
        file.write("0" * 64)
    os.environ |= dict(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token, RAY_TMPDIR=path, RAY_USAGE_STATS_ENABLED="0"
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[folder].cleanup()
