"""Tables and pictures as files: the old or the new content, whole, also when the disk is full."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from agents.files import write_atomically


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table. Raises OSError."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def write_picture(path: Path, figure: Any, *, dpi: int) -> None:
    """Writes a matplotlib figure as PNG. Raises OSError."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=dpi)
    write_atomically(path, picture.getvalue())
