"""How a command answers to SIGINT, SIGTERM and SIGHUP."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Thread
from types import FrameType

STDOUT = 1
STOPPING = "stopping: waiting for the step in progress and the last checkpoint; a second signal stops at once, without it"
Handler = Callable[[int, FrameType | None], object] | int | None

SAME_SIGNAL = 0.1
"""Seconds in which two signals count as one. `timeout`, for one, sends its signal to the process and to its group."""


class Stopped(SystemExit):
    """A signal has arrived. The code is what a shell reports of a process that it ended, such as 130 for SIGINT."""


def stop_at_once() -> None:
    """From now on a signal ends the process at once, with the line "stopped".

    This is for the time before there is something to save. An exception would not do while modules are imported:
    some of them catch it or turn it into another.
    """
    _handle_with(_stop_at_once)


@contextmanager
def unwinding(advice: str = "") -> Iterator[None]:
    """Within, a signal raises Stopped, so that what has begun is undone. Says "stopped", and the advice if there is one."""
    before = _handle_with(_unwind)
    try:
        yield
    except Stopped:
        print(f"stopped; {advice}" if advice else "stopped", flush=True)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interruption:
    """Notes the first signal to stop, so that a run can write its last checkpoint. The second one ends the process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        Thread(target=self._await_second, daemon=True).start()
        self.listen()

    def listen(self) -> None:
        """Takes over the signals, from `unwinding` too."""
        _handle_with(self._note)

    @contextmanager
    def raised(self, advice: str = "") -> Iterator[None]:
        """Within, a signal raises Stopped, also one that came before. For work that leaves nothing to save."""
        with unwinding(advice):
            if self.signal is not None:
                raise Stopped(self.exit_status)
            yield

    def joining(self, address: str | None) -> AbstractContextManager[None]:
        """Is for the work of connecting to Ray. Joining a cluster at an address may take long, so it is as `raised`."""
        return nullcontext() if address is None else self.raised()

    def release(self) -> None:
        """Gives the signals back: from now on one ends the process at once."""
        stop_at_once()
        signal.set_wakeup_fd(-1)
        os.close(self._writer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            return
        self.signal = number
        # Not by print, whose stream may be in use where the signal came.
        with suppress(OSError):
            # On a terminal the cursor may be behind a progress line.
            os.write(STDOUT, ("\n" * os.isatty(STDOUT) + STOPPING + "\n").encode())

    def _await_second(self) -> None:
        """Ends the process at the second signal, even while the main thread is in a library, where no handler runs."""
        first: float | None = None
        while number := os.read(self._reader, 1):
            if number[0] not in _numbers():
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > SAME_SIGNAL:
                os._exit(128 + number[0])
        os.close(self._reader)

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal


def _numbers() -> list[int]:
    """Returns the signals to answer. A terminal that closes sends SIGHUP, which nohup makes a process ignore."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


def _handle_with(handler: Handler) -> dict[int, Handler]:
    """Installs a handler of all signals. Returns the handlers before."""
    return {number: signal.signal(number, handler) for number in _numbers()}


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    # The signal may have come while something was printed.
    with suppress(OSError, RuntimeError):
        print("stopped", flush=True)
    os._exit(128 + number)


def _unwind(number: int, frame: FrameType | None) -> None:
    raise Stopped(128 + number)
