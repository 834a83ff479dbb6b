"""What glibc does with freed memory. Elsewhere nothing happens."""

import ctypes
import functools

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
LARGEST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> None:
    """For a process that needs the same large tensors again at every step: they stay with it, as many as it once had in use.

    By default they go back to the system at once, which clears every page of the next ones.
    """
    _mallopt({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST})


@functools.cache
def return_freed_memory() -> None:
    """For a process that needs a large tensor now and then: from two megabytes on it goes back to the system when freed.

    By default glibc learns from the first ones to keep such sizes, and then its heap grows by gaps.
    """
    _mallopt({M_MMAP_THRESHOLD: 2**21})


def _mallopt(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)
