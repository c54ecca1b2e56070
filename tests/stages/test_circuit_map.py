"""Maps of a channel: which images they show, where these lie, and where in them the channel is strongest."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import factories
from tests.oracles import contributions, load, pure_by_hand
from tests.scripts import CHANNEL, COMPUTE, NETWORK, RUN, contents, messages, run_script, stage3
from tests.stores import study_of
from utils.concept_sources import classes
from utils.concept_sources.image_sets import MapImages
from utils.errors import UserError
from utils.images.batches import ImageSource, Loading
from utils.method.planar_map import in_unit_square
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.stages.circuit_map import MapReader, make_map, map_image_finders
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import read_split, transform_from

METHODS = {
    "circuits": ("--nr_concepts", "3", "--nr_reference_images", "12"),
    "concept_vectors": ("--nr_reference_images", "20"),
    "pure": ("--nr_reference_images", "10"),
}


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A store with splits of channel 9 by every method. Not to be changed."""
    folder = tmp_path_factory.mktemp("maps") / "copy"
    shutil.copytree(finished, folder)
    for method, flags in METHODS.items():
        stage3("data", "store", "--concepts_from", method, *flags, pair=(), cwd=folder)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def opened_split(folder, method):
    pattern = f"{RUN}_channel9_1_3.pt" if method == "classes" else f"*_{method}_*.pt"
    (path,) = (folder / "store" / "models_disentangled").glob(pattern)
    return OpenedSplit(path, read_split(path), None)


def training_store(folder):
    store = ImportanceStore(folder / "store", RUN)
    store.load_meta()
    return store


def image_finders(opened, folder):
    """What finds the images of the maps of splits, by their paths."""
    return map_image_finders(opened, study_of(training_store(folder), run=RUN))


def found_images(folder, method):
    one = opened_split(folder, method)
    return one.file.split, image_finders([one], folder)[one.path](one)


def concepts_by_hand(split, indices):
    return [next((k for k, one in enumerate(split.own_concepts) if i in one.images), -1) for i in indices.tolist()]


def test_circuits_show_their_references_the_strongest_first(folder):
    split, images = found_images(folder, "circuits")
    given = contributions(folder)
    assert images.indices.tolist() == given.sum(1).argsort(descending=True, stable=True)[:12].tolist()
    assert images.concepts.tolist() == concepts_by_hand(split, images.indices) and images.concepts.min() == 0
    circuits = given[images.indices]
    torch.testing.assert_close(images.features, circuits / circuits.abs().sum(1, keepdim=True))


def test_concept_vectors_show_what_was_dropped(folder):
    split, images = found_images(folder, "concept_vectors")
    assert images.indices.tolist() == contributions(folder).sum(1).argsort(descending=True, stable=True)[:20].tolist()
    assert images.concepts.tolist() == concepts_by_hand(split, images.indices)
    assert (images.concepts == -1).sum() == 20 - sum(len(one.images) for one in split.own_concepts) > 0
    sums = torch.stack([contributions(folder, channel=channel).sum(1) for channel in range(12)], 1)
    torch.testing.assert_close(images.features, sums[images.indices] / split.positions, rtol=1e-4, atol=1e-5)


def test_pure_shows_the_references_that_stage3_has_kept(folder):
    split, images = found_images(folder, "pure")
    values, circuits = pure_by_hand(folder, "train")
    assert images.indices.tolist() == values.argsort(descending=True, stable=True)[:10].tolist()
    assert images.concepts.tolist() == concepts_by_hand(split, images.indices)
    torch.testing.assert_close(images.features, circuits[images.indices], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("labelled", [300, 6])
def test_classes_show_the_strongest_images_of_each(folder, monkeypatch, labelled):
    """Bee and dog, six training images each, or three."""
    monkeypatch.setattr(classes, "MOST_ON_MAP", labelled)
    _, images = found_images(folder, "classes")
    sums = contributions(folder).sum(1)
    each = min(labelled // 2, 6)
    own = [sorted(range(6 * t, 6 * t + 6), key=lambda image: -float(sums[image]))[:each] for t in (1, 3)]
    assert images.indices.tolist() == sorted(own[0] + own[1], key=lambda image: -float(sums[image]))
    assert images.concepts.tolist() == [0 if image in own[0] else 1 for image in images.indices.tolist()]


def test_several_splits_are_found_together(folder):
    together = [opened_split(folder, method) for method in ("classes", *METHODS)]
    finders = image_finders(together, folder)
    for one, method in zip(together, ("classes", *METHODS), strict=True):
        images, (_, alone) = finders[one.path](one), found_images(folder, method)
        assert torch.equal(images.indices, alone.indices) and torch.equal(images.concepts, alone.concepts)


@pytest.mark.parametrize("change", ["arvs", "missing image", "other references"])
def test_a_split_of_other_training_images_is_refused(folder, change):
    one = opened_split(folder, "pure" if change == "other references" else "circuits")
    split = one.file.split
    if change == "arvs":
        one.file.split = replace(split, arvs=split.arvs * 1.01)
    elif change == "missing image":
        split.concepts[0].images[0] = 10**6
    else:
        used = {image for concept in split.own_concepts for image in concept.images}
        split.concepts[0].images[0] = next(image for image in range(24) if image not in used)
    finder = image_finders([one], folder)[one.path]
    with pytest.raises(UserError, match=f"{one.path.name} was made from other training images than those of .*: run"):
        finder(one)


def some_images(concepts, seed=0):
    concepts = torch.tensor(concepts)
    features = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(concepts), 5)))
    return MapImages(torch.arange(len(concepts)) + 100, concepts, features)


