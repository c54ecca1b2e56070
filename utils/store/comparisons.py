"""Comparisons: what stage 4 has measured of several methods on the same channels, one file for each candidates file."""

from math import nan

from utils.store.files import damage_is_one_line
from utils.store.measurements import Measurements, without_nan

OF_CONCEPTS = ("auroc_all", "ap_all", "auroc_others")
MONOSEMANTICITY = ("monosemanticity", "monosemanticity_corrected", "monosemanticity_strongest")
PATCHES = ("patch_intra", "patch_inter", "patch_any")
OF_CHANNELS = ("ari", *MONOSEMANTICITY, *PATCHES)


class Comparisons(Measurements):
    """``results_quantitative/comparison/``: one JSON for each candidates file and what was asked of it.

    A comparison is a dictionary: ``name``, its file's; what was measured and how; ``needs``, of each method, in words
    and as flags; ``concepts`` and ``channels``, rows of ``stages.comparison.compare``; ``problems``, what could not be
    measured.
    """

    kind, word, version = "comparison", "comparison", 1
    again = "delete it and run get_results.py --compare again"
    needed = frozenset(
        (
            *("name", "run", "layer", "weights_sha256", "precision", "decoding", "validation_sha256"),
            *("training_sha256", "images", "asked", "settings", "methods", "concepts", "channels", "problems"),
            "evaluation",
        )
    )

    def name(self, entry):
        return entry["name"]

    def read(self, path):
        found = super().read(path)
        with damage_is_one_line(path, self.again):
            for rows, values in (("concepts", OF_CONCEPTS), ("channels", OF_CHANNELS)):
                for row in found[rows]:
                    row |= {name: nan if row.get(name) is None else row[name] for name in values}
        return found

    def read_all(self):
        return sorted(map(self.read, self.paths()), key=lambda one: one["name"])

    def write(self, entry):
        super().write(without_nan(entry))
