"""What glibc does with freed memory. Without glibc these functions do nothing."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # from glibc's malloc.h
LARGEST_THRESHOLD = 2**31 - 1
RETURNED_BYTES = 2**21


def keep_freed_memory() -> None:
    """Keeps freed memory in the process, for one that needs the same large tensors again at every step.

    By default they return to the system at once, which has to clear every page of the next ones.
    """
    _mallopt({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: LARGEST_THRESHOLD})


def return_freed_memory() -> None:
    """Returns tensors of two megabytes or more to the system when they are freed, for a process that rarely needs one.

    By default glibc learns from the first ones to keep such sizes, and gaps make its heap grow.
    """
    _mallopt({M_MMAP_THRESHOLD: RETURNED_BYTES})


def _mallopt(options: dict[int, int]) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)
