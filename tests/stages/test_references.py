"""References by PURE from a small folder of images, against sorting and plain autograd, one image at a time."""

import numpy as np
import pytest
import torch

from tests import factories
from tests.conftest import RUN, write_image
from utils.errors import UserError
from utils.images.batches import ImageBatches
from utils.networks.circuits import UnitCircuits, find_circuit_layer
from utils.networks.layers import find_layer
from utils.stages.references import channel_references, find_references, unit_references, unit_rows, usable_images
from utils.store.importances import ImportanceStore
from utils.store.references import ReferenceStore
from utils.store.splits import transform_from

NUMBER = 5


class World:
    """A finished store, its network and images, and how they are read."""

    def __init__(self, folder):
        self.store = ImportanceStore(folder / "store", RUN)
        self.meta, self.labels = self.store.load_meta(), self.store.read_labels()
        images = self.store.read_images(folder / "data" / "train")
        self.images = images.with_contents(self.labels.indices, self.labels.contents)
        self.network = factories.small()
        self.layer = find_layer(self.network, "last_conv", 24)
        self.read, self.skip = [], False

    def load(self, batches, description):
        self.read.append([index for batch in batches for index in batch])
        options = {"num_workers": 0, "device": torch.device("cpu"), "skip_unreadable": self.skip}
        return ImageBatches(self.images, transform_from(self.meta["transform"]), batches, None, **options)

    def pixels(self):
        return torch.cat([pixels for _, pixels, _ in self.load([[index] for index in range(len(self.images))], None)])

    def units(self, channels, **how):
        return UnitCircuits(self.network, self.layer, self.layer.weight[channels], None, **how)


@pytest.fixture
def world(finished):
    return World(finished)


def by_hand(world, channels, usable, start=None):
    """Indices, values and features, image by image; ``start`` makes the leaf of an image's pixels."""
    start, pixels = start or world.network.stem, world.pixels()
    rest = world.network.stem[1] if start is world.network.stem[0] else torch.nn.Identity()
    maps = world.network.last(world.network.stem(pixels)).flatten(2)
    found = []
    for channel in channels:
        maxima = maps[:, channel].amax(1)
        order = sorted(usable, key=lambda image: (-maxima[image].item(), image))[:NUMBER]
        features = []
        for image in order:
            leaf = start(pixels[[image]]).detach().clone().requires_grad_()
            a = world.network.last(rest(leaf))[0, channel]
            a.backward(a.detach().clamp(min=0))
            circuit = (leaf * leaf.grad).detach().sum((0, 2, 3))
            features.append(circuit / (circuit.abs().sum() + 1e-10))
        found.append((order, maxima[order], torch.stack(features)))
    return found


def check(references, expected):
    for row, (order, values, features) in enumerate(expected):
        assert references.indices[row].tolist() == order
        torch.testing.assert_close(references.values[row], values)
        torch.testing.assert_close(references.features[row], features, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("only_correct", [False, True])
@pytest.mark.parametrize("circuit_layer", [None, "stem.0"])
def test_references_and_their_circuits_are_those_of_a_loop(world, only_correct, circuit_layer):
    channels, usable = [0, 3, 9], usable_images(world.labels, only_correct)
    assert (len(usable) < 24) == only_correct
    start = None if circuit_layer is None else find_circuit_layer(world.network, world.layer, circuit_layer, 24)
    units = world.units(channels, circuit_layer=start)
    references = find_references(units, world.load, usable, NUMBER, batch_size=7)
    first, again = world.read
    assert first == usable.tolist() and sorted(again) == references.indices.unique().tolist()
    lower = None if start is None else world.network.stem[0]
    check(references, by_hand(world, channels, usable.tolist(), lower))
    assert references.features.dtype == torch.float32 and references.indices.dtype == torch.int64


def test_of_equal_images_the_smaller_index_counts(world):
    """A unit without weights is as large in all images, whatever the batches."""
    units = UnitCircuits(world.network, world.layer, torch.zeros(1, 8, 1), torch.ones(1))
    for batch_size in (2, 24):
        references = find_references(units, world.load, world.labels.indices, NUMBER, batch_size)
        assert references.indices.tolist() == [list(range(NUMBER))] and (references.values == 1).all()
        assert not references.features.any()


def stored_in(folder, world, **changes):
    settings = {"number": NUMBER, "circuit_layer": None, "precision": "fp32", "decoding": "pil", "only_correct": False}
    return ReferenceStore(folder, RUN, world.meta, world.layer.num_inputs, {**settings, **changes})


def test_what_is_there_is_not_measured_again_and_what_is_missing_is_added(world, tmp_path):
    everything = list(range(24))

    def ask(*channels, passes):
        world.read, stored = [], stored_in(tmp_path, world)
        references = channel_references(channels, stored, world.network, world.layer, world.load, torch.arange(24), 8)
        assert len(world.read) == 2 * passes and world.read[:1] == [everything] * passes
        check(references, by_hand(world, channels, everything))

    ask(9, 2, passes=1)
    before = stored_in(tmp_path, world).read([(9, 0)]).features
    ask(2, 9, passes=0)
    ask(11, 9, 0, passes=1)
    assert torch.equal(stored_in(tmp_path, world).read([(9, 0)]).features, before)
    assert stored_in(tmp_path, world, only_correct=True).missing([(9, 0)]) == [(9, 0)]


def test_runs_side_by_side_lose_nothing(world, tmp_path, monkeypatch):
    stored, write, written = stored_in(tmp_path, world), ReferenceStore.write, []

    def overwritten_once(self, units, references):
        before = self.path.read_bytes() if self.path.is_file() else None
        write(self, units, references)
        written.append(units)
        if len(written) == 2:  # a run that has read the file before puts back what it has read
            self.path.write_bytes(before)

    monkeypatch.setattr(ReferenceStore, "write", overwritten_once)
    usable = torch.arange(24)
    for channels in ([9], [4, 1]):
        found = channel_references(channels, stored, world.network, world.layer, world.load, usable, 8)
        check(found, by_hand(world, channels, range(24)))
    assert written == [[(9, 0)], [(1, 0), (4, 0)], [(1, 0), (4, 0)]]


def test_units_of_permuted_weights_have_references_of_their_own(world, tmp_path):
    units, usable = [(9, 0), (9, 1), (9, 2), (3, 1)], torch.arange(24)
    rows, biases = unit_rows(world.layer, units)
    weight = world.layer.weight
    assert biases is None and torch.equal(rows[0], weight[9])
    assert torch.equal(unit_rows(world.layer, units[3:])[0][0], rows[3])
    for row, (channel, _) in zip(rows[1:], units[1:], strict=True):
        assert not torch.equal(row, weight[channel])
        assert torch.equal(row.flatten().sort().values, weight[channel].flatten().sort().values)
    assert not torch.equal(rows[1], rows[2])
    stored = stored_in(tmp_path, world)
    references = unit_references(units, stored, world.network, world.layer, world.load, usable, 8)
    world.network.last.weight[:4] = rows[..., None]
    check(references, by_hand(world, range(4), range(24)))


def test_too_few_images_are_refused_before_any_is_read(world):
    with pytest.raises(UserError, match="there are 3 usable training images, fewer than 5 references: ask for fewer"):
        find_references(world.units([1]), world.load, torch.arange(3), NUMBER, 8)
    assert not world.read


def test_images_that_the_network_cannot_measure_or_that_have_changed_are_named(world, copy):
    world = World(copy)
    with pytest.raises(UserError, match=r"NaN or infinite values for .*ant/0.png"):
        units = UnitCircuits(world.network, world.layer, torch.full((1, 8, 1), np.nan), None)
        find_references(units, world.load, world.labels.indices, NUMBER, 8)
    write_image(copy / "data" / "train" / "bee" / "2.png", 0, 5)
    with pytest.raises(UserError, match=r"bee/2.png is not the image that stage 1 measured"):
        find_references(world.units([1]), world.load, world.labels.indices, NUMBER, 8)


def test_an_image_that_is_left_out_is_no_reference(copy):
    """One that another decoder cannot read, say."""
    world = World(copy)
    world.images = world.store.read_images(copy / "data" / "train")
    world.skip, units = True, world.units([9])
    (first, *_), *_ = find_references(units, world.load, world.labels.indices, NUMBER, 8).indices
    world.images.path(first).write_bytes(b"no image")
    references = find_references(units, world.load, world.labels.indices, NUMBER, 8)
    assert first not in references.indices and len(references.indices[0]) == NUMBER
    with pytest.raises(UserError, match="there are 23 usable training images, fewer than 24 references"):
        find_references(units, world.load, world.labels.indices, 24, 8)
