"""Embeddings of a store's images and of patches, and monosemanticity of units, against loops over images and units."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from tests import factories
from tests.helpers import forward
from tests.oracles import monosemanticity_by_hand
from tests.pictures import FOLDERS
from tests.scripts import RUN
from tests.stores import study_of
from utils.errors import UserError
from utils.images.batches import ImageSource, Loading
from utils.images.transform import Transform
from utils.method.embedding_scores import Monosemanticity, mean_cosine
from utils.networks.embedder import Embedder
from utils.networks.layers import find_layer
from utils.networks.loading import LoadedNetwork, fingerprint
from utils.networks.opened_network import OpenedNetwork
from utils.stages import embedding as stage
from utils.store import image_passes
from utils.store.importance_store import ImportanceStore
from utils.store.splits import transform_from
from utils.store.unfinished import Unfinished

LOADING = Loading(torch.device("cpu"))
OWN = Transform(26, 20, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
NAMES = [f"{folder}/{number}.png" for folder in FOLDERS for number in range(6)]


def embedder_of(module):
    return Embedder("tests.factories:with_kernel", LoadedNetwork(module, "w", fingerprint(module), OWN), OWN)


@pytest.fixture(scope="module")
def store(finished):
    """A store of all that can be asked of one, whichever images it is of."""
    opened = ImportanceStore(finished / "store", RUN)
    opened.load_meta()
    return opened


@pytest.fixture(scope="module")
def root(finished):
    return finished / "data" / "train"


@pytest.fixture
def study(store, finished, tmp_path):
    return study_in(tmp_path, store, finished)


def study_in(folder, store, copied):
    """The Study of a store below ``copied``, which keeps embeddings in ``folder``."""
    return study_of(store, run=RUN, store_dir=folder, data_dir=copied / "data", batch_size=5)


def seen_as(path, transform):
    """An image as a network takes it, [1, 3, H, W]."""
    with Image.open(path) as image:
        return normalised(transform.crop(image.convert("RGB")).numpy(), transform)


def normalised(crop, transform):
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255
    return TF.normalize(pixels, transform.mean, transform.std)[None]


def embedding_of(network, pixels):
    return network.head(network.last(network.stem(pixels))).flatten(1)[0]


def test_embeddings_are_of_every_image_and_kept(store, root, study, tmp_path, monkeypatch):
    network = factories.with_kernel()
    found, path = stage.validation_embeddings(store, study, embedder_of(network))
    assert path == tmp_path / f"{RUN}_embeddings_tests.factories-with_kernel.npz"
    assert found.indices.tolist() == list(range(24))
    expected = torch.stack([embedding_of(network, seen_as(root / name, OWN)) for name in NAMES])
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(stage, "embeddings_of", None)
    again, _ = stage.validation_embeddings(store, study, embedder_of(network))
    assert torch.equal(again.values, found.values) and torch.equal(again.indices, found.indices)


def stopped_at(calls, number):
    """A function that is called in place of another, ``calls`` of which it notes; the ``number``-th one is stopped."""

    def call(original, *given):
        calls.append(given)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*given)

    return call


def test_embeddings_of_a_stopped_pass_are_read_again_from_the_last_block_on(store, study, tmp_path, monkeypatch):
    whole, path = stage.validation_embeddings(store, study, embedder_of(factories.with_kernel()))
    path.unlink()
    monkeypatch.setattr(image_passes, "KEPT_IMAGES", 7)  # batches of 5 and 2
    embedder, calls = embedder_of(factories.with_kernel()), []
    embed, call = embedder.embed, stopped_at(calls, 4)
    monkeypatch.setattr(embedder, "embed", lambda images: call(embed, images))
    with pytest.raises(KeyboardInterrupt):
        stage.validation_embeddings(store, study, embedder)
    assert len(calls) == 4
    again, _ = stage.validation_embeddings(store, study, embedder)
    assert [len(images) for (images,) in calls[4:]] == [5, 2, 5, 2, 3]
    assert torch.equal(again.indices, whole.indices) and torch.allclose(again.values, whole.values, rtol=1e-5)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["nothing", "weights", "transform", "precision", "decoding", "store"])
def test_what_embeddings_depend_on_makes_them_anew(store, root, study, monkeypatch, what):
    embedder = embedder_of(factories.with_kernel())
    passes, measured, embeddings_of = [], store.measured_images(root), stage.embeddings_of
    monkeypatch.setattr(store, "measured_images", lambda _: measured)
    monkeypatch.setattr(stage, "embeddings_of", lambda *given: passes.append(1) or embeddings_of(*given))
    stage.validation_embeddings(store, study, embedder)
    if what == "weights":
        embedder = embedder_of(factories.make(8, 7, 1, seed=3))
    elif what == "transform":
        embedder.transform = replace(OWN, resize_size=27)
    elif what == "precision":
        study = replace(study, precision="bf16")
    elif what == "decoding":
        study = replace(study, decoding="fast", open_loading=lambda: replace(LOADING, decoding="fast"))
    elif what == "store":
        monkeypatch.setitem(store.meta, "versions", {})
    for _ in range(2):
        found, _ = stage.validation_embeddings(store, study, embedder)
    assert len(passes) == 1 + (what != "nothing")
    assert found.values.shape == (24, embedder.size)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_an_image_without_an_embedding_is_named(store, study, tmp_path, monkeypatch, value):
    embedder, number, passes = embedder_of(factories.with_kernel()), 3, []

    def embed(images):
        passes.append(images)
        found = torch.ones(len(images), embedder.size)
        found[number] = value if len(passes) == 2 else 1
        return found

    monkeypatch.setattr(embedder, "embed", embed)
    with pytest.raises(UserError, match=r"gives no embedding of .*bee/2\.png: NaN, infinite or all zero"):
        stage.validation_embeddings(store, study, embedder)
    assert not list(tmp_path.iterdir())


def test_images_are_those_that_the_store_has_measured(copy, tmp_path):
    store, embedder = ImportanceStore(copy / "store", RUN), embedder_of(factories.with_kernel())
    store.load_meta()
    root = copy / "data" / "train"
    shutil.copy(root / "bee" / "1.png", root / "ant" / "0.png")
    with pytest.raises(UserError, match=r"ant/0\.png is not the image that stage 1 measured"):
        stage.validation_embeddings(store, study_in(tmp_path, store, copy), embedder)


# --------------------------------------------------------------------------------------------------------------------
# Patches


def test_patches_are_cut_as_the_network_studied_sees_them_and_resized_to_the_embedders_input(store, root):
    network, (images, _) = factories.with_kernel(), store.measured_images(root)
    seen = transform_from(store.meta["transform"])
    assert (seen.crop_size, OWN.crop_size) == (24, 20)
    indices = np.array([7, 0, 7, 23, 7, 2])  # an image has several patches, in any order
    centres = np.array([[0.5, 0.5], [0.1, 0.1], [0.9, 0.2], [0.3, 0.7], [0.5, 0.5], [1.0, 1.0]])
    corners = [(8, 8), (0, 0), (16, 1), (3, 13), (8, 8), (16, 16)]  # of 8 pixels around 24 times these, inside
    source, how = ImageSource(images, seen, 5, LOADING), {"embedder": embedder_of(network), "precision": "fp32"}
    found = stage.patch_embeddings(source, indices, centres, size=8, **how)
    for embedding, index, (top, left) in zip(found, indices, corners, strict=True):
        with Image.open(root / NAMES[index]) as image:
            crop = seen.crop(image.convert("RGB")).numpy()[top : top + 8, left : left + 8]
        resized = TF.resize(Image.fromarray(crop), [20, 20], InterpolationMode.BICUBIC)
        expected = embedding_of(network, normalised(resized, OWN))
        torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[0], found[4])
    assert stage.patch_embeddings(source, [], np.empty((0, 2)), size=8, **how).shape == (0, 12)


def test_a_patch_of_an_image_that_cannot_be_read_is_an_error_whatever_is_left_out(copy):
    store, root = ImportanceStore(copy / "store", RUN), copy / "data" / "train"
    store.load_meta()
    images, _ = store.measured_images(root)
    (root / "bee" / "2.png").unlink()
    source = ImageSource(images, OWN, 5, replace(LOADING, skip_unreadable=True, decoding="fast"))
    how = {"embedder": embedder_of(factories.with_kernel()), "precision": "fp32"}
    with pytest.raises(UserError, match=r"cannot read image .*bee/2\.png"):
        stage.patch_embeddings(source, [0, 8], np.full((2, 2), 0.5), size=8, **how)


# --------------------------------------------------------------------------------------------------------------------
# Activations beside embeddings


@pytest.mark.parametrize("make", [factories.small, factories.with_kernel, factories.tokens, factories.windows])
@pytest.mark.parametrize("most", [2**24, 1000])
def test_monosemanticity_of_units_equals_a_loop_over_images_and_pairs(store, root, tmp_path, monkeypatch, make, most):
    """In one block of units and in several; an image without an embedding is not looked at."""
    monkeypatch.setattr(stage, "MOST_MAP_VALUES", most)
    network, seen = make(), transform_from(store.meta["transform"])
    layer, (images, indices) = find_layer(network, "last", 24), store.measured_images(root)
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([layer.weight, torch.randn(9, *layer.weight.shape[1:], generator=generator)])
    biases = torch.randn(len(rows), generator=generator)
    rows[20], biases[20] = 0, -1.0  # never active
    indices = indices[indices != 5]
    embeddings = stage.Embeddings(indices, torch.randn(len(indices), 6, generator=generator))
    opened, source = OpenedNetwork(network, layer, "fp32"), ImageSource(images, seen, 5, LOADING)
    kept = Unfinished(tmp_path / "x.json", {})
    running = stage.unit_monosemanticity(opened, rows, biases, source, embeddings, kept=kept)
    scores = running.scores()
    activations = []
    for index in indices:
        x = forward(network, layer, seen_as(root / NAMES[index], seen)).input
        (maps,) = layer.by_position(layer.with_rows(rows, biases)(x))
        activations.append(maps.clamp(min=0).sum(-1))
    activations = torch.stack(activations).double().numpy()
    expected = [monosemanticity_by_hand(own, embeddings.values.double().numpy()) for own in activations[:, :20].T]
    assert scores[:20].tolist() == pytest.approx(expected, rel=1e-3, nan_ok=True)
    assert scores[20].isnan()
    assert running.mean_cosine() == pytest.approx(mean_cosine(embeddings.values))


def test_monosemanticity_goes_on_from_the_images_before_a_stop(store, root, tmp_path, monkeypatch):
    network, seen = factories.small(), transform_from(store.meta["transform"])
    layer, (images, indices) = find_layer(network, "last", 24), store.measured_images(root)
    embeddings = stage.Embeddings(indices, torch.rand(24, 6, generator=torch.Generator().manual_seed(0)))
    opened, source = OpenedNetwork(network, layer, "fp32"), ImageSource(images, seen, 5, LOADING)
    monkeypatch.setattr(stage, "KEPT_IMAGES", 7)
    calls, add = [], Monosemanticity.add
    call = stopped_at(calls, 6)
    monkeypatch.setattr(Monosemanticity, "add", lambda *given: call(add, *given))

    def measured(folder):
        given = opened, layer.weight, None, source, embeddings
        return stage.unit_monosemanticity(*given, kept=Unfinished(folder / "x.json", {}))

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "stopped")
    again, whole = measured(tmp_path / "stopped"), measured(tmp_path / "whole")
    assert [len(given[2]) for given in calls[6:10]] == [5, 2, 3, 5]  # two blocks of the first run were kept
    assert again.images == whole.images == 24 and again.mean_cosine() == whole.mean_cosine()
    assert torch.equal(again.scores(), whole.scores())


def test_units_may_have_no_bias(store, root, tmp_path):
    network, seen = factories.small(), transform_from(store.meta["transform"])
    layer, (images, indices) = find_layer(network, "last", 24), store.measured_images(root)
    embeddings = stage.Embeddings(indices, torch.rand(24, 6, generator=torch.Generator().manual_seed(0)))
    opened, source = OpenedNetwork(network, layer, "fp32"), ImageSource(images, seen, 5, LOADING)
    one, other = (
        stage.unit_monosemanticity(
            opened, layer.weight, biases, source, embeddings, kept=Unfinished(tmp_path / f"{number}.json", {})
        ).scores()
        for number, biases in enumerate((None, torch.zeros(12)))
    )
    torch.testing.assert_close(one, other, equal_nan=True)
