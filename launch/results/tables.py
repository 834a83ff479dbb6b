"""How tables are laid out, and kept beside the runs that they are about."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.files import write_atomically

TABLE = "results.md"
"""The table of an experiment or sweep, as it was printed."""


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Returns the lines of a table. The first `left` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def interval_words(interval: Sequence[float] | None, digits: int) -> str:
    """Returns "low to high", or "" if there is no interval."""
    return "" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def show_and_keep(table: str, folder: Path, write_more: Callable[[], None]) -> None:
    """Prints a table, writes it to results.md and calls `write_more`. If a file cannot be written, it prints a warning."""
    print(f"\n{table}", flush=True)
    try:
        write_atomically(folder / TABLE, f"# Results\n\n```text\n{table}\n```\n".encode())
        write_more()
    except OSError as error:
        print(f"warning: the results are not all in {folder}: {error}", file=sys.stderr)
