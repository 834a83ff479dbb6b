"""The folder of one run, and the lock that keeps a second process out of it.

    runs/ALE-Pong-v5-neurocoder-20260131-142501/
      run.lock       held by the live process, with its id and machine
      config.json    the settings, as they were resolved
      checkpoints/   see `agents.runs.checkpoints`
      result.json    of a run that has ended, or failed.json

Neither torch nor Ray is imported, so that a run that cannot start says so at once.
"""

import fcntl
import itertools
import json
import os
import platform
import re
import socket
import subprocess
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Self

from agents.runs.checkpoints import list_checkpoints

RESULT, FAILED = "result.json", "failed.json"
"""The file that a finished run leaves in its folder, and that of a run that failed."""
CONFIG_KEYS = {"a3c", "rllib", "supervised", "continual"}
"""The keys of a config.json under which the settings of a run can be."""


class RunFolderError(ValueError):
    """A run folder cannot be used. The message is one line that names the folder, the reason and what to do."""


def _take_lock(path: Path) -> int:
    """Returns a descriptor that holds the lock. Raises RunFolderError if a live process holds it; OSError.

    The kernel frees the lock with the descriptor, so a killed run leaves no lock behind. Programs that the
    run starts do not inherit the descriptor. They could outlive the run and keep the lock.
    """
    lock = os.open(path / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The lock holds without the name of its owner, for which a full disk may have no room.
        with suppress(OSError):
            os.ftruncate(lock, 0)
            os.write(lock, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    except BlockingIOError as error:
        owner = os.read(lock, 200).decode(errors="replace").strip()
        os.close(lock)
        reason = f"in use by a live run ({owner or 'just starting'})"
        raise RunFolderError(f"{path}: {reason}; wait for it, stop it or name another --run-dir") from error
    except OSError:
        os.close(lock)
        raise
    return lock


def _is_config(path: Path) -> bool:
    """Returns True if the file is a run's config.json, or missing."""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and not CONFIG_KEYS.isdisjoint(config)


class RunFolder:
    """The folder of a run, locked from `create` or `open` until `close` or the death of the process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def create(cls, path: Path) -> Self:
        """Makes the folder of a new run.

        Raises:
            RunFolderError: it cannot be made, a live process has it, or it holds a run with a checkpoint
                already.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path, _take_lock(path))
        except OSError as error:
            raise RunFolderError(
                f"{path}: cannot make a run folder ({error}); name another --run-dir"
            ) from error
        reason = None
        if folder.checkpoints.exists() and list_checkpoints(folder.checkpoints):
            reason = "holds a run already; continue it with --resume"
        elif not _is_config(path / "config.json"):
            reason = "holds a config.json that is not of a run; move it"
        if reason is not None:
            folder.close()
            raise RunFolderError(f"{path}: {reason} or name another --run-dir")
        try:
            # A run that ended before its first checkpoint has left this folder.
            folder.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            folder.close()
            raise RunFolderError(
                f"{path}: cannot make a run folder ({error}); name another --run-dir"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the folder of an existing run. Raises RunFolderError if it is none, or a live process has it."""
        if not (path / "checkpoints").is_dir():
            raise RunFolderError(
                f"{path}: not a run folder, it has no checkpoints/; name one that a run has made"
            )
        try:
            return cls(path, _take_lock(path))
        except OSError as error:
            raise RunFolderError(f"{path}: cannot lock the run folder ({error}); make it writable") from error

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def close(self) -> None:
        """Frees the lock. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def new_folder(*words: str, root: Path = Path("runs")) -> Path:
    """Makes `root/<words>-<date>-<time>`, in local time, and returns it.

    -2, -3, ... is appended if the name is taken. No two processes get the same folder.

    Raises:
        RunFolderError: the folder cannot be made.
    """
    # ALE/Pong-v5 becomes one folder, not two.
    name = re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(words)).strip("-.")
    path = first = root / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(2):
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            path = first.with_name(f"{first.name}-{number}")
        except OSError as error:
            raise RunFolderError(f"{path}: cannot make a run folder ({error}); name a --run-dir") from error
    raise AssertionError


def git_commit(project: Path = Path(__file__).parents[2]) -> str | None:
    """Returns the short commit hash of a checkout, with -dirty appended if tracked files differ from it.

    None if the folder is not the top of a checkout: another repository around it says nothing about this code.
    """
    # No tag matches, so `describe` prints the hash alone.
    commands = ["git rev-parse --show-toplevel", "git describe --always --dirty --exclude=*"]
    try:
        top, commit = (
            subprocess.run(
                c.split(), cwd=project, capture_output=True, text=True, timeout=5, check=True
            ).stdout
            for c in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() if Path(top.strip()).resolve() == project.resolve() else None


def software_versions() -> dict[str, str | None]:
    """Returns the versions of what computes a run, and this code's git commit; None for what is missing."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "ray", "gymnasium", "ale-py"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions | {"commit": git_commit()}
