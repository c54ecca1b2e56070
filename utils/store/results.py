"""Results: the fractions that stage 4 has measured of each split, one file each; all summaries are made from them."""

from typing import Any

from utils.store.measurements import OfSplits, split_at


class Results(OfSplits):
    """``results_quantitative/pairs/``: one JSON for each split, rho and tau.

    A result is a dictionary: what was measured (``split``, the stem of the split file, its ``split_sha256``, ``run``,
    ``layer``, ``channel``, ``concepts``, ``concept_names``, ``cosines``, ``rho``, ``tau``, ``validation`` ...), and
    ``images``, the values of the images of each concept.
    """

    kind = "pairs"
    word = "result"
    version = 4
    setting = "tau"
    again = "delete it and evaluate the split again"
    needed = frozenset(
        (
            *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "precision", "decoding"),
            *("concepts_from", "found_by", "assignment"),
            *("only_correct", "channel", "concepts", "concept_names", "background", "split_by", "division", "cosines"),
            *("rho", "tau", "validation", "images", "evaluation"),
        )
    )

    def name(self, entry: dict[str, Any]) -> str:
        return f"{split_at(entry)}_required{entry['tau']}"
