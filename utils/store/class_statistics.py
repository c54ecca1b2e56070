"""The store: paths and formats of everything that one stage leaves for the next."""

from pathlib import Path

import numpy as np
import torch

from utils.store.files import json_digest, read_arrays, write_arrays

# --------------------------------------------------------------------------------------------------------------------
# Stage 2: class means, and counts of relevant images


class ClassStore:
    """``results_get_cosine_similarities/`` of the store: what stage 2 derives from a complete stage 1."""

    def __init__(self, store_dir, run, meta):
        self._folder, self._run, self._meta = Path(store_dir) / "results_get_cosine_similarities", run, meta
        self._origin = np.frombuffer(bytes.fromhex(json_digest(meta)), dtype=np.uint8)

    def _layouts(self):
        num_outputs, num_channels = self._meta["num_outputs"], self._meta["num_channels"]
        inputs = (self._meta["num_inputs"], self._meta["num_taps"])
        return {
            "means": {"mean_inputs": (np.float64, (2, num_outputs, *inputs)), "images": (np.int64, (2, num_outputs))},
            "relevant": {"relevant": (np.int64, (2, num_outputs, num_channels))},
        }

    def means_path(self):
        return self._folder / f"{self._run}_class_means.npz"

    def relevant_path(self, tau):
        return self._folder / f"{self._run}_relevant_images_required{tau}.npz"

    def channels_path(self, pairs_path):
        """Path of the table of all channels, named like the table of pairs."""
        return self._folder / f"{pairs_path.stem}_channels.csv"

    def write(self, statistics, tau):
        write_arrays(
            self.means_path(),
            {
                "mean_inputs": statistics.mean_inputs().numpy(),
                "images": statistics.images.numpy(),
                "origin": self._origin,
            },
        )
        write_arrays(self.relevant_path(tau), {"relevant": statistics.relevant.numpy(), "origin": self._origin})

    def read_means(self):
        """Class means [2, T, C_in, taps] and numbers of images [2, T], or None where stage 2 has not run yet."""
        arrays = self._read(self.means_path(), "means")
        return arrays and (arrays["mean_inputs"], arrays["images"])

    def read_relevant(self, tau):
        """Counts of relevant images [2, T, C] for ``tau``, or None where they were not counted yet."""
        arrays = self._read(self.relevant_path(tau), "relevant")
        return arrays and arrays["relevant"]

    def _read(self, path, kind):
        if not path.is_file():
            return None
        layout = {**self._layouts()[kind], "origin": (np.uint8, (len(self._origin),))}
        arrays = read_arrays(path, layout, "delete it and run get_cosine_similarities.py again")
        if not np.array_equal(arrays["origin"], self._origin):
            return None  # made from a store that has since been replaced
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
