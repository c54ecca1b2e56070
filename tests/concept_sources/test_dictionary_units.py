"""Units of dictionaries: which are a channel's, their values and insertions, against loops over images and hooks."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import factories
from tests.scripts import RUN
from tests.stores import study_of
from utils.concept_sources import dictionary_units, layer_positions, sae
from utils.concept_sources.compared_channels import DRAWS, UNITS_AT_RANDOM
from utils.concept_sources.dictionary_units import (
    ActivatedView,
    LargestUnits,
    LayerDictionary,
    OutputView,
    measured_units,
)
from utils.concept_sources.nmf import factorised, number_of_components
from utils.errors import UserError
from utils.method.dictionary_fit import Fit
from utils.networks.coordinates import LayerCoordinates
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.store import image_passes
from utils.store.importance_store import ImportanceStore

CHANNEL = 9


class Rectified:
    """Codes ``max(V A^T, 0)``, reconstructed by A times a factor."""

    def __init__(self, atoms, factor=1.0):
        self.atoms = atoms
        self.factor = factor

    def codes(self, values):
        return (values @ self.atoms.T).clamp(min=0)

    def reconstruct(self, codes):
        return self.factor * codes @ self.atoms


def both_signs(size):
    return torch.cat([torch.eye(size), -torch.eye(size)])


@pytest.fixture
def training(finished):
    store = ImportanceStore(finished / "store", RUN)
    store.load_meta()
    return store


@pytest.fixture
def study(finished, training, tmp_path):
    network = factories.small()
    opened = OpenedNetwork(network, find_layer(network, "last_conv", 24), "fp32")
    where = {"run": RUN, "data_dir": finished / "data", "store_dir": tmp_path}
    return study_of(training, **where, open_network=lambda: opened)


def described(study, atoms, kind=OutputView, factor=1.0, **made_from):
    coordinates = LayerCoordinates.of(study.network.layer)
    view = kind(coordinates) if kind is OutputView else kind(coordinates, None)
    number = coordinates.number if kind is OutputView else study.network.layer.num_channels
    fit = Fit(1.0, torch.ones(len(atoms), dtype=torch.bool), 1.0)
    return LayerDictionary(Rectified(atoms, factor), view, torch.zeros(number), fit, made_from)


def pixels_of(study, images):
    loader = study.image_source(study.training).batches([[image] for image in images], None)
    return torch.cat([batch.pixels for batch in loader])


def outputs_of(study, pixels):
    return study.network.module.last(study.network.module.stem(pixels)).flatten(2)  # [B, C, positions]


def test_values_are_sums_of_codes_over_positions(study):
    images = torch.tensor([1, 4, 5, 17])
    atoms = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    units = measured_units(study.training, study, images, images[:0], {"some": described(study, atoms, ActivatedView)})
    outputs = outputs_of(study, pixels_of(study, images.tolist()))
    for row, of_image in enumerate(outputs):
        codes = [np.maximum(atoms.numpy() @ np.maximum(at, 0), 0) for at in of_image.T.numpy()]
        np.testing.assert_allclose(units.of("some")[row], sum(codes), rtol=1e-4, atol=1e-5)
    assert (units.predictions() == -1).all() and (units.predictions("some") == -1).all()  # nothing was inserted


def test_inserting_is_what_a_hook_does_and_a_perfect_dictionary_changes_nothing(study):
    images = torch.arange(0, 24, 3)
    inserted = images[::2]
    dictionaries = {
        "perfect": described(study, both_signs(8)),
        "tenth": described(study, both_signs(8), factor=0.1),
        "negated": described(study, both_signs(8), factor=-1.0),
    }
    units = measured_units(study.training, study, images, inserted, dictionaries)
    network = study.network.module
    pixels = pixels_of(study, inserted.tolist())
    plain = network(pixels).argmax(1)
    assert units.predictions()[::2].tolist() == units.predictions("perfect")[::2].tolist() == plain.tolist()
    assert (units.predictions("perfect")[1::2] == -1).all()
    for name, factor in (("tenth", 0.1), ("negated", -1.0)):
        with network.last.register_forward_hook(lambda module, args, output, factor=factor: factor * output):
            expected = network(pixels).argmax(1)
        assert units.predictions(name)[::2].tolist() == expected.tolist()
    assert units.predictions("negated")[::2].tolist() != plain.tolist()
    assert units.explained("perfect") == pytest.approx(1) and units.explained("tenth") == pytest.approx(0.19, abs=1e-4)


def test_a_second_call_makes_no_pass_and_another_dictionary_another_one(study, monkeypatch):
    images = torch.arange(4)
    first = measured_units(study.training, study, images, images, {"some": described(study, both_signs(8), seed=1)})
    passes = []
    source = type(study).image_source
    monkeypatch.setattr(type(study), "image_source", lambda self, store: passes.append(store) or source(self, store))
    again = measured_units(study.training, study, images, images, {"some": described(study, both_signs(8), seed=1)})
    assert not passes and torch.equal(first.of("some"), again.of("some"))
    measured_units(study.training, study, images, images, {"some": described(study, both_signs(8), seed=2)})
    measured_units(study.training, study, images[1:], images[1:], {"some": described(study, both_signs(8), seed=1)})
    assert len(passes) == 2
    for path in study.model_dir.glob("*dictionary_units*"):
        path.write_bytes(path.read_bytes()[:100])  # damaged: computed again
    after = measured_units(study.training, study, images, images, {"some": described(study, both_signs(8), seed=1)})
    assert len(passes) == 3 and torch.equal(first.of("some"), after.of("some"))


def test_the_units_of_a_channel_have_the_largest_weight_at_it_among_the_active_ones(study):
    generator = torch.Generator().manual_seed(3)
    dictionary = described(study, torch.randn(30, 12, generator=generator), ActivatedView)
    active = torch.rand(30, generator=generator) < 0.7
    dictionary = replace(dictionary, fit=Fit(1.0, active, 2.0))
    finder = SimpleNamespace(passes={"some": dictionary}, number=lambda _: 4, units=lambda _, __, numbers: numbers)
    chosen = LargestUnits(finder, "some").units_by_null(SimpleNamespace(channel=CHANNEL))
    weights = {u: float(dictionary.dictionary.atoms[u, CHANNEL]) for u in range(30) if active[u]}
    assert chosen[""][0].tolist() == sorted(weights, key=weights.get, reverse=True)[:4]
    nulls = [frozenset(numbers.tolist()) for numbers in chosen[UNITS_AT_RANDOM]]
    assert len(nulls) == DRAWS and len(set(nulls)) > DRAWS / 2
    assert all(len(numbers) == 4 and numbers <= weights.keys() for numbers in nulls)
    finder.passes["some"] = replace(dictionary, fit=Fit(1.0, active & False, 0.0))
    with pytest.raises(UserError, match="no unit is active"):
        LargestUnits(finder, "some").units_by_null(SimpleNamespace(channel=CHANNEL))


def test_weights_at_channels_are_those_of_the_output(study):
    coordinates = LayerCoordinates.of(study.network.layer)
    atoms = torch.randn(6, coordinates.number, generator=torch.Generator().manual_seed(0))
    expected = coordinates.values(atoms) - coordinates.values(torch.zeros_like(atoms))
    torch.testing.assert_close(OutputView(coordinates).channels(atoms), expected)


def test_positions_are_of_the_layers_output(study, monkeypatch):
    stored = layer_positions.stored_positions(study, 60)
    coordinates = LayerCoordinates.of(study.network.layer)
    outputs = outputs_of(study, pixels_of(study, range(24))).movedim(1, 2).flatten(0, 1)
    distances = torch.cdist(coordinates.values(stored), outputs)
    assert stored.shape == (60, 8) and float(distances.min(1).values.max()) < 2e-3 * float(outputs.norm(dim=1).max())
    assert len(distances.argmin(1).unique()) == 60
    monkeypatch.setattr(type(study), "image_source", None)
    assert torch.equal(layer_positions.stored_positions(study, 60), stored)


def test_positions_come_from_misclassified_images_too(study):
    correct = replace(study, only_correct=True)
    num_positions = study.meta["positions"]
    assert len(correct.usable) < len(study.labels.indices) == 24
    stored = layer_positions.stored_positions(correct, 24 * num_positions)
    assert len(stored) == 24 * num_positions
    assert torch.equal(layer_positions.stored_positions(study, 24 * num_positions), stored)


def test_nmf_is_of_what_follows_the_layers_own_batch_norm_and_activation(study):
    dictionary = factorised(study)
    assert dictionary.view.words == "what follows the layer's BatchNorm and ReLU"
    assert dictionary.num_units == number_of_components(12, 8) == 6
    pixels = pixels_of(study, range(3))
    coordinates = dictionary.view.coordinates.of_input(study.network.module.stem(pixels)).flatten(0, 1)
    values = dictionary.view.values(coordinates)
    expected = study.network.module.head[:2](study.network.module.last(study.network.module.stem(pixels)))
    torch.testing.assert_close(values, expected.flatten(2).movedim(1, 2).flatten(0, 1), atol=1e-4, rtol=1e-3)
    # the output at which the network has these values
    output = dictionary.view.output(values, coordinates)
    again = study.network.module.head[:2](output.T[None, :, :, None])[0, :, :, 0].T
    torch.testing.assert_close(again, values, atol=1e-4, rtol=1e-3)
    assert ActivatedView(dictionary.view.coordinates, None).output(values, coordinates) is None
    assert ActivatedView(dictionary.view.coordinates, None).words == "max(a, 0)"


def test_autoencoders_are_trained_once_and_only_one_decoder_moves(study, monkeypatch):
    monkeypatch.setattr(sae.dictionary_units, "POSITIONS", 100)
    trained = sae.trained_autoencoders(study, "torch")
    assert list(trained) == ["sae", "sae_frozen"]
    monkeypatch.setattr(layer_positions, "stored_positions", None)  # nothing is trained again
    again = sae.trained_autoencoders(study, "torch")
    for name, dictionary in trained.items():
        assert torch.equal(dictionary.dictionary.atoms, again[name].dictionary.atoms)
        norms = dictionary.dictionary.atoms.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-4, rtol=1e-4)
    assert trained["sae"].fit.explained > trained["sae_frozen"].fit.explained


def test_units_are_matched_by_a_sample_of_each_class(study, training, monkeypatch):
    monkeypatch.setattr(dictionary_units, "IMAGES_OF_CLASS", 2)
    labels = training.read_labels()
    channels = [(CHANNEL, [[1], [2, 3]])]
    comparison = SimpleNamespace(channels=channels, usable=labels, study=study)
    passes = dictionary_units.SharedPasses(comparison)
    passes.add("some", described(study, both_signs(8)))
    sampled = passes.training.indices
    targets = labels.targets[torch.searchsorted(labels.indices, sampled)]
    assert targets.bincount(minlength=4).tolist() == [0, 2, 2, 2] and sampled.tolist() == sorted(sampled.tolist())
    images = labels.indices[torch.isin(labels.targets, torch.tensor([1, 2, 3]))]
    membership = torch.stack([labels.targets[images] == 1, labels.targets[images] > 1])
    passes.__dict__["validation"] = passes.training  # as if these were the validation images
    finder = SimpleNamespace(passes=passes)
    units = dictionary_units.DictionaryFinder.units(
        finder, "some", SimpleNamespace(images=images), torch.tensor([3, 0])
    )
    assert torch.equal(units.training, passes.training.of("some")[:, [3, 0]].T)
    assert torch.equal(units.of_sampled(membership), membership[:, torch.isin(images, sampled)])
    monkeypatch.setattr(dictionary_units, "IMAGES_OF_CLASS", 100)
    assert torch.equal(dictionary_units.sample_of_class(images, 1).sort().values, images)


def test_a_pass_that_was_stopped_goes_on_after_the_last_kept_block(study, monkeypatch):
    images = torch.arange(10)
    dictionaries = {"some": described(study, both_signs(8), seed=3)}
    whole = measured_units(study.training, study, images, images, dictionaries)
    for path in study.model_dir.glob("*dictionary_units*"):
        path.unlink()
    monkeypatch.setattr(image_passes, "KEPT_IMAGES", 4)
    seen = []

    def values_until(last):
        def values(network, batch, inserted, of_dictionaries):
            if int(batch.indices.max()) > last:
                raise KeyboardInterrupt
            seen.extend(batch.indices.tolist())
            return values_of_batch(network, batch, inserted, of_dictionaries)

        return values

    values_of_batch = dictionary_units._values_of_batch
    monkeypatch.setattr(dictionary_units, "_values_of_batch", values_until(last=4))
    with pytest.raises(KeyboardInterrupt):
        measured_units(study.training, study, images, images, dictionaries)
    seen.clear()
    monkeypatch.setattr(dictionary_units, "_values_of_batch", values_until(last=9))
    again = measured_units(study.training, study, images, images, dictionaries)
    assert seen and min(seen) == 4 and max(seen) == 9
    torch.testing.assert_close(again.of("some"), whole.of("some"))
