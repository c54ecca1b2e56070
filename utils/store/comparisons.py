"""Comparisons: several methods on the same channels, measured by stage 4; one file for each candidates file."""

from math import nan
from pathlib import Path
from typing import Any

from utils.store.measurements import Measurements, without_nan
from utils.store.scores import NEW

OF_CONCEPTS = (NEW.ap, NEW.pearson, NEW.auroc, NEW.auroc_others)
MONOSEMANTICITY = ("monosemanticity", "monosemanticity_corrected", "monosemanticity_strongest")
PATCHES = ("patch_intra", "patch_inter", "patch_any")
OF_CHANNELS = ("ari", *MONOSEMANTICITY, *PATCHES)


class Comparisons(Measurements):
    """``results_quantitative/comparison/``: one JSON for each candidates file and its settings.

    A comparison is a dictionary: ``name``, that of its file; what was measured and how; ``methods``, the name and needs
    of each; ``concepts`` and ``channels``, rows of ``stages.comparison.compare``; ``reconstructions``, the
    Reconstruction of each method that has one; ``problems``, what could not be measured.
    """

    kind = "comparison"
    word = "comparison"
    version = 3
    again = "delete it and run get_results.py --compare again"
    needed = frozenset(
        (
            *("name", "run", "layer", "weights_sha256", "precision", "decoding", "validation_sha256"),
            *("training_sha256", "images", "asked", "available_channels", "settings", "methods", "concepts"),
            *("channels", "reconstructions", "problems", "evaluation"),
        )
    )

    def name(self, entry: dict[str, Any]) -> str:
        return entry["name"]

    def read(self, path: Path) -> dict[str, Any]:
        """The comparison of a file; a value that was not measured is NaN."""
        comparison = super().read(path)
        for rows, values in (("concepts", OF_CONCEPTS), ("channels", OF_CHANNELS)):
            for row in comparison[rows]:
                row |= {name: nan if row.get(name) is None else row[name] for name in values}
        for reconstruction in comparison["reconstructions"].values():
            reconstruction |= {name: nan for name, value in reconstruction.items() if value is None}
        return comparison

    def read_all(self) -> list[dict[str, Any]]:
        return sorted(map(self.read, self.paths()), key=self.name)

    def write(self, entry: dict[str, Any]) -> None:
        super().write(without_nan(entry))
