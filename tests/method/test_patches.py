"""Where a channel activates most, and which patches of which images are shown."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.method.patches import default_patch_size, most_activating, patch, peaks, ranks
from utils.networks.layers import Convolution


def test_peaks_equal_a_loop_over_positions():
    maps = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)) - 5
    values, centres = peaks(maps.flatten(2), Convolution(None, map_size=(4, 5)).places())
    for image in range(3):
        for channel in range(2):
            places = [
                (maps[image, channel, row, column].item(), row, column) for row in range(4) for column in range(5)
            ]
            value, row, column = max(places)
            assert values[image, channel].item() == value
            assert centres[image, channel].tolist() == pytest.approx([(row + 0.5) / 4, (column + 0.5) / 5])


def test_positions_that_lie_nowhere_are_no_peaks():
    maps = torch.tensor([[[9.0, 1.0, 3.0, 2.0], [0.0, -1.0, -5.0, -2.0]]])
    places = torch.tensor([[torch.nan, torch.nan], [0.25, 0.5], [0.75, 0.5], [torch.nan, torch.nan]])
    values, centres = peaks(maps, places)
    assert values.tolist() == [[3, -1]]
    assert centres.tolist() == [[[0.75, 0.5], [0.25, 0.5]]]
    values, centres = peaks(maps, None)
    assert values.tolist() == [[9, 0]]
    assert centres.tolist() == [[[0.5, 0.5]] * 2]


@pytest.mark.parametrize(("image", "side", "size"), [(224, 7, 96), (64, 8, 24), (299, 8, 96), (24, 12, 6), (32, 1, 32)])
def test_a_patch_is_three_strides_of_the_layer_and_at_most_the_image(image, side, size):
    assert default_patch_size(image, side) == size


@given(
    height=st.integers(4, 12), width=st.integers(4, 12), size=st.integers(1, 4), at=st.tuples(*[st.floats(0, 1)] * 2)
)
def test_a_patch_lies_inside_and_as_near_to_its_centre_as_it_can(height, width, size, at):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    shown = patch(image, at, size)
    assert shown.shape == (size, size, 3)
    top, left = np.argwhere((image == shown[0, 0]).all(-1))[0]
    assert np.array_equal(shown, image[top : top + size, left : left + size])
    for corner, centre, side in ((top, at[0] * height, height), (left, at[1] * width, width)):
        distances = [abs(start + size / 2 - centre) for start in range(side - size + 1)]
        assert abs(corner + size / 2 - centre) == pytest.approx(min(distances))


def test_both_concepts_are_shown_equally_often_where_both_occur():
    values = np.array([9.0, 8, 7, 6, 5, 4, 3, 2, 1])
    assert most_activating(values, np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])) == [0, 1, 2, 5, 6, 7]
    assert most_activating(values[::-1], np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])) == [8, 7, 6, 4, 3, 2]


def test_what_one_concept_lacks_the_others_fill_up():
    values = np.arange(9.0, 0, -1)
    assert most_activating(values, np.array([0, 0, 0, 0, 0, 0, 0, 1, 0])) == [0, 1, 2, 3, 4, 7]
    assert most_activating(values, np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])) == [0, 1, 3, 4, 6, 7]
    assert most_activating(values[:4], np.array([0, 0, -1, 1])) == [0, 1, 2, 3]
    assert most_activating(values[:1], np.array([1])) == [0]


def test_only_the_sixteen_most_activating_images_count():
    values = np.concatenate([np.full(16, 2.0), np.full(30, 1.0)])
    assert most_activating(values, np.array([0] * 16 + [1] * 30)) == [0, 1, 2, 3, 4, 5]
    assert most_activating(values, np.array([0] * 15 + [1] * 31)) == [0, 1, 2, 3, 4, 15]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_without_groups_the_six_most_activating_are_shown_in_their_order(values):
    expected = sorted(range(len(values)), key=lambda image: (-values[image], image))
    assert most_activating(np.array(values)) == expected[:6]
    assert [expected.index(image) + 1 for image in range(len(values))] == ranks(np.array(values)).tolist()
