"""One run's folder, and the lock that keeps a second process out of it.

    runs/ALE-Pong-v5-neurocoder-20260131-142501/
      run.lock       held by the live process, says which one it is
      config.json    the settings, as they were resolved
      checkpoints/   see `agents.runs.checkpoints`
      result.json    of a run that has ended, or failed.json

Neither torch nor Ray is imported, so that a run which cannot start says so at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from agents.runs.checkpoints import list_checkpoints, sync_folder, write_durably

RESULT, FAILED = "result.json", "failed.json"
"""The file that a finished run leaves in its folder, and that of a run that failed."""


class RunFolderError(ValueError):
    """A run folder that cannot be used; one line that names it, the reason and the way out."""


def _take_lock(path: Path) -> int:
    """A descriptor that holds the lock. Raises RunFolderError if a live process holds it, or OSError.

    The kernel frees the lock with the descriptor, so a killed run leaves none behind. Python's descriptors
    are not inherited by programs that the run starts; those could outlive it and keep the lock.
    """
    lock = os.open(path / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


class RunFolder:
    """A run's folder, locked from `create` or `open` until `close` or the death of the process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new run's folder. Raises RunFolderError if it cannot be made or holds a run with a checkpoint already."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path, _take_lock(path))
        except OSError as error:
            raise RunFolderError(
                f"{path}: cannot make a run folder ({error}); name another --run-dir"
            ) from error
        if folder.checkpoints.exists() and list_checkpoints(folder.checkpoints):
            folder.close()
            raise RunFolderError(
                f"{path}: holds a run already; continue it with --resume or name another --run-dir"
            )
        folder.checkpoints.mkdir(exist_ok=True)  # one that ended before its first checkpoint left it
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take an existing run's folder. Raises RunFolderError if it is none or a live process has it."""
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
        """Free the lock; the folder stays. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def write_json_atomically(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Write `value` as JSON to `path`; a reader sees the old or the new text, whole. Raises OSError."""
    data = (json.dumps(value, indent=2) + "\n").encode()
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a dead process that had our process id
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def default_run_path(env: str, head: str, root: Path = Path("runs")) -> Path:
    """`root/<env>-<head>-<date>-<time>`, local time, with -2, -3, ... appended if taken. Nothing is made."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", f"{env}-{head}").strip("-.")  # ALE/Pong-v5 is one folder, not two
    path = first = root / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 2
    while path.exists():
        path = first.with_name(f"{first.name}-{number}")
        number += 1
    return path


def _git_commit() -> str | None:
    """The short commit hash, with -dirty appended if tracked files differ from it."""
    # No tag matches, so `describe` prints the hash alone.
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def software_versions() -> dict[str, str | None]:
    """Versions of what computes a run and the working directory's git commit; None for what is missing."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("torch", "ray", "gymnasium", "ale-py"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions | {"commit": _git_commit()}
