"""Progress bars."""

from tqdm import tqdm

from utils.processes import this_process


def progress(*args, hidden=False, **kwargs):
    """A progress bar; of several processes only the first one shows its own, as they share a terminal."""
    return tqdm(*args, disable=hidden or this_process().rank > 0, **kwargs)
