"""How this process' memory is given back to the system."""

import ctypes
import functools

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LARGEST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next step, as much as a process once had in use.

    By default it gives large tensors back at once, and the system clears every page of the next ones. Elsewhere than on glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, LARGEST)
