"""Feature visualizations: images made to activate a channel and its parts, kept so that none is made twice."""

import base64
import io

import numpy as np
from PIL import Image

from utils.store.files import damage_is_one_line
from utils.store.measurements import OfSplits, split_at


class Visualizations(OfSplits):
    """``results_quantitative/visualization/``: one JSON for each split, rho, number of steps and of seeds.

    A visualization is a dictionary: what was made (``split``, the stem of the split file, and its ``split_sha256``,
    ``rho``, ``steps``, ``seeds``, ``transform`` ...), ``pictures``, for the original channel and each new one a list of
    png files as base64, and ``reached``, the mean activation of each.
    """

    kind, word, version, setting = "visualization", "visualization", 1, "steps"
    again = "delete it and run get_results.py --get_feature_visualization again"
    needed = frozenset(
        (
            *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "channel", "concepts", "rho"),
            *("steps", "seeds", "pictures", "reached", "evaluation"),
        )
    )

    def name(self, entry):
        return f"{split_at(entry)}_steps{entry['steps']}_seeds{entry['seeds']}"

    def pictures(self, entry):
        """The pictures of a visualization: uint8 array [K + 1, seeds, H, W, 3]."""
        with damage_is_one_line(self.path(entry), self.again):
            rows = [[Image.open(io.BytesIO(base64.b64decode(one))) for one in row] for row in entry["pictures"]]
            return np.stack([[np.asarray(one.convert("RGB")) for one in row] for row in rows])


def packed(pictures):
    """Pictures [K + 1, seeds, H, W, 3] as lists of png files in base64."""
    return [[_png(picture) for picture in row] for row in pictures]


def _png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
