"""The error that a user can correct, and text for its message."""

import re
from collections.abc import Sequence

# In messages of torch, CUDA's libraries, PIL and libjpeg when memory ends
NO_MEMORY = re.compile("out of memory|can't allocate memory|insufficient memory|ALLOC_FAILED|bad_alloc", re.IGNORECASE)


class UserError(Exception):
    """States in one line what is wrong and how to fix it; a script prints it and exits with status 2."""


WORKER_DIED = "a process that decodes images was killed (memory or /dev/shm short?): use fewer --num_workers"


# --------------------------------------------------------------------------------------------------------------------
# Text from outside the program, for example names of folders, made safe for a terminal


def printable(text: str) -> str:
    """``text`` with everything that is not printable escaped.

    The name of a folder may hold control sequences of a terminal, or bytes that are not text.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str, length: int = 40) -> str:
    """``text``, after ``length`` characters cut and marked with dots."""
    return text if len(text) <= length else f"{text[:length]}..."


def quoted(text: str) -> str:
    """``text`` for a message: in quotes, printable, and cut where it is long."""
    return repr(shortened(text))


def listed(names: Sequence[str], most: int = 5, separator: str = ", ", more: str = " and {} more") -> str:
    """The first ``most`` names of a list; if there are others, ``more`` states their number."""
    rest = len(names) - most
    return separator.join(names[:most]) + (more.format(rest) if rest > 0 else "")
