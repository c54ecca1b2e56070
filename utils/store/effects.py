"""Effects: what stage 4 has measured of splits behind the layer, one file for each split, rho and replacement."""

from utils.store.measurements import OfSplits, split_at


class Effects(OfSplits):
    """``results_quantitative/effect/``: one JSON for each split, rho and what its parts are replaced by (``to``)."""

    kind, word, version, setting = "effect", "effect", 2, "to"
    again = "delete it and run get_results.py --get_effect again"
    needed = frozenset(
        (
            *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "precision", "decoding"),
            *("concepts_from", "found_by", "assignment"),
            *("channel", "concepts", "concept_names", "background", "split_by", "rho", "to", "validation", "images"),
            "evaluation",
        )
    )

    def name(self, entry):
        return f"{split_at(entry)}_{entry['to']}"
