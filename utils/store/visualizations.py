"""Feature visualizations: images that maximise the activation of a channel and its parts; stored, as they are slow."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from utils.store.measurements import OfSplits, split_at


class Visualizations(OfSplits):
    """``results_quantitative/visualization/``: one JSON for each split, rho, number of steps and of seeds.

    A visualization is a dictionary: what was made (``split``, the stem of the split file, its ``split_sha256``,
    ``rho``, ``steps``, ``seeds``, ``transform`` ...); ``pictures``, for the original channel and each new one a list of
    PNG files as base64; and ``reached``, the mean activation of each.
    """

    kind = "visualization"
    word = "visualization"
    version = 1
    setting = "steps"
    again = "delete it and run get_results.py --get_feature_visualization again"
    needed = frozenset(
        (
            *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "channel", "concepts", "rho"),
            *("steps", "seeds", "pictures", "reached", "evaluation"),
        )
    )

    def name(self, entry: dict[str, Any]) -> str:
        return f"{split_at(entry)}_steps{entry['steps']}_seeds{entry['seeds']}"

    def pictures(self, entry: dict[str, Any]) -> np.ndarray:
        """The pictures of a visualization: uint8 array [K + 1, seeds, H, W, 3]."""
        return np.stack([[_picture(png) for png in row] for row in entry["pictures"]])


def packed(pictures: np.ndarray) -> list[list[str]]:
    """Pictures [K + 1, seeds, H, W, 3] as lists of PNG files in base64."""
    return [[_png(picture) for picture in row] for row in pictures]


def _picture(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def _png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
