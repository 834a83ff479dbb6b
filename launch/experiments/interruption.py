"""How a command answers to SIGINT, SIGTERM and SIGHUP."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STDOUT = 1
STOPPING = "stopping: waiting for the step in progress and the last checkpoint; a second signal stops at once, without it"


class Interruption:
    """Notes the first signal to stop, so that a run can write its last checkpoint. The second one ends the run at once.

    A terminal that closes sends SIGHUP, which nohup makes a process ignore.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self.numbers.append(signal.SIGHUP)
        self.listen()

    def listen(self) -> None:
        """Takes over the signals. To be called again after a library, such as Ray, has installed its own handler."""
        for number in self.numbers:
            signal.signal(number, self._handle)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raises KeyboardInterrupt for a signal within, and for one that came before. For work that saves nothing."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.signal = number
            raise KeyboardInterrupt

        if self.signal is not None:
            raise KeyboardInterrupt
        for number in self.numbers:
            signal.signal(number, interrupt)
        yield
        self.listen()

    def release(self) -> None:
        """Gives the signals back: from now on one ends the process at once."""
        for number in self.numbers:
            signal.signal(number, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
        # Not by print, whose stream may be in use where the signal came.
        with suppress(OSError):
            # On a terminal the cursor may be behind a progress line.
            os.write(STDOUT, ("\n" * os.isatty(STDOUT) + STOPPING + "\n").encode())

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal
