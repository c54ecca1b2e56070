"""What the separation of a channel's split says in words, from made-up rows."""

import numpy as np
import pytest

from tests.entries import separation_row
from utils.report.separation_headline import headline, mean_separation
from utils.report.verdicts import verdict


def measured(*after, **values):
    """Rows of concepts with these average precisions after, which stand above permuted weights if they exceed 0.5."""
    common = {"ap_all_original": 0.1, "ap_all_weights_permuted": 0.3, "ap_all_real_target": np.nan, **values}
    q_null = [np.nan if np.isnan(ap) else 0.01 if ap > 0.5 else 0.05 for ap in after]
    return [
        separation_row(concept=k + 1, ap_all=ap, name=f"name {k}", q_null=q, **common)
        for k, (ap, q) in enumerate(zip(after, q_null, strict=True))
    ]


@pytest.mark.parametrize(
    ("after", "rank", "label", "words"),
    [
        ((0.6, 0.8), 0, "clear, 2 of 2", "Mean AP 0.100 before the split, 0.700 after it, 0.300 for the null"),
        ((0.6, 0.5), 1, "partly, 1 of 2", " Not above it: name 1."),
        ((0.3, 0.2), 2, "doubtful, 0 of 2", " Choosing inputs alone may explain this result."),
        ((0.6, np.nan), 0, "clear, 1 of 1", "0.600 after"),
    ],
)
def test_a_verdict_begins_with_the_headline_of_the_channel(after, rank, label, words):
    rows = measured(*after)
    found, leading = verdict(2, True, True, rows), headline(rows)
    assert (found.rank, found.label) == (rank, label) and words in found.text
    assert found.text.startswith(f"{leading.count}. {leading.precision}.")
    assert leading.count.startswith(label.split(", ")[1])


@pytest.mark.parametrize(
    ("groups", "is_polysemantic", "is_split", "label"),
    [(2, True, True, "not measured"), (3, True, False, "not split"), (1, True, True, "one group"),
     (1, False, True, "not polysemantic")],
)  # fmt: skip
@pytest.mark.parametrize("rows", [None, measured(np.nan)])
def test_without_a_measured_separation_the_classes_say_what_is_known(groups, is_polysemantic, is_split, label, rows):
    assert verdict(groups, is_polysemantic, is_split, rows).label == label
    assert np.isnan(mean_separation(rows).after) and headline(rows) is None
