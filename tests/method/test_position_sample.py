"""Positions are drawn evenly over images, and the same ones each time."""

import pytest
import torch

from utils.method.position_sample import drawn_positions, sample_positions


@pytest.mark.parametrize(
    "num_images, positions, number, used, total",
    [
        (100, 49, 200, 16, 200),  # 13 of an image: 16 images have them
        (10, 49, 200, 10, 200),  # fewer images: 20 of each
        (3, 49, 200, 3, 147),  # all there are
        (100, 1, 20, 20, 20),
        (7, 4, 10, 7, 10),
    ],
)
def test_numbers_of_images_and_positions(num_images, positions, number, used, total):
    images = torch.arange(num_images) * 3
    sample = sample_positions(images, positions, number)
    assert len(sample.images) == used and int(sample.counts.sum()) == total
    assert sample.counts.max() - sample.counts.min() <= 1 and sample.counts.max() <= positions
    assert torch.isin(sample.images, images).all() and (sample.images.diff() > 0).all()
    assert torch.equal(sample_positions(images, positions, number).images, sample.images)


def test_images_are_drawn_from_everywhere():
    drawn = sample_positions(torch.arange(1000), 4, 300).images
    assert drawn[0] < 50 and drawn[-1] > 950


def test_positions_of_an_image_are_distinct_and_differ_between_images():
    drawn = {image: drawn_positions(image, 49, 13) for image in range(20)}
    for positions in drawn.values():
        assert len(positions.unique()) == 13 and positions.min() >= 0 and positions.max() < 49
        assert (positions.diff() > 0).all()
    assert len({tuple(positions.tolist()) for positions in drawn.values()}) == 20
    assert torch.equal(drawn[3], drawn_positions(3, 49, 13))
    assert torch.equal(drawn_positions(3, 5, 5), torch.arange(5))
