"""Effects: the effects of the parts of splits on the logits, one file for each split, rho and replacement."""

from typing import Any

from utils.store.measurements import OfSplits, split_at


class Effects(OfSplits):
    """``results_quantitative/effect/``: one JSON for each split, rho and replacement of its parts (``to``)."""

    kind = "effect"
    word = "effect"
    version = 2
    setting = "to"
    again = "delete it and run get_results.py --get_effect again"
    needed = frozenset(
        (
            *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "precision", "decoding"),
            *("concepts_from", "found_by", "assignment"),
            *("channel", "concepts", "concept_names", "background", "split_by", "rho", "to", "validation", "images"),
            "evaluation",
        )
    )

    def name(self, entry: dict[str, Any]) -> str:
        return f"{split_at(entry)}_{entry['to']}"
