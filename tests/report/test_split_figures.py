"""What figures show of a result: all concepts, or the eight largest, and everything else last."""

import numpy as np
import pytest

from tests.report.test_summary import images, pair
from utils.report.plots import DISENTANGLED, EVERYTHING_ELSE, ORIGINAL
from utils.report.split_figures import channel_card, colours_of, densities, left_out, shown_channels, shown_concepts


def many(count, background=None):
    """A result of ``count`` concepts, concept k with k + 3 images, and perhaps everything else."""
    result = pair(1, tuple((k,) for k in range(count)), np.eye(count).tolist())
    channels = count + (background is not None)
    result |= {"background": background, "concept_names": [f"name {k}" for k in range(count)]}
    result["images"] = [images(10 + k, k + 3, channels, k) for k in range(count)]
    return result


def test_up_to_eight_concepts_are_all_shown():
    result = many(8)
    assert shown_concepts(result) == list(range(8)) and left_out(result) == ""
    assert list(shown_channels(result)) == list(range(1, 9))
    assert colours_of(result) == [ORIGINAL, *DISENTANGLED]


def test_of_more_the_eight_of_most_images_are_shown_and_it_is_said():
    result = many(11, background=1.0)
    assert shown_concepts(result) == list(range(3, 11))
    assert left_out(result) == "; the 8 largest of 11 concepts"
    assert list(shown_channels(result)) == [*range(4, 12), 12]
    assert shown_channels(result)[12] == "c'_12, everything else"
    assert colours_of(result)[-1] == EVERYTHING_ELSE and len(colours_of(result)) == 10
    samples, _ = zip(*densities(result), strict=True)
    assert [len(one["original channel"]) for one in samples] == list(range(6, 14))
    label = "c'_4, for name 3"
    np.testing.assert_array_equal(samples[0][label], np.array(result["images"][3]["sums"])[:, 3])


@pytest.mark.parametrize("result", [many(11, 1.0), many(1, 1.0), many(3)], ids=["11", "alone", "3"])
def test_a_card_of_any_number_of_concepts_is_drawn(tmp_path, result):
    count = len(result["concept_names"]) + (result["background"] is not None)
    patches = [[(np.zeros((4, 4, 3), np.uint8), k % count) for k in range(6)] for _ in range(count + 1)]
    (path,) = channel_card(tmp_path, result, patches, None)
    assert path.stat().st_size > 1000
