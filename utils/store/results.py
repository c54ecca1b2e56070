"""Results: what stage 4 has measured of each split, one file each, from which all tables and summaries are made."""

from utils.store.measurements import OfSplits, split_at


class Results(OfSplits):
    """``results_quantitative/pairs/``: one JSON for each split, rho and tau.

    A result is a dictionary: what was measured (``split``, the stem of the split file, and its ``split_sha256``,
    ``run``, ``layer``, ``channel``, ``concepts``, ``concept_names``, ``cosines``, ``rho``, ``tau``, ``validation`` ...)
    and ``images``, for each concept what was kept of its images.
    """

    kind, word, version, setting = "pairs", "result", 4, "tau"
    again = "delete it and evaluate the split again"
    needed = frozenset(
        (
            *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "precision", "decoding"),
            *("concepts_from", "found_by", "assignment"),
            *("only_correct", "channel", "concepts", "concept_names", "background", "split_by", "division", "cosines"),
            *("rho", "tau", "validation", "images", "evaluation"),
        )
    )

    def name(self, entry):
        return f"{split_at(entry)}_required{entry['tau']}"
