"""Stage 2's part of the store: class means of the layer's input, counts of relevant images, modes within classes."""

from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError
from utils.store.candidates import settings_suffix
from utils.store.files import damage_is_one_line, json_digest, read_arrays, write_arrays

AGAIN = "delete it and run get_cosine_similarities.py again"


class ClassStore:
    """``results_get_cosine_similarities/`` of the store: what stage 2 derives from a complete stage 1.

    The first dimension of everything is [all images, correctly classified ones]; T classes.
    """

    def __init__(self, store_dir, run, meta):
        self.folder, self._run, self._meta = Path(store_dir) / "results_get_cosine_similarities", run, meta
        self._origin = _digest(meta)

    def means_path(self):
        return self.folder / f"{self._run}_class_means.npz"

    def relevant_path(self, tau):
        return self.folder / f"{self._run}_relevant_images_required{tau}.npz"

    def write_means(self, mean_inputs, images):
        """Write class means [2, 3, T, C_in, taps] of [all, even, odd] indices, and numbers of images [2, 3, T]."""
        arrays = {"mean_inputs": mean_inputs.numpy(), "images": images.numpy()}
        write_arrays(self.means_path(), {**arrays, "origin": self._origin})

    def write_relevant(self, tau, counts):
        """Write counts of relevant images [2, T, C]; tau is part of the content, not of the name alone."""
        arrays = {"tau": np.array([tau]), "relevant": counts.numpy(), "origin": self._origin}
        write_arrays(self.relevant_path(tau), arrays)

    def read_means(self):
        """Class means and numbers of images, as ``write_means`` has them; None where stage 2 has not run yet."""
        num_outputs, inputs = self._meta["num_outputs"], (self._meta["num_inputs"], self._meta["num_taps"])
        layout = {"mean_inputs": (np.float64, (2, 3, num_outputs, *inputs)), "images": (np.int64, (2, 3, num_outputs))}
        arrays = self._read(self.means_path(), layout)
        if arrays is None:
            return None
        with damage_is_one_line(self.means_path(), AGAIN):
            images = arrays["images"]
            if images.min() < 0 or (images[:, 0] != images[:, 1] + images[:, 2]).any():
                raise ValueError("its numbers of images are impossible")
            if not np.isfinite(arrays["mean_inputs"][images > 0]).all():
                raise ValueError("its means are not finite")
        return torch.from_numpy(arrays["mean_inputs"]), torch.from_numpy(images)

    def require_means(self):
        """``read_means``; UserError where stage 2 has not run yet."""
        means = self.read_means()
        if means is None:
            raise UserError(f"there is no {self.means_path()} for this store: run get_cosine_similarities.py first")
        return means

    def read_relevant(self, tau):
        """Counts of relevant images [2, T, C] for ``tau``, or None where they were not counted yet."""
        path = self.relevant_path(tau)
        counts = (2, self._meta["num_outputs"], self._meta["num_channels"])
        arrays = self._read(path, {"tau": (np.float64, (1,)), "relevant": (np.int64, counts)})
        if arrays is None:
            return None
        with damage_is_one_line(path, AGAIN):
            if arrays["tau"][0] != tau:
                raise ValueError(f"it is of tau {arrays['tau'][0]}")
            if arrays["relevant"].min() < 0:
                raise ValueError("its counts are impossible")
        return torch.from_numpy(arrays["relevant"])

    def modes_path(self, *, tau, p, only_correct, min_images, only_above_mean):
        suffix = settings_suffix(only_correct, min_images, only_above_mean)
        return self.folder / f"{self._run}_modes_required{tau}_p{p}{suffix}.npz"

    def write_modes(self, settings, channels, classes, cosines):
        """Write the cosine of two modes of a channel within a class, arrays [n]; ``settings`` chose the classes."""
        arrays = {"channels": channels, "classes": classes, "cosines": cosines}
        arrays |= {"settings": _digest(settings), "origin": self._origin}
        write_arrays(self.modes_path(**settings), arrays)

    def read_modes(self, settings, channels, classes):
        """Cosines [n] as ``write_modes`` has them, NaN where there are no two modes; None where they are not there, or
        of other channels and classes."""
        path, count = self.modes_path(**settings), (None,)
        layout = {"channels": (np.int64, count), "classes": (np.int64, count), "cosines": (np.float64, count)}
        arrays = self._read(path, {**layout, "settings": (np.uint8, (len(self._origin),))})
        if arrays is None:
            return None
        with damage_is_one_line(path, AGAIN):
            if not np.array_equal(arrays["settings"], _digest(settings)):
                raise ValueError("it is of other settings")
            if not (np.isnan(arrays["cosines"]) | (np.abs(arrays["cosines"]) <= 1 + 1e-9)).all():
                raise ValueError("its cosines are impossible")
        same = np.array_equal(arrays["channels"], channels) and np.array_equal(arrays["classes"], classes)
        return arrays["cosines"] if same else None

    def _read(self, path, layout):
        if not path.is_file():
            return None
        arrays = read_arrays(path, {**layout, "origin": (np.uint8, (len(self._origin),))}, AGAIN)
        if not np.array_equal(arrays["origin"], self._origin):
            return None  # made from a store that has since been replaced
        return arrays


def _digest(content):
    return np.frombuffer(bytes.fromhex(json_digest(content)), dtype=np.uint8)
