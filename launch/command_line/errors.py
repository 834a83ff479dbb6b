"""How a command refuses wrong use: one line on stderr, and an exit status."""

import os
import shlex
import socket
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

NAME_BYTES = 255
"""The longest name of a file that Linux takes."""


def fail(message: object, *, status: int = 2) -> NoReturn:
    """Ends the process with one line on stderr: status 2 for wrong use, 1 for a run that failed."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(status)


def check_paths(arguments: Any) -> None:
    """Raises ValueError for a path that the system does not accept, such as one with a name that is too long.

    Args:
        arguments: a dataclass of arguments, which may hold others.
    """
    for field in fields(arguments):
        value = getattr(arguments, field.name)
        if is_dataclass(value):
            check_paths(value)
        for path in value if isinstance(value, tuple) else [value]:
            if isinstance(path, Path):
                _check_path(path)


def _check_path(path: Path) -> None:
    if any(len(os.fsencode(name)) > NAME_BYTES for name in path.parts):
        raise ValueError(f"{path}: has a name of more than {NAME_BYTES} bytes; give a shorter one")
    try:
        path.exists()
    except OSError as error:
        raise ValueError(f"{path}: cannot be used as a path ({error.strerror})") from error


def check_output(file: Path) -> None:
    """Raises ValueError if a file cannot be written. It is left as it is: what it holds, or missing."""
    if not file.absolute().parent.is_dir():
        raise ValueError(f"{file}: its folder does not exist; make it or name another file")
    if file.is_dir():
        raise ValueError(f"{file}: is a folder; name a file")
    if file.exists() and not file.is_file():
        return  # a pipe or a device: opening and closing it would be noticed
    new = not file.exists()
    try:
        file.open("ab").close()
        if new:
            file.unlink()
    except OSError as error:
        raise ValueError(f"{file}: cannot be written ({error.strerror}); name another file") from error


def typed(program: str, *words: object) -> str:
    """Returns a command as it has to be typed, with quotes where the shell needs them."""
    return f"{program} {shlex.join(map(str, words))}"


def check_address(address: str) -> None:
    """Raises ValueError if nobody listens at host:port. Ray itself would wait there for many minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--address {address!r} must be auto or host:port, as in 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--address {address}: nobody answers there ({error}); start Ray with: ray start --head"
        ) from error


def has_gpu() -> bool:
    """Returns True if PyTorch sees a GPU on this machine."""
    # A machine without these devices (NVIDIA, AMD, Windows Subsystem for Linux) has no GPU, and torch is not loaded.
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def require_gpu(flag: str, instead: str) -> None:
    """Raises ValueError if there is no GPU, with the flag that asks for one and the flag to give instead."""
    if not has_gpu():
        raise ValueError(
            f"{flag} asks for a GPU, but PyTorch sees none here; give {instead} to run on the CPU"
        )
