"""Progress bars."""

from typing import Any

from tqdm import tqdm

from utils.processes import this_process


def progress(*args: Any, hidden: bool = False, **kwargs: Any) -> tqdm:
    """A progress bar; of several processes only the first one shows its own, as they share a terminal."""
    return tqdm(*args, disable=hidden or this_process().rank > 0, **kwargs)
