"""The file of a run's curves, which TensorBoard reads. A full disk costs points, not the run."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


@cache
def _silence_writer_threads() -> None:
    """Suppresses the tracebacks of TensorBoard's writer threads.

    Each error is raised again in the thread that adds points. This lasts until the process ends. A thread
    whose disk was full may fail once more after its curves are closed.
    """
    print_exception = threading.excepthook

    def print_unless_writer(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__name__ != "_AsyncWriterThread":
            print_exception(arguments)

    threading.excepthook = print_unless_writer


class CurveFile:
    """The curves of one run. On a full disk there is a warning, and points are lost until a `flush` can write again."""

    def __init__(self, folder: Path, *, step: int, warn: Callable[[str], None]):
        """
        Args:
            step: that the run starts from. Points that an earlier process wrote beyond it are hidden.
            warn: is called with one line when curves cannot be written.
        """
        _silence_writer_threads()
        self.folder, self.warn = folder, warn
        # Broken until the file is open. Each time that the disk is full has one warning.
        self.broken, self.warned = True, False
        with self._losing_points():
            self._open(purge_step=step + 1)

    def _open(self, purge_step: int | None = None) -> None:
        self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        self.broken = False

    @contextmanager
    def _losing_points(self) -> Iterator[None]:
        """Reports a failed write. Nothing more is written to that file, because half a point may stand at its end."""
        try:
            yield
        except OSError as error:
            self.broken = True
            if not self.warned:
                self.warn(
                    f"curves cannot be written to {self.folder} ({error}); points are lost until they can"
                )
            self.warned = True

    def add(self, method: Callable[..., None], *point: Any) -> None:
        """Adds a point by a method of `SummaryWriter`, unless the file has failed."""
        with self._losing_points():
            if not self.broken:
                method(self.writer, *point)

    def flush(self) -> None:
        """Writes all points to the disk. A disk that was full is tried again."""
        with self._losing_points():
            reopened = self.broken
            if reopened:
                self._remove_empty_files()
                self._open()
            self.writer.flush()
            # A new file may fail at its first point only.
            self.warned = self.warned and reopened

    def _remove_empty_files(self) -> None:
        """Removes what earlier attempts on a full disk have left."""
        for path in self.folder.glob("events.out.tfevents.*"):
            if path.stat().st_size == 0:
                path.unlink()

    def close(self) -> None:
        with self._losing_points():
            if not self.broken:
                self.writer.close()
