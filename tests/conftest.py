import os
import tempfile

import pytest

folder = pytest.StashKey[tempfile.TemporaryDirectory]()


def pytest_configure(config: pytest.Config) -> None:
    """Ray keeps its token and its logs in a folder of the tests' own and reports to nobody; in subprocesses, too.

    Set before a test module imports Ray, which looks only then.
    """
    config.stash[folder] = tempfile.TemporaryDirectory(
        prefix="ray-"
    )  # a short path: Ray puts sockets below it
    path = config.stash[folder].name
    token = os.path.join(path, "token")
    with open(token, "w") as file:
        file.write("0" * 64)
    os.environ |= dict(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token, RAY_TMPDIR=path, RAY_USAGE_STATS_ENABLED="0"
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[folder].cleanup()
