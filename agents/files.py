"""Writes small files so that a crash or a full disk never leaves half of one under its name."""

import json
import os
from pathlib import Path
from typing import Any


def write_durably(path: Path, data: bytes) -> None:
    """Writes a new file and waits until the disk has it. Raises OSError."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until the disk has the names in a folder, which syncing files does not promise. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """The hidden name under which this process prepares what becomes `path`."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def json_bytes(value: dict[str, Any] | list[Any]) -> bytes:
    """`value` as the indented JSON text of a file."""
    return (json.dumps(value, indent=2) + "\n").encode()


def write_json_atomically(path: Path, value: dict[str, Any] | list[Any]) -> None:
    """Writes `value` as JSON to `path`, as `write_atomically` does. Raises OSError."""
    write_atomically(path, json_bytes(value))


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file. A reader sees the old or the new content, whole. Raises OSError with the name of the file."""
    temporary = temporary_path(path)
    # A dead process that had our process id may have left one.
    temporary.unlink(missing_ok=True)
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    except OSError as error:
        # Its own message has no name or that of the temporary file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
