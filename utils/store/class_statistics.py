"""Stage 2's part of the store: class means of the layer's input, counts of relevant images, modes within classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import UserError
from utils.store.candidates import settings_suffix
from utils.store.files import (
    DIGEST,
    Layout,
    damage_is_one_line,
    digest_array,
    is_made_from,
    read_arrays,
    write_arrays,
)
from utils.store.unfinished import Unfinished

AGAIN = "delete it and run get_cosine_similarities.py again"


class ClassStore:
    """``results_get_cosine_similarities/`` of the store: what stage 2 computes from a complete training store.

    The first axis of all tensors is [all images, correctly classified images]. T is the number of classes.

    Parameters
    ----------
    store_dir : Path or str
    run : str
    meta : dict
        ``meta.json`` of the training store.
    """

    def __init__(self, store_dir: Path | str, run: str, meta: dict[str, Any]) -> None:
        self.folder = Path(store_dir) / "results_get_cosine_similarities"
        self._run = run
        self._meta = meta
        self._origin = digest_array(meta)

    def means_path(self) -> Path:
        return self.folder / f"{self._run}_class_means.npz"

    def relevant_path(self, tau: float) -> Path:
        return self.folder / f"{self._run}_relevant_images_required{tau}.npz"

    def write_means(self, mean_inputs: torch.Tensor, images: torch.Tensor) -> None:
        """Write class means [2, 3, T, C_in, taps] over [all, even, odd] indices, and numbers of images [2, 3, T]."""
        arrays = {"mean_inputs": mean_inputs.numpy(), "images": images.numpy()}
        write_arrays(self.means_path(), {**arrays, "origin": self._origin})

    def write_relevant(self, tau: float, counts: torch.Tensor) -> None:
        """Write counts of relevant images [2, T, C]; the file contains tau, so that a renamed file is detected."""
        arrays = {"tau": np.array([tau]), "relevant": counts.numpy(), "origin": self._origin}
        write_arrays(self.relevant_path(tau), arrays)

    def read_means(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Class means and numbers of images, as in ``write_means``; None if stage 2 has not run yet."""
        num_outputs = self._meta["num_outputs"]
        inputs = (self._meta["num_inputs"], self._meta["num_taps"])
        layout: Layout = {
            "mean_inputs": (np.float64, (2, 3, num_outputs, *inputs)),
            "images": (np.int64, (2, 3, num_outputs)),
        }
        arrays = self._read(self.means_path(), layout)
        if arrays is None:
            return None
        return torch.from_numpy(arrays["mean_inputs"]), torch.from_numpy(arrays["images"])

    def require_means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``read_means``; UserError if stage 2 has not run yet."""
        means = self.read_means()
        if means is None:
            raise UserError(f"there is no {self.means_path()} for this store: run get_cosine_similarities.py first")
        return means

    def read_relevant(self, tau: float) -> torch.Tensor | None:
        """Counts of relevant images [2, T, C] for ``tau``, or None if they have not been counted yet."""
        path = self.relevant_path(tau)
        arrays = self._read(path, self._layout_of_relevant())
        if arrays is None:
            return None
        with damage_is_one_line(path, AGAIN):
            if arrays["tau"][0] != tau:
                raise ValueError(f"it is of tau {arrays['tau'][0]}")
        return torch.from_numpy(arrays["relevant"])

    def has_relevant(self, tau: float) -> bool:
        """Whether the images have been counted for ``tau``; the counts are not read."""
        layout = {**self._layout_of_relevant(), "origin": DIGEST}
        return is_made_from(self.relevant_path(tau), self._origin, layout, AGAIN)

    def _layout_of_relevant(self) -> Layout:
        shape = (2, self._meta["num_outputs"], self._meta["num_channels"])
        return {"tau": (np.float64, (1,)), "relevant": (np.int64, shape)}

    def require_relevant(self, tau: float) -> torch.Tensor:
        """``read_relevant``; UserError if they have not been counted yet."""
        counts = self.read_relevant(tau)
        if counts is None:
            path = self.relevant_path(tau)
            raise UserError(f"there is no {path} for this store: run get_cosine_similarities.py first")
        return counts

    def unfinished_statistics(self, needs_means: bool, taus: Sequence[float]) -> Unfinished:
        """What is kept of a pass over the chunks that computes means, if they are needed, and counts for ``taus``."""
        made_from = {"meta": self._meta, "means": needs_means, "taus": list(taus)}
        return Unfinished(self.folder / f"{self._run}_statistics.npz", made_from)

    def modes_path(self, *, tau: float, p: float, only_correct: bool, min_images: int, only_above_mean: bool) -> Path:
        suffix = settings_suffix(only_correct, min_images, only_above_mean)
        return self.folder / f"{self._run}_modes_required{tau}_p{p}{suffix}.npz"

    def write_modes(
        self, settings: dict[str, Any], channels: np.ndarray, classes: np.ndarray, cosines: np.ndarray
    ) -> None:
        """Write the cosines between the two modes of n (channel, class), see ``utils.method.gamma.cosine_of_modes``.

        ``settings`` are the settings that chose the relevant classes.
        """
        arrays = {"channels": channels, "classes": classes, "cosines": cosines}
        arrays |= {"settings": digest_array(settings), "origin": self._origin}
        write_arrays(self.modes_path(**settings), arrays)

    def read_modes(self, settings: dict[str, Any], channels: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
        """Cosines [n] as in ``write_modes``, NaN for a class without two modes.

        None if they have not been computed, or were computed for other channels and classes.
        """
        path = self.modes_path(**settings)
        layout: Layout = {
            "channels": (np.int64, (None,)),
            "classes": (np.int64, (None,)),
            "cosines": (np.float64, (None,)),
            "settings": DIGEST,
        }
        arrays = self._read(path, layout)
        if arrays is None:
            return None
        with damage_is_one_line(path, AGAIN):
            if not np.array_equal(arrays["settings"], digest_array(settings)):
                raise ValueError("it is of other settings")
        same = np.array_equal(arrays["channels"], channels) and np.array_equal(arrays["classes"], classes)
        return arrays["cosines"] if same else None

    def _read(self, path: Path, layout: Layout) -> dict[str, np.ndarray] | None:
        """The arrays of a file; None if it is missing or from a store that has been replaced since."""
        layout = {**layout, "origin": DIGEST}
        return read_arrays(path, layout, AGAIN) if is_made_from(path, self._origin, layout, AGAIN) else None
