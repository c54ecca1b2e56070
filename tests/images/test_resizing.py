"""Batched resizing and cropping against PIL's and torch's, for all sizes and interpolations."""

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate
from torchvision.transforms.functional import center_crop

from tests.pictures import picture
from utils.images.resizing import (
    FILTERS,
    crop_windows,
    cut_and_pad,
    interpolation_weights,
    resize_windows,
    resized_sizes,
)
from utils.images.transform import Transform

sides = st.integers(1, 90)
transforms = st.integers(2, 40).flatmap(
    lambda size: st.builds(Transform, st.just(size), st.integers(1, size), st.sampled_from(list(FILTERS)))
)


@settings(max_examples=80)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=3), transforms)
def test_resized_crops_are_those_of_pil(sizes, transform):
    windows = crop_windows(torch.tensor(sizes), transform)
    if transform.interpolation == "nearest":  # centres on the border between two pixels may go to either
        exact = torch.tensor(sizes) / resized_sizes(torch.tensor(sizes), transform.resize_size)
        centres = (torch.arange(2 * 40 * 90) + 0.5) * exact[..., None]
        assume(((centres - centres.round()).abs() > 1e-9).all())
    pictures = [picture(size[::-1], seed) for seed, size in enumerate(sizes)]
    images = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in pictures]
    crops = resize_windows(cut_and_pad(images, windows), windows, transform.interpolation)
    expected = torch.stack([transform.crop(image) for image in pictures])
    difference = (crops.int() - expected.int()).abs().float()
    assert crops.shape == expected.shape
    assert difference.max() <= (0 if transform.interpolation == "nearest" else 2)


def test_nearest_takes_the_later_pixel_where_a_centre_lies_between_two():
    transform, image = Transform(6, 5, "nearest"), picture((24, 12))
    windows = crop_windows(torch.tensor([[12, 24]]), transform)
    batch = cut_and_pad([torch.from_numpy(np.array(image)).permute(2, 0, 1)], windows)
    assert torch.equal(resize_windows(batch, windows, "nearest")[0], transform.crop(image))


@settings(max_examples=60)
@given(sides, sides, transforms.filter(lambda transform: transform.interpolation != "nearest"))
def test_weights_are_those_of_torchs_antialiased_interpolation(height, width, transform):
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    windows = crop_windows(torch.tensor([[height, width]]), transform)
    (top, left), (rows, columns) = windows.first[0].tolist(), windows.sizes[0].tolist()
    part = image[:, :, top : top + rows, left : left + columns]
    vertical, horizontal = (
        interpolation_weights(windows, axis, length + 3, transform.interpolation)
        for axis, length in enumerate((rows, columns))
    )
    assert (vertical[..., rows:] == 0).all()
    torch.testing.assert_close(horizontal.sum(2), torch.ones(1, transform.crop_size))
    found = vertical[:, None, :, :rows].double() @ part @ horizontal[:, None, :, :columns].double().mT
    short, size = min(height, width), transform.resize_size
    resized = [int(size * height / short), int(size * width / short)]
    expected = interpolate(image, resized, mode=transform.interpolation, antialias=True)
    torch.testing.assert_close(found, center_crop(expected, [transform.crop_size]), rtol=0, atol=2e-4)
