"""Progress bars."""

import os

from tqdm import tqdm


def progress(*args, **kwargs):
    """A progress bar; of several processes (torchrun) only the first one shows its own, as they share a terminal."""
    return tqdm(*args, disable=int(os.environ.get("RANK") or 0) > 0, **kwargs)
