"""The C library's allocator: freed memory is kept for the next use, instead of being returned to the system each time.

By default glibc returns large blocks at once. On a CPU a network allocates its activations anew in every batch, and the
system has to clear each page before it can be used again: half of the time of a small network.
"""

import ctypes
import os

M_TRIM_THRESHOLD = -1  # numbers of mallopt's parameters
M_MMAP_THRESHOLD = -3

LARGEST_BLOCKS = (2**30, 2**25)  # bytes; larger blocks are still returned at once. glibc before 2.35 takes the second
MOST_KEPT = 2**29  # bytes that may be free at the end of the heap


def keep_freed_memory() -> bool:
    """Let glibc keep up to ``MOST_KEPT`` bytes at the end of the heap; returns whether it does.

    Nothing is changed where the C library is another one, as on macOS, Windows and Linux with musl, or where glibc
    refuses the thresholds. Processes forked later inherit them.
    """
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION")
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):
        return False
    if not (library or "").startswith("glibc"):
        return False
    accepted = any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_BLOCKS)
    return bool(accepted and mallopt(M_TRIM_THRESHOLD, MOST_KEPT))