def test_the_largest_concepts_are_shown_with_their_strongest_images():
    images = some_images([2] * 3 + [0] * 2 + [1] + [2] * 9 + [3] * 2 + [-1] * 4)
    found = make_map(images, 0.0, most_concepts=2)
    assert found.shown == [0, 2]
    assert found.rows == [[3, 4], [0, 1, 2, 6, 7, 8, 9, 10]]
    # the strongest image of each concept, then the second of each, and what was dropped last
    assert found.pictured == [3, 5, 0, 15, 4, 1, 16, 2, *range(6, 15), 17, 18, 19, 20]


def test_pictures_have_room_in_the_map():
    images = some_images([k % 3 for k in range(100)])
    found = make_map(images, 0.2, 8)
    places = in_unit_square(found.scores)[found.pictured]
    distances = (places[:, None] - places[None]).abs().amax(-1) + torch.eye(len(places))
    assert 5 < len(places) <= 36 and distances.min() >= 0.2
    assert found.pictured[0] == 0


@pytest.fixture
def reader(folder):
    store, network = training_store(folder), factories.small()
    images, transform = store.read_images(folder / "data" / "train"), transform_from(store.meta["transform"])
    source = ImageSource(images, transform, 3, Loading(torch.device("cpu")))
    return MapReader(source, OpenedNetwork(network, find_layer(network, "last", 24), "fp32"), 8)


def test_patches_lie_around_the_strongest_place(folder, reader):
    """Against plain indexing: a map of 12x12 places, patches of 8 of 24 pixels."""
    indices = torch.tensor([20, 3, 9, 14, 2])
    with torch.no_grad():
        network = reader.network.module
        maps = network.last(network.stem(load(folder, "train")[0]))[:, CHANNEL]
    for picture, index in zip(reader.patches(CHANNEL, indices), indices.tolist(), strict=True):
        row, column = divmod(int(maps[index].argmax()), 12)
        top, left = (min(max(round((at + 0.5) * 2 - 4), 0), 16) for at in (row, column))
        crop = reader.source.transform.crop(Image.open(reader.source.images.path(index)).convert("RGB")).numpy()
        assert np.array_equal(picture, crop[top : top + 8, left : left + 8])


def test_whole_images_are_shown_where_positions_lie_nowhere(folder, reader):
    network = factories.vector()
    whole = replace(reader, network=OpenedNetwork(network, find_layer(network, "last", 24), "fp32"), patch_size=24)
    for picture, own in zip(whole.patches(CHANNEL, [5, 7]), whole.pictures([5, 7]), strict=True):
        assert np.array_equal(picture, own) and picture.shape == (24, 24, 3)


def test_an_image_that_is_gone_is_named(folder, reader):
    images = replace(reader.source.images, root=folder / "elsewhere")
    with pytest.raises(UserError, match=r"cannot read image .*elsewhere/ant/0.png"):
        replace(reader, source=replace(reader.source, images=images)).pictures([0])


def script(folder, *more, data="data"):
    flags = ("--data_dir", data, "--store_dir", "store", *COMPUTE, "--get_map")
    return run_script("get_results.py", *NETWORK, *flags, *more, cwd=folder)


def test_stage4_draws_a_map_of_each_split_and_nothing_else(folder, tmp_path):
    paths = [opened_split(folder, method).path for method in ("classes", "concept_vectors")]
    result = script(folder, "--splits", *paths, "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    expected = {f"plots/{path.stem}_map.{suffix}" for path in paths for suffix in ("png", "pdf")}
    assert set(contents(tmp_path)) == expected and "_map.png" in result.stdout


@pytest.mark.parametrize("change", ["no data", "no store", "no references", "patch size"])
def test_what_is_missing_is_one_line(folder, tmp_path, change):
    spoilt = tmp_path / "copy"
    shutil.copytree(folder, spoilt)
    path, more, message = opened_split(spoilt, "pure").path, (), "cannot read image nowhere/train/"
    if change == "no store":
        shutil.rmtree(spoilt / "store" / f"{RUN}_channel_importances")
        message = "run get_importances_for_classes.py first"
    elif change == "no references":
        next(path.parent.glob("*references*")).unlink()
        message = "has no references of channel 9: run disentangle_channel.py again"
    elif change == "patch size":
        more, message = ("--patch_size", "25"), "--patch_size 25 is larger than the image, 24 pixels"
    data = "nowhere" if change == "no data" else "data"
    result = script(spoilt, "--splits", path.relative_to(spoilt), *more, data=data)
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert len(messages(result.stderr)) == 1
