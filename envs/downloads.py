"""Downloads a file from the first mirror that has it, checked by its SHA-256."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TIMEOUT = 20.0
"""Seconds a mirror may stay silent."""


@contextmanager
def folder_for_downloads(path: Path) -> Iterator[None]:
    """Makes a folder and those above it. Where what follows fails, those that are new and empty are removed again.

    Raises OSError if it cannot be made.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()
        raise


def download(urls: Sequence[str], sha256: str, target: Path) -> None:
    """Downloads `target` whole, or leaves nothing of it behind.

    A file that has this SHA-256 already is kept.

    Args:
        urls: the addresses of the file, tried in this order.
        sha256: its SHA-256 in hexadecimal digits.

    Raises:
        ValueError: no address has the file; one line with the reason for each.
        OSError: the file cannot be written.
    """
    # Imported here, because callers usually have their files already.
    import pooch
    from requests import RequestException

    def fetch(url: str, *rest: Any) -> None:
        print(f"downloading {url}", file=sys.stderr, flush=True)
        pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 20)(url, *rest)

    # pooch would report each download in a long line of its own.
    pooch.get_logger().setLevel("WARNING")
    failures = []
    for url in urls:
        try:
            pooch.retrieve(url, sha256, target.name, target.parent, downloader=fetch)
            return
        except (RequestException, ValueError) as error:
            failures.append(f"{url} ({_reason(error)})")
    raise ValueError(f"cannot be downloaded from {' or '.join(failures)}")


def _reason(error: BaseException) -> str:
    """Returns the message of the first error in a chain, in one line: it says more than those that follow."""
    while error.__context__ is not None:
        error = error.__context__
    return " ".join(str(error).split()) or type(error).__name__
