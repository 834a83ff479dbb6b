"""How a command answers to SIGINT and SIGTERM."""

import signal
from types import FrameType


class Interruption:
    """Notes the first SIGINT or SIGTERM, so that a run can write its last checkpoint; the second one ends it at
    once.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.listen()

    def listen(self) -> None:
        """Takes over the signals. To be called again after a library, such as Ray, has installed its own handler."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def release(self) -> None:
        """Gives the signals back: from now on one ends the process at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM. 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal
