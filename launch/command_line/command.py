"""What every command does around its work."""

from collections.abc import Callable
from functools import wraps

from launch.command_line.errors import fail
from launch.command_line.output import keep_writing


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Makes a function a command, which outlives the reader of its output.

    A full disk or a file that cannot be read ends it with one line and status 1.
    """

    @wraps(main)
    def run() -> None:
        keep_writing()
        try:
            main()
        except OSError as error:
            fail(error, status=1)

    return run
