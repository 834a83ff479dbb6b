import os
import tempfile

import pytest


@pytest.fixture(scope="session", autouse=True)
def ray_leaves_home_alone():
    """Ray keeps its token and its logs in a folder of the tests' own and reports to nobody; in subprocesses, too."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray-") as folder,  # a short path: Ray puts sockets below it
    ):
        token = os.path.join(folder, "token")
        with open(token, "w") as file:
            file.write("0" * 64)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", token)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield
