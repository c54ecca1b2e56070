"""What a notebook needs beside its own network: the split network, its channels by name, and what images it takes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.datasets import ImageFolder

from tests import factories
from tests.oracles import load
from tests.scripts import CHANNEL, RUN
from tests.stores import split_file
from utils.images.transform import Transform
from utils.networks.loading import fingerprint
from utils.networks.splitting import network_concepts
from utils.store import split_network, splits, stored_transform
from utils.store.splits import read_split, write_manifest, write_split


@pytest.fixture
def split(finished):
    return finished / "store" / "models_disentangled" / f"{RUN}_channel{CHANNEL}_1_3.pt"


def test_images_are_what_the_stages_make_of_them(finished, split):
    transform = stored_transform(split)
    assert transform.crop_size == 24
    images = ImageFolder(finished / "data" / "val", transform)
    pixels, targets = load(finished, "val")
    own, folders = zip(*images, strict=True)
    assert torch.equal(torch.stack(own), pixels) and list(folders) == targets.tolist()
    assert own[0].is_contiguous() and own[0].dtype == torch.float32
    batch, _ = next(iter(torch.utils.data.DataLoader(images, 16)))
    assert torch.equal(batch, pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_any_mode(mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).convert(mode)
    transform = Transform(32, 24)
    assert torch.equal(transform(image), transform(image.convert("RGB")))


def test_new_channels_are_found_by_name_and_are_what_the_split_says(finished, split):
    """The steps of the read-me, beside the rows of the split on the layer's summed input."""
    pixels, targets = load(finished, "val")
    seen, network = {}, split_network(factories.small(), split)
    concepts = network_concepts(network)
    assert [one["name"] for one in concepts] == ["bee", "dog", "residual"]
    layer = network.get_submodule(concepts[0]["layer"])
    layer.parts.register_forward_hook(lambda module, inputs, output: seen.update(parts=output))
    network(pixels)
    rows = {
        one["name"]: seen["parts"].select(layer.channel_dim, one["row"]).reshape(len(pixels), -1).sum(1)
        for one in concepts
    }
    stored = read_split(split).split
    inputs = factories.small().stem(pixels).sum((2, 3))
    for name, row in zip(rows, stored.rows(stored.rho), strict=True):
        torch.testing.assert_close(rows[name], inputs @ row.flatten().float(), rtol=1e-4, atol=1e-4)
    assert rows["bee"][targets == 1].mean() > rows["bee"][targets == 3].mean()


def test_each_split_of_a_manifest_is_read_once_and_for_the_transform_a_single_one(tmp_path, monkeypatch):
    network, read = factories.small(), []
    context = {"layer": "last", "weights_sha256": fingerprint(network), "num_channels": 12}
    files = {tmp_path / f"m_channel{k}_0_1.pt": split_file(network.last, k, **context) for k in range(6)}
    for path, file in files.items():
        write_split(path, file)
    write_manifest(tmp_path / "m_layer.json", files, {})
    monkeypatch.setattr(splits, "read_split", lambda path: (read.append(path), read_split(path))[1])
    assert stored_transform(tmp_path / "m_layer.json").crop_size == 8 and read == [tmp_path / "m_channel0_0_1.pt"]
    read.clear()
    assert split_network(network, tmp_path / "m_layer.json").last.channels == [*range(6)]
    assert sorted(read) == sorted(files)


def test_files_of_several_transforms_have_none_in_common(tmp_path):
    paths = [tmp_path / f"m_channel{channel}_0_1.pt" for channel in (1, 2)]
    for channel, path in enumerate(paths, start=1):
        file = split_file(nn.Conv2d(5, 3, 1), channel)
        transform = {**file.context["transform"], "crop_size": channel}
        write_split(path, replace(file, context={**file.context, "transform": transform}))
    assert stored_transform(paths[0]) == stored_transform(str(paths[0]), paths[0])
    with pytest.raises(ValueError, match="of different transforms"):
        stored_transform(*paths)
    with pytest.raises(ValueError, match="no split file was given"):
        stored_transform()
