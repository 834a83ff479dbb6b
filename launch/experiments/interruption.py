"""How a command answers to SIGINT and SIGTERM."""

import signal
from types import FrameType


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
