"""PURE's virtual neurons on validation images, against plain autograd, one image and one unit at a time."""

import pytest
import torch

from tests import factories
from tests.conftest import RUN, stage1
from utils.errors import UserError
from utils.images.batches import ImageBatches
from utils.networks.circuits import UnitCircuits, find_circuit_layer
from utils.networks.layers import find_layer
from utils.stages import virtual_neurons as stage
from utils.stages.virtual_neurons import measure_virtual_neurons, stored_virtual_neurons
from utils.store.importances import ImportanceStore
from utils.store.splits import transform_from

CHANNELS, SETS = [9, 1, 4], 3


@pytest.fixture(scope="module")
def val(finished, tmp_path_factory):
    """A folder with a training store and a val store. Not to be changed."""
    folder = tmp_path_factory.mktemp("val")
    stage1(finished / "data", "store", cwd=folder)
    stage1(finished / "data", "store", "--images", "val", cwd=folder)
    return folder


class World:
    def __init__(self, finished, folder):
        self.store = ImportanceStore(folder / "store", RUN, "val")
        self.meta, self.labels = self.store.load_meta(), self.store.read_labels()
        self.images = self.store.read_images(finished / "data" / "val")
        self.images = self.images.with_contents(self.labels.indices, self.labels.contents)
        self.network, self.passes = factories.small(), 0
        self.layer = find_layer(self.network, "last_conv", 24)
        generator = torch.Generator().manual_seed(0)
        self.numbers = [2, 3, 2]  # of centroids
        self.centroids = [torch.randn(SETS, number, 8, generator=generator) / 8 for number in self.numbers]

    def units(self, start=None):
        weight = self.layer.weight[CHANNELS]
        return UnitCircuits(self.network, self.layer, weight, torch.tensor([0.0, 0.5, -0.5]), circuit_layer=start)

    def load(self, batches, description):
        self.passes += 1
        options = {"num_workers": 0, "device": torch.device("cpu"), "skip_unreadable": False}
        return ImageBatches(self.images, transform_from(self.meta["transform"]), batches, None, **options)

    def find(self, units=None, centroids=None, decoding="pil"):
        more = units or self.units(), centroids or self.centroids
        return stored_virtual_neurons(self.store, RUN, self.labels, *more, self.load, 6, decoding)


@pytest.fixture
def world(finished, val, tmp_path):
    (tmp_path / "store").mkdir()
    for folder in (val / "store").iterdir():
        (tmp_path / "store" / folder.name).symlink_to(folder)
    return World(finished, tmp_path)


@pytest.mark.parametrize("circuit_layer", [None, "stem"])
def test_each_image_is_at_the_nearest_centroid_of_its_circuit(world, circuit_layer):
    start = None if circuit_layer is None else find_circuit_layer(world.network, world.layer, circuit_layer, 24)
    found = world.find(world.units(start))
    assert torch.equal(found.indices, world.labels.indices) and found.nearest.dtype == torch.int8
    assert found.nearest.shape == (16, 3, SETS) and len(found.nearest.unique()) == 3
    pixels = torch.cat([pixels for _, pixels, _ in world.load([list(range(16))], None)])
    for image, unit in torch.cartesian_prod(torch.arange(16), torch.arange(3)).tolist():
        x = world.network.stem(pixels[[image]]).requires_grad_()
        a = world.network.last(x)[0, CHANNELS[unit]] + [0, 0.5, -0.5][unit]
        a.backward(a.detach().clamp(min=0))
        circuit = (x * x.grad).detach().sum((0, 2, 3))
        circuit = circuit / (circuit.abs().sum() + 1e-10)
        torch.testing.assert_close(found.maxima[image, unit], a.detach().max().clamp(min=0))
        for of_set, centroids in enumerate(world.centroids[unit]):
            distances = [(circuit - centroid).square().sum().item() for centroid in centroids]
            assert found.nearest[image, unit, of_set] == distances.index(min(distances))


def test_a_second_call_needs_no_pass_and_anything_else_another_one(world):
    first = world.find()
    again = world.find()
    assert world.passes == 1 and all(torch.equal(one, vars(again)[name]) for name, one in vars(first).items())
    other = [one + 0.5 for one in world.centroids]
    world.find(centroids=other)
    world.find(decoding="fast")
    world.find(world.units(find_circuit_layer(world.network, world.layer, "stem", 24)))
    assert world.passes == 4
    assert len(list(world.store.folder.parent.glob(f"{RUN}_pure_virtual_neurons_val_*.npz"))) == 4
    world.find(centroids=other)
    assert world.passes == 4


def test_batches_are_small_enough_for_all_circuits_to_fit_into_memory(world, monkeypatch):
    found = world.find()
    sizes = []
    monkeypatch.setattr(stage, "MOST_VALUES", 3 * 8 * 2)
    monkeypatch.setattr(stage, "batches_of", lambda indices, size: sizes.append(size) or [[int(i)] for i in indices])
    indices = world.labels.indices
    maxima, clusters = measure_virtual_neurons(world.units(), world.centroids, world.load, indices, 6)
    assert sizes == [2] and torch.equal(clusters, found.nearest)
    torch.testing.assert_close(maxima, found.maxima)


def test_values_of_virtual_neurons_add_up_to_the_unit(world):
    found = world.find()
    for unit, number in enumerate(world.numbers):
        values = found.values(unit, number, of_set=1)
        assert torch.equal(values.sum(0), found.maxima[:, unit]) and ((values > 0).sum(0) <= 1).all()
        images, clusters = found.strongest(unit, 5, of_set=1)
        assert torch.equal(found.maxima[images, unit], found.maxima[:, unit].sort(descending=True).values[:5])
        assert torch.equal(values[clusters, images], found.maxima[images, unit])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda maxima, clusters: maxima.sub_(100), "its activations are impossible"),
        (lambda maxima, clusters: maxima.fill_(torch.nan), "its activations are impossible"),
        (lambda maxima, clusters: clusters[0, 1].fill_(3), "its clusters are impossible"),
        (lambda maxima, clusters: clusters[0, 0].fill_(2), "its clusters are impossible"),
    ],
)
def test_files_that_cannot_be_any_are_refused(world, spoil, message):
    found = world.find()
    spoil(found.maxima, found.nearest)
    file = stage.VirtualNeuronFile(world.store, RUN, world.labels, world.units(), world.centroids, "pil")
    file.write(found.maxima, found.nearest)
    with pytest.raises(UserError, match=rf"is damaged .{message}"):
        world.find()


def test_a_file_under_another_name_is_refused(world):
    world.find()
    (path,) = world.store.folder.parent.glob("*.npz")
    file = stage.VirtualNeuronFile(world.store, RUN, world.labels, world.units(), world.centroids, "fast")
    path.rename(file.path)
    with pytest.raises(UserError, match=r"is damaged .it is of something else"):
        file.read()


def test_more_clusters_than_their_numbers_can_tell_are_refused_before_any_pass(world):
    with pytest.raises(UserError, match="a unit has 129 clusters by PURE, more than 128 virtual neurons"):
        world.find(centroids=[torch.zeros(SETS, number, 8) for number in (2, 129, 2)])
    assert not world.passes
