"""Output whose reader may go away: `... | head`, a closed terminal, a log on a full disk."""

import errno
import os
import sys
from typing import Any, TextIO


class LastingStream:
    """A text stream that drops what cannot be written, so that no run ends for the sake of a line."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self, error: OSError) -> None:
        """Lets what is still buffered go, if nobody will ever read it. A full disk may have room again."""
        if error.errno in (errno.EPIPE, errno.EIO):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def keep_writing() -> None:
    """Makes this process outlive the reader of its output."""
    sys.stdout = LastingStream(sys.stdout)
    sys.stderr = LastingStream(sys.stderr)
