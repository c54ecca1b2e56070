"""The strongest patches of many units, against whole maps of all images."""

from functools import partialmethod
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.factories import Small, Tokens
from tests.pictures import write_images
from utils.images.batches import ImageSource, Loading
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.method.patches import TOP_IMAGES, patch
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.stages import strongest_patches
from utils.stages.strongest_patches import TILE, TopPatches, find_strongest, tiles_of, unit_keys
from utils.store.unfinished import Unfinished

SIZE, NUM_UNITS = 24, 5
TRANSFORM = Transform(resize_size=SIZE, crop_size=SIZE)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return list_images(write_images(tmp_path_factory.mktemp("images"), train=1, val=6) / "val")


def source_of(images):
    return ImageSource(images, TRANSFORM, 5, Loading(torch.device("cpu")))


def opened_network(kind=Small):
    torch.manual_seed(3)
    network = kind(nn.Conv2d(8, 12, 3, padding=1) if kind is Small else nn.Linear(8, 12)).eval().requires_grad_(False)
    return OpenedNetwork(network, find_layer(network, "last", SIZE), "fp32")


def units(layer):
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(NUM_UNITS, *layer.weight.shape[1:], generator=generator)
    return rows, torch.randn(NUM_UNITS, generator=generator)


class LinearTokens(Tokens):
    """Tokens with a linear layer of its own: nn.Linear has in_features."""

    def __init__(self, last):
        super().__init__(nn.Conv2d(last.in_features, last.out_features, 1))
        self.last = last


@pytest.mark.parametrize("most", [2**24, 1])
@pytest.mark.parametrize("kind", [Small, LinearTokens])
def test_they_are_those_of_whole_maps_in_their_order(images, kind, most, tmp_path, monkeypatch):
    """In blocks of units of any size; every unit's largest position in each image, by a loop."""
    monkeypatch.setattr(strongest_patches, "MOST_VALUES", most)
    network = opened_network(kind)
    rows, biases = units(network.layer)
    unfinished = Unfinished(tmp_path / "patches.npz", {})
    found = find_strongest(source_of(images), network, rows, biases, unfinished)
    assert [tuple(part.shape) for part in found] == [(NUM_UNITS, 16), (NUM_UNITS, 16), (NUM_UNITS, 16, 2)]
    ((_, pixels, *_),) = source_of(images).batches([list(range(len(images)))], None)
    x = network.module.stem(pixels)
    kernels = rows.unflatten(2, (3, 3)) if kind is Small else rows[..., None]
    maps = nn.functional.conv2d(x, kernels, biases, padding=1 if kind is Small else 0).numpy()
    for unit in range(NUM_UNITS):
        largest = [(-of_image[unit].max(), index) for index, of_image in enumerate(maps)]
        order = [index for _, index in sorted(largest)[:TOP_IMAGES]]
        assert found.images[unit].tolist() == order
        for rank, index in enumerate(order):
            map_ = maps[index, unit]
            row, column = np.unravel_index(map_.argmax(), map_.shape)
            assert found.values[unit, rank].item() == pytest.approx(map_.max(), rel=1e-4, abs=1e-5)
            assert found.centres[unit, rank].tolist() == pytest.approx([(row + 0.5) / 12, (column + 0.5) / 12])


def test_a_pass_that_was_stopped_goes_on_to_the_same_patches(images, tmp_path, monkeypatch):
    monkeypatch.setattr(strongest_patches, "KEPT_IMAGES", 10)
    monkeypatch.setattr(strongest_patches, "MOST_VALUES", 2 * 5 * 144)
    network, source = opened_network(), source_of(images)
    rows, biases = units(network.layer)
    whole = find_strongest(source, network, rows, biases, Unfinished(tmp_path / "whole.npz", {}))
    unfinished, seen = Unfinished(tmp_path / "patches.npz", {}), []

    def step(self, *args, at=None):
        seen.append(len(args[1]))
        if at is not None and len(seen) == at:
            raise KeyboardInterrupt
        return with_batch(self, *args)

    with_batch = TopPatches.with_batch
    monkeypatch.setattr(TopPatches, "with_batch", partialmethod(step, at=3 * 4))  # three blocks of units: batch 4
    with pytest.raises(KeyboardInterrupt):
        find_strongest(source, network, rows, biases, unfinished)
    seen.clear()
    monkeypatch.setattr(TopPatches, "with_batch", step)
    found = find_strongest(source, network, rows, biases, unfinished)
    assert sum(seen) == 3 * (len(images) - 10)
    assert all(torch.equal(*parts) for parts in zip(found, whole, strict=True))


def test_of_equal_values_the_earlier_image_counts_and_fewer_images_leave_places_empty():
    found = TopPatches.nothing(1).with_batch(torch.tensor([[1.0, 2.0]]), torch.tensor([0, 1]), torch.zeros(1, 2, 2))
    found = found.with_batch(torch.tensor([[2.0, 1.0]]), torch.tensor([2, 3]), torch.ones(1, 2, 2))
    assert found.images[0].tolist() == [1, 2, 0, 3, *[-1] * 12]
    assert found.centres[0, :4].tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("most", [512, 2])
def test_tiles_are_the_patches_of_the_files(images, most, monkeypatch):
    monkeypatch.setattr(strongest_patches, "MOST_UNITS", most)
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randint(len(images), (3, TOP_IMAGES), generator=generator)
    chosen[1, 10:] = -1
    centres = torch.rand(3, TOP_IMAGES, 2, generator=generator)
    tiles = list(tiles_of(source_of(images), TopPatches(torch.zeros(3, TOP_IMAGES), chosen, centres), 9))
    assert len(tiles) == 3 and tiles[0].shape == (TOP_IMAGES, TILE, TILE, 3)
    assert (tiles[1][10:] == 128).all()
    for unit, rank in ((0, 0), (1, 9), (2, 15)):
        crop = TRANSFORM.crop(Image.open(images.path(chosen[unit, rank])).convert("RGB")).numpy()
        expected = Image.fromarray(patch(crop, centres[unit, rank], 9)).resize((TILE, TILE), Image.Resampling.BICUBIC)
        assert np.array_equal(tiles[unit][rank], np.asarray(expected))


def test_an_image_that_cannot_be_read_again_is_named(images, monkeypatch):
    found = TopPatches(torch.zeros(1, TOP_IMAGES), torch.zeros(1, TOP_IMAGES).long(), torch.zeros(1, TOP_IMAGES, 2))
    batch = SimpleNamespace(unreadable=[(0, "gone")])
    monkeypatch.setattr(ImageSource, "in_order", lambda *_: SimpleNamespace(loader=[batch]))
    with pytest.raises(strongest_patches.UserError, match=r"cannot read image .*0\.png again \(gone\)"):
        list(tiles_of(source_of(images), found, 9))


def test_keys_tell_units_and_images_apart():
    rows, biases = torch.arange(6.0).view(3, 2, 1), torch.tensor([0.0, 1.0, 1.0])
    keys = unit_keys({"images": "a"}, rows, biases)
    assert keys.shape == (3, 32) and keys.dtype == np.uint8
    others = [unit_keys({"images": "b"}, rows, biases), unit_keys({"images": "a"}, rows, biases + 1),
              unit_keys({"images": "a"}, rows + 1, biases), unit_keys({"images": "a"}, rows, None)]  # fmt: skip
    assert len({key.tobytes() for some in (keys, *others) for key in some}) == 15
    assert np.array_equal(unit_keys({"images": "a"}, rows.double(), biases), keys)
