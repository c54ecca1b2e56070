"""PURE's references and virtual neurons from a small folder of images, against plain autograd, one image at a time."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch

from tests import factories
from tests.pictures import write_image
from tests.scripts import RUN, stage1
from tests.stores import study_of
from utils.concept_sources import pure
from utils.concept_sources.pure import (
    Pure,
    stored_virtual_neurons,
    unit_references,
    unit_rows,
)
from utils.errors import UserError
from utils.images.batches import ImageSource
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.networks.unit_circuits import UnitCircuits, find_circuit_layer
from utils.store import image_passes, virtual_neuron_files
from utils.store.importance_store import ImportanceStore
from utils.store.reference_images import ReferenceImageStore
from utils.store.study import Study
from utils.store.unfinished import Unfinished
from utils.store.virtual_neuron_files import ClusteredUnits, VirtualNeuronFile

NUMBER = 5
CHANNELS, SETS = [9, 1, 4], 3


@dataclass(frozen=True)
class WatchedStudy(Study):
    """Notes the images of each pass; where contents do not count, images may be others than stage 1 has measured."""

    read: list = field(default_factory=list)
    contents_count: bool = True

    def images(self, store):
        return super().images(store) if self.contents_count else store.read_images(self.data_dir / store.meta["images"])

    def image_source(self, store):
        source = super().image_source(store)
        return WatchedSource(source.images, source.transform, source.batch_size, source.loading, read=self.read)


@dataclass(frozen=True)
class WatchedSource(ImageSource):
    read: list = field(default_factory=list)

    def batches(self, plan, description, done=0):
        self.read.append([index for batch in plan for index in batch])
        return super().batches(plan, None, done)


class FinishedStore:
    """A finished store, its network and images, and how they are read."""

    def __init__(self, data, folder):
        self.data, self.training = data, ImportanceStore(folder / "store", RUN)
        self.meta, self.labels = self.training.load_meta(), self.training.read_labels()
        self.network, self.read = factories.small(), []
        self.layer = find_layer(self.network, "last_conv", 24)

    def study(self, **changes):
        where = {"run": RUN, "data_dir": self.data, "read": self.read}
        opened = OpenedNetwork(self.network, self.layer, "fp32")
        return study_of(self.training, WatchedStudy, **{**where, "open_network": lambda: opened, **changes})

    def pixels(self, store):
        images = range(store.meta["num_images"])
        loader = self.study().image_source(store).batches([[index] for index in images], None)
        return torch.cat([batch.pixels for batch in loader])


# --------------------------------------------------------------------------------------------------------------------
# References


@pytest.fixture
def finished_store(finished):
    return FinishedStore(finished / "data", finished)


def units_of(finished_store, channels, **how):
    return UnitCircuits(
        finished_store.network, finished_store.layer, finished_store.layer.weight[channels], None, **how
    )


def find_references(units, study, number, folder=None):
    """Without a folder nothing is kept that another call could find."""
    with TemporaryDirectory() as another:
        return pure.find_references(units, study, number, Unfinished(Path(folder or another) / "references.npz", {}))


def by_hand(finished_store, channels, usable, start=None):
    """Indices, values and features, image by image; ``start`` makes the leaf of an image's pixels."""
    start, pixels = start or finished_store.network.stem, finished_store.pixels(finished_store.training)
    rest = finished_store.network.stem[1] if start is finished_store.network.stem[0] else torch.nn.Identity()
    maps = finished_store.network.last(finished_store.network.stem(pixels)).flatten(2)
    found = []
    for channel in channels:
        maxima = maps[:, channel].amax(1)
        order = sorted(usable, key=lambda image: (-maxima[image].item(), image))[:NUMBER]
        features = []
        for image in order:
            leaf = start(pixels[[image]]).detach().clone().requires_grad_()
            a = finished_store.network.last(rest(leaf))[0, channel]
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
def test_references_and_their_circuits_are_those_of_a_loop(finished_store, only_correct, circuit_layer):
    channels, study = [0, 3, 9], finished_store.study(only_correct=only_correct, batch_size=7)
    usable = study.usable
    assert (len(usable) < 24) == only_correct
    start = (
        None
        if circuit_layer is None
        else find_circuit_layer(finished_store.network, finished_store.layer, circuit_layer, 24)
    )
    units = units_of(finished_store, channels, circuit_layer=start)
    references = find_references(units, study, NUMBER)
    first, again = finished_store.read
    assert first == usable.tolist() and sorted(again) == references.indices.unique().tolist()
    lower = None if start is None else finished_store.network.stem[0]
    check(references, by_hand(finished_store, channels, usable.tolist(), lower))
    assert references.features.dtype == torch.float32 and references.indices.dtype == torch.int64


