"""What all commands share: how they end, and how they answer to signals."""

import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn


def fail(message: object, *, status: int = 2) -> NoReturn:
    """Ends the process with one line on stderr: status 2 for wrong use, 1 for a run that failed."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(status)


def check_address(address: str) -> None:
    """ValueError if nobody listens at host:port: Ray itself would wait there for many minutes."""
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
    """Whether PyTorch sees a GPU on this machine."""
    # Without any of these there is none (NVIDIA, AMD, Windows Subsystem for Linux), and no need to load torch to see it.
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def require_gpu(flag: str) -> None:
    """ValueError, naming the flag that asks for a GPU, where there is none."""
    if not has_gpu():
        raise ValueError(f"{flag} asks for a GPU, but PyTorch sees none here; leave it out to run on the CPU")


class Interruption:
    """Notes the first SIGINT or SIGTERM, so that a run can write its last checkpoint; the second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.listen()

    def listen(self) -> None:
        """Takes over the signals; again after a library, Ray for one, has put its own handler there."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def release(self) -> None:
        """From here on a signal ends the process at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number

    @property
    def exit_status(self) -> int:
        """As a shell reports a process ended by the signal: 130 for SIGINT, 143 for SIGTERM; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal
