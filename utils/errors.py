"""The error that a user can correct, and text for its message."""

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
LONGEST_COMPARED = 100  # characters of a text whose nearest names are looked for

# In messages of torch, CUDA's libraries, PIL and libjpeg when memory ends
NO_MEMORY = re.compile("out of memory|can't allocate memory|insufficient memory|ALLOC_FAILED|bad_alloc", re.IGNORECASE)

# How to name another folder than the one that was looked in
OUTPUT_FLAG = "give --output_dir"
STORE_FLAG = "give --store_dir or set $STORE_DIR"
SPLITS_FLAG = "give --model_dir or --store_dir, or set $STORE_DIR"


class UserError(Exception):
    """States in one line what is wrong and how to fix it; a script prints it and exits with status 2."""


class Interrupted(KeyboardInterrupt):
    """An interrupt that states in words what the work leaves behind."""


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


def looked_in(folder: Path | str, flag: str) -> str:
    """A folder that lacks something, for a message: absolute, with the flag that names another one.

    A script that runs in another folder than usual looks at the wrong place, and nothing has to be computed again.
    """
    return f"{Path(folder).absolute()} (if elsewhere, {flag})"


def nearest(text: str, names: Mapping[Key, Sequence[str]], most: int = 3, similarity: float = 0.7) -> list[Key]:
    """The keys of the names that are most similar to a text, the most similar first.

    Parameters
    ----------
    text
        Its first LONGEST_COMPARED characters are compared.
    names
        The spellings of each key: its whole name first, and parts of it that may stand for it.
    most
        The number of keys.
    similarity
        The least similarity, by difflib's ratio.
    """
    matcher = difflib.SequenceMatcher(b=text[:LONGEST_COMPARED])
    similarities: dict[Key, tuple[float, float]] = {}  # of the most similar spelling, and of the whole name
    for key, spellings in names.items():
        ratios = []
        for spelling in spellings:
            matcher.set_seq1(spelling)
            ratios.append(matcher.ratio())
        if max(ratios) >= similarity:
            similarities[key] = max(ratios), ratios[0]
    return sorted(similarities, key=similarities.__getitem__, reverse=True)[:most]


def nearest_hint(text: str, names: Mapping[str, Sequence[str]], most: int = 3) -> str:
    """The nearest names as the end of a message; empty if none is similar."""
    near = nearest(text, names, most)
    return f"; similar: {', '.join(map(printable, near))}" if near else ""


def listed(names: Sequence[str], most: int = 5, separator: str = ", ", more: str = " and {} more") -> str:
    """The first ``most`` names of a list; if there are others, ``more`` states their number."""
    rest = len(names) - most
    return separator.join(names[:most]) + (more.format(rest) if rest > 0 else "")