def test_each_batch_waits_for_the_device_once(finished_store, monkeypatch):
    cpu, copies = torch.Tensor.cpu, []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor) or cpu(tensor))
    references = find_references(units_of(finished_store, [0, 3, 9]), finished_store.study(batch_size=7), NUMBER)
    again = len(references.indices.unique())
    rows = [len(tensor) for tensor in copies if tensor.dtype == torch.float32]  # the others are on the CPU already
    assert rows[:4] == [7, 7, 7, 3]  # maxima
    assert len(rows) == 4 + -(-again // 7) and sum(rows[4:]) == 3 * NUMBER  # circuits


def test_of_equal_images_the_smaller_index_counts(finished_store):
    """A unit without weights is as large in all images, whatever the batches."""
    units = UnitCircuits(finished_store.network, finished_store.layer, torch.zeros(1, 8, 1), torch.ones(1))
    for batch_size in (2, 24):
        references = find_references(units, finished_store.study(batch_size=batch_size), NUMBER)
        assert references.indices.tolist() == [list(range(NUMBER))] and (references.values == 1).all()
        assert not references.features.any()


class Stopped(Exception):
    """Raised in the middle of a pass."""


@pytest.mark.parametrize("circuit_layer", [None, "stem.0"])
@pytest.mark.parametrize("method", ["maxima", "measure"])
@pytest.mark.parametrize("batches_before", [1, 3])
def test_an_interrupted_search_goes_on_to_the_same_references(
    finished_store, tmp_path, monkeypatch, circuit_layer, method, batches_before
):
    """Both passes, after steps of two batches; the last step may be lost."""
    monkeypatch.setattr(pure.unfinished, "KEPT_IMAGES", 5)
    layer = circuit_layer and find_circuit_layer(finished_store.network, finished_store.layer, circuit_layer, 24)
    study = finished_store.study(batch_size=3)
    whole = find_references(units_of(finished_store, [0, 3, 9], circuit_layer=layer), study, NUMBER)
    _, again = finished_store.read

    units, calls = units_of(finished_store, [0, 3, 9], circuit_layer=layer), []

    def interrupted(pixels):
        calls.append(len(pixels))
        if len(calls) > batches_before:
            raise Stopped
        return getattr(UnitCircuits, method)(units, pixels)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(units, method, interrupted)
        find_references(units, study, NUMBER, tmp_path)
    finished_store.read.clear()
    references = find_references(units, study, NUMBER, tmp_path)
    assert all(torch.equal(value, getattr(whole, name)) for name, value in vars(references).items())
    kept = 6 * (batches_before // 2)
    passes = [list(range(24))[kept:], again] if method == "maxima" else [[], again[kept:]]
    assert finished_store.read == passes


def test_unreadable_images_are_counted_over_interrupted_runs(copy, monkeypatch):
    monkeypatch.setattr(pure.unfinished, "KEPT_IMAGES", 5)
    finished_store = FinishedStore(copy / "data", copy)
    loading = replace(finished_store.study().loading, skip_unreadable=True)
    study = finished_store.study(batch_size=6, open_loading=lambda: loading, contents_count=False)
    study.images(finished_store.training).path(0).write_bytes(b"no image")
    units = units_of(finished_store, [9])

    def interrupted(pixels):
        if len(pixels) == 6:
            raise Stopped
        return UnitCircuits.maxima(units, pixels)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(units, "maxima", interrupted)
        find_references(units, study, 5, copy)
    with pytest.raises(UserError, match="there are 23 usable training images, fewer than 24 references"):
        find_references(units, study, 24, copy / "another")
    assert 0 not in find_references(units, study, 5, copy).indices
    assert finished_store.read[-2] == list(range(6, 24))


def stored_in(folder, finished_store, **changes):
    settings = {"number": NUMBER, "circuit_layer": None, "precision": "fp32", "decoding": "pil", "only_correct": False}
    how = {"settings": {**settings, **changes}, "usual": pure.USUAL}
    return ReferenceImageStore(folder, RUN, Pure.name, finished_store.meta, finished_store.layer.num_inputs, **how)


def test_what_is_there_is_not_measured_again_and_what_is_missing_is_added(finished_store, tmp_path):
    everything = list(range(24))

    def ask(*channels, passes):
        finished_store.read, stored = [], stored_in(tmp_path, finished_store)
        references = unit_references([(channel, 0) for channel in channels], stored, finished_store.study(batch_size=8))
        assert len(finished_store.read) == 2 * passes and finished_store.read[:1] == [everything] * passes
        check(references, by_hand(finished_store, channels, everything))

    ask(9, 2, passes=1)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]  # what was kept of the search is removed
    before = stored_in(tmp_path, finished_store).read([(9, 0)]).features
    ask(2, 9, passes=0)
    ask(11, 9, 0, passes=1)
    assert torch.equal(stored_in(tmp_path, finished_store).read([(9, 0)]).features, before)
    assert stored_in(tmp_path, finished_store, only_correct=True).missing([(9, 0)]) == [(9, 0)]


def test_runs_side_by_side_lose_nothing(finished_store, tmp_path, monkeypatch):
    stored, write, written = stored_in(tmp_path, finished_store), ReferenceImageStore.write, []

    def overwritten_once(self, units, references):
        before = self.path.read_bytes() if self.path.is_file() else None
        write(self, units, references)
        written.append(units)
        if len(written) == 2:  # a run that has read the file before puts back what it has read
            self.path.write_bytes(before)

    monkeypatch.setattr(ReferenceImageStore, "write", overwritten_once)
    for channels in ([9], [4, 1]):
        found = unit_references([(channel, 0) for channel in channels], stored, finished_store.study(batch_size=8))
        check(found, by_hand(finished_store, channels, range(24)))
    assert written == [[(9, 0)], [(1, 0), (4, 0)], [(1, 0), (4, 0)]]


def test_units_of_permuted_weights_have_references_of_their_own(finished_store, tmp_path):
    units = [(9, 0), (9, 1), (9, 2), (3, 1)]
    rows, biases = unit_rows(finished_store.layer, units)
    weight = finished_store.layer.weight
    assert biases is None and torch.equal(rows[0], weight[9])
    assert torch.equal(unit_rows(finished_store.layer, units[3:])[0][0], rows[3])
    for row, (channel, _) in zip(rows[1:], units[1:], strict=True):
        assert not torch.equal(row, weight[channel])
        assert torch.equal(row.flatten().sort().values, weight[channel].flatten().sort().values)
    assert not torch.equal(rows[1], rows[2])
    stored = stored_in(tmp_path, finished_store)
    references = unit_references(units, stored, finished_store.study(batch_size=8))
    finished_store.network.last.weight[:4] = rows[..., None]
    check(references, by_hand(finished_store, range(4), range(24)))


def test_too_few_images_are_refused_before_any_is_read(finished_store):
    with pytest.raises(
        UserError,
        match="there are 24 usable training images, fewer than 25 references: give a smaller --nr_reference_images",
    ):
        find_references(units_of(finished_store, [1]), finished_store.study(), 25)
    assert not finished_store.read


def test_images_that_the_network_cannot_measure_or_that_have_changed_are_named(copy):
    finished_store = FinishedStore(copy / "data", copy)
    with pytest.raises(UserError, match=r"NaN or infinite values for .*ant/0.png"):
        units = UnitCircuits(finished_store.network, finished_store.layer, torch.full((1, 8, 1), np.nan), None)
        find_references(units, finished_store.study(), NUMBER)
    write_image(copy / "data" / "train" / "bee" / "2.png", 0, 5)
    with pytest.raises(UserError, match=r"bee/2.png is not the image that stage 1 measured"):
        find_references(units_of(finished_store, [1]), finished_store.study(), NUMBER)


def test_an_image_that_is_left_out_is_no_reference(copy):
    """One that another decoder cannot read, say."""
    finished_store = FinishedStore(copy / "data", copy)
    loading = replace(finished_store.study().loading, skip_unreadable=True)
    study, units = (
        finished_store.study(open_loading=lambda: loading, contents_count=False),
        units_of(finished_store, [9]),
    )
    (first, *_), *_ = find_references(units, study, NUMBER).indices
    study.images(finished_store.training).path(first).write_bytes(b"no image")
    references = find_references(units, study, NUMBER)
    assert first not in references.indices and len(references.indices[0]) == NUMBER
    with pytest.raises(UserError, match="there are 23 usable training images, fewer than 24 references"):
        find_references(units, study, 24)


# --------------------------------------------------------------------------------------------------------------------
# Virtual neurons on validation images


@pytest.fixture(scope="module")
def val(finished, tmp_path_factory):
    """A folder with a training store and a val store. Not to be changed."""
    folder = tmp_path_factory.mktemp("val")
    stage1(finished / "data", "store", cwd=folder)
    stage1(finished / "data", "store", "--images", "val", cwd=folder)
    return folder


class FinishedStores(FinishedStore):
    """The same with a val store, and centroids at random for three units."""

    def __init__(self, data, folder):
        super().__init__(data, folder)
        self.store = ImportanceStore(folder / "store", RUN, "val")
        self.store.load_meta()
        self.labels = self.store.read_labels()
        generator = torch.Generator().manual_seed(0)
        self.numbers = [2, 3, 2]  # of centroids
        self.num_sets = [SETS, SETS, 1]
        self.centroids = [
            torch.randn(num_sets, number, 8, generator=generator) / 8
            for num_sets, number in zip(self.num_sets, self.numbers, strict=True)
        ]
        self.classes = torch.ones(self.meta["num_outputs"], 3, dtype=torch.bool)

    def units(self, start=None):
        weight = self.layer.weight[CHANNELS]
        return UnitCircuits(self.network, self.layer, weight, torch.tensor([0.0, 0.5, -0.5]), circuit_layer=start)

    def clustered(self, units=None, centroids=None, classes=None):
        classes = self.classes if classes is None else classes
        return ClusteredUnits(units or self.units(), centroids or self.centroids, classes)

    def find(self, units=None, centroids=None, classes=None, decoding="pil"):
        loading = replace(self.study().loading, decoding=decoding)
        study = self.study(batch_size=6, open_loading=lambda: loading, decoding=decoding)
        return stored_virtual_neurons(self.store, study, self.labels, self.clustered(units, centroids, classes))

    def file(self, decoding):
        return VirtualNeuronFile(self.store, RUN, self.labels, self.clustered(), decoding=decoding)


def assert_equal_neurons(found, expected):
    for of_unit, expected_of_unit in zip(found, expected, strict=True):
        assert torch.equal(of_unit.indices, expected_of_unit.indices)
        assert torch.equal(of_unit.nearest, expected_of_unit.nearest)
        torch.testing.assert_close(of_unit.maxima, expected_of_unit.maxima)


@pytest.fixture
def finished_stores(finished, val, tmp_path):
    (tmp_path / "store").mkdir()
    for folder in (val / "store").iterdir():
        (tmp_path / "store" / folder.name).symlink_to(folder)
    return FinishedStores(finished / "data", tmp_path)


@pytest.mark.parametrize("circuit_layer", [None, "stem"])
def test_each_image_is_at_the_nearest_centroid_of_its_circuit(finished_stores, circuit_layer):
    start = (
        None
        if circuit_layer is None
        else find_circuit_layer(finished_stores.network, finished_stores.layer, circuit_layer, 24)
    )
    found = finished_stores.find(finished_stores.units(start))
    for of_unit, num_sets in zip(found, finished_stores.num_sets, strict=True):
        assert torch.equal(of_unit.indices, finished_stores.labels.indices) and of_unit.nearest.dtype == torch.int8
        assert of_unit.nearest.shape == (16, num_sets)
    assert len(found[1].nearest.unique()) == 3
    pixels = finished_stores.pixels(finished_stores.store)
    for image, unit in torch.cartesian_prod(torch.arange(16), torch.arange(3)).tolist():
        x = finished_stores.network.stem(pixels[[image]]).requires_grad_()
        a = finished_stores.network.last(x)[0, CHANNELS[unit]] + [0, 0.5, -0.5][unit]
        a.backward(a.detach().clamp(min=0))
        circuit = (x * x.grad).detach().sum((0, 2, 3))
        circuit = circuit / (circuit.abs().sum() + 1e-10)
        torch.testing.assert_close(found[unit].maxima[image], a.detach().max().clamp(min=0))
        for of_set, centroids in enumerate(finished_stores.centroids[unit]):
            distances = [(circuit - centroid).square().sum().item() for centroid in centroids]
            assert found[unit].nearest[image, of_set] == distances.index(min(distances))


def test_a_second_call_needs_no_pass_and_anything_else_another_one(finished_stores):
    first = finished_stores.find()
    again = finished_stores.find()
    assert len(finished_stores.read) == 1
    assert_equal_neurons(again, first)
    other = [one + 0.5 for one in finished_stores.centroids]
    finished_stores.find(centroids=other)
    finished_stores.find(decoding="fast")
    finished_stores.find(
        finished_stores.units(find_circuit_layer(finished_stores.network, finished_stores.layer, "stem", 24))
    )
    assert len(finished_stores.read) == 4
    assert len(list(finished_stores.store.folder.parent.glob(f"{RUN}_pure_virtual_neurons_val_*.npz"))) == 4
    finished_stores.find(centroids=other)
    assert len(finished_stores.read) == 4


def test_batches_are_small_enough_for_all_circuits_to_fit_into_memory(finished_stores, monkeypatch):
    found = finished_stores.find()
    monkeypatch.setattr(pure, "MOST_VALUES", 3 * 8 * 2)
    sizes = []
    one_by_one = lambda indices, size: sizes.append(size) or [[int(index)] for index in indices]  # noqa: E731
    monkeypatch.setattr(image_passes, "batches_of", one_by_one)
    finished_stores.file("pil").path.unlink()
    assert_equal_neurons(finished_stores.find(), found)
    assert sizes == [2]


def test_a_unit_is_measured_in_the_images_of_its_classes_alone(finished_stores):
    everywhere = finished_stores.find()
    classes = torch.zeros_like(finished_stores.classes)
    classes[1, 0] = classes[2, 0] = classes[2, 2] = True
    found = finished_stores.find(classes=classes)
    targets = finished_stores.labels.targets
    assert finished_stores.read[-1] == ((targets == 1) | (targets == 2)).nonzero().flatten().tolist()
    for unit, of_unit in enumerate(everywhere):
        shown = classes[targets, unit]
        of_unit.indices, of_unit.maxima, of_unit.nearest = (values[shown] for values in vars(of_unit).values())
    assert [len(of_unit.indices) for of_unit in found] == [8, 0, 4]
    assert_equal_neurons(found, everywhere)


def test_a_pass_that_was_stopped_reads_no_finished_block_again(finished_stores, monkeypatch):
    whole = finished_stores.find()
    finished_stores.file("pil").path.unlink()
    for module in (image_passes, virtual_neuron_files):
        monkeypatch.setattr(module, "KEPT_IMAGES", 5)
    measure, calls = UnitCircuits.measure, []

    def stopped(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(self, pixels)

    monkeypatch.setattr(UnitCircuits, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        finished_stores.find()
    assert_equal_neurons(finished_stores.find(), whole)
    assert calls == [5, 5, 5, 5, 1] and finished_stores.read[-1] == list(range(10, 16))
    (path,) = finished_stores.store.folder.parent.glob(f"{RUN}_pure_*")
    assert path == finished_stores.file("pil").path


def test_values_of_virtual_neurons_add_up_to_the_unit(finished_stores):
    for of_unit, number, num_sets in zip(
        finished_stores.find(), finished_stores.numbers, finished_stores.num_sets, strict=True
    ):
        values = of_unit.values(number, of_set=num_sets - 1)
        assert torch.equal(values.sum(0), of_unit.maxima) and ((values > 0).sum(0) <= 1).all()
        images, clusters = of_unit.strongest(5, of_set=num_sets - 1)
        assert torch.equal(of_unit.maxima[images], of_unit.maxima.sort(descending=True).values[:5])
        assert torch.equal(values[clusters, images], of_unit.maxima[images])


def test_a_file_under_another_name_is_refused(finished_stores):
    finished_stores.find()
    (path,) = finished_stores.store.folder.parent.glob("*.npz")
    file = finished_stores.file("fast")
    path.rename(file.path)
    with pytest.raises(UserError, match=r"is damaged .it is of something else"):
        file.read()


def test_more_clusters_than_their_numbers_can_tell_are_refused_before_any_pass(finished_stores):
    with pytest.raises(UserError, match="a unit has 129 clusters by PURE, more than 128 virtual neurons"):
        finished_stores.find(centroids=[torch.zeros(SETS, number, 8) for number in (2, 129, 2)])
    assert not finished_stores.read
