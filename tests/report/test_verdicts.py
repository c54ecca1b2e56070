"""What the separation of a channel's split says in words, from made-up rows."""

import numpy as np
import pytest

from tests.entries import separation_row
from utils.report.verdicts import is_beyond, mean_separation, verdict


def measured(*after, **values):
    """Rows of concepts with these average precisions after, on 20 draws of permuted weights that reach 0.5 at most."""
    draws = np.linspace(0.1, 0.5, 20).tolist()
    common = {"ap_all_original": 0.1, "ap_all_weights_permuted": 0.3, "ap_all_real_target": np.nan, "ap_draws": draws}
    return [
        separation_row(concept=k + 1, ap_all=one, name=f"name {k}", **{**common, **values})
        for k, one in enumerate(after)
    ]


@pytest.mark.parametrize(
    ("after", "rank", "label", "words"),
    [
        ((0.6, 0.8), 0, "clear, 2 of 2", "Each of 2 new channels"),
        ((0.6, 0.5), 1, "partly, 1 of 2", "but not name 1: average precision 0.10 before, 0.55 after, 0.30 by"),
        ((0.3, 0.2), 2, "doubtful, 0 of 2", "choosing inputs alone may explain"),
        ((0.6, np.nan), 0, "clear, 1 of 1", "0.60 after"),
    ],
)
def test_new_channels_are_compared_with_every_draw_of_permuted_weights(after, rank, label, words):
    found = verdict(2, True, True, measured(*after))
    assert (found.rank, found.label) == (rank, label) and words in found.text


def test_of_least_squares_the_reference_is_fitted_to_the_real_channel():
    fitted = {"ap_all_real_target": 0.55, "ap_draws_real_target": [0.5, 0.6]}
    rows = measured(0.6, split_by="least_squares", **fitted)
    assert not is_beyond(rows[0]) and is_beyond(measured(0.6)[0])
    mean = mean_separation(rows)
    assert (mean.before, mean.after, mean.null) == (0.1, 0.6, 0.55) and mean.gain == pytest.approx(0.05)
    assert "0.55 by permuted weights, fitted to the real channel" in verdict(2, True, True, rows).text


@pytest.mark.parametrize(
    ("groups", "is_polysemantic", "is_split", "label"),
    [(2, True, True, "not measured"), (3, True, False, "not split"), (1, True, True, "one group"),
     (1, False, True, "not polysemantic")],
)  # fmt: skip
@pytest.mark.parametrize("rows", [None, measured(np.nan)])
def test_without_a_measured_separation_the_classes_say_what_is_known(groups, is_polysemantic, is_split, label, rows):
    assert verdict(groups, is_polysemantic, is_split, rows).label == label
    assert np.isnan(mean_separation(rows).after)
