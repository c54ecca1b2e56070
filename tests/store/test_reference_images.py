"""Reference images of channels: what is stored, and what is added."""

import pytest
import torch

from tests.stores import META, some_flips
from utils.concept_sources.pure import USUAL
from utils.errors import UserError
from utils.store.reference_images import ReferenceImages, ReferenceImageStore

CHANNELS, IMAGES, NUMBER, FEATURES = 9, 20, 4, 3
OF_LAYER = {**META, "num_channels": CHANNELS, "num_images": IMAGES}
SETTINGS = {**USUAL, "number": NUMBER}


def stored(folder, meta=OF_LAYER, num_features=FEATURES, **changes):
    return ReferenceImageStore(folder, "m", "pure", meta, num_features, settings={**SETTINGS, **changes}, usual=USUAL)


def units(*channels):
    """Of the channels themselves."""
    return [(channel, 0) for channel in channels]


def references(*channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(IMAGES, generator=generator)[:NUMBER] for _ in channels])
    features = torch.randn(len(channels), NUMBER, FEATURES, generator=generator)
    values = torch.rand(len(channels), NUMBER, generator=generator).sort(descending=True).values
    return ReferenceImages(indices, values, features / features.abs().sum(-1, keepdim=True))


def same(one, other):
    return all(torch.equal(value, vars(other)[name]) for name, value in vars(one).items())


def rows(of, *which):
    return ReferenceImages(*(value[list(which)] for value in vars(of).values()))


def test_units_are_added_and_read_in_any_order(tmp_path):
    first, second = references(2, 7), references(0, 5, 7, seed=1)
    assert stored(tmp_path).missing(units(7, 2, 7)) == units(2, 7)
    stored(tmp_path).write(units(7, 2), first)
    assert same(stored(tmp_path).read(units(7, 2)), first)
    assert stored(tmp_path).missing(units(5, 2, 0)) == units(0, 5)
    stored(tmp_path).write([(0, 0), (7, 1), (7, 0)], second)
    assert stored(tmp_path).missing([(7, 2), (7, 1), (7, 0), (2, 1)]) == [(2, 1), (7, 2)]
    assert same(stored(tmp_path).read([(0, 0), (7, 1), (7, 0), (7, 0)]), rows(second, 0, 1, 2, 2))
    assert same(stored(tmp_path).read(units(2)), rows(first, 1))


def test_units_that_are_not_there_are_not_taken_for_others(tmp_path):
    stored(tmp_path).write(units(2, 7), references(2, 7))
    for absent in (0, 5, 8):
        with pytest.raises(UserError, match="was replaced while this run used it"):
            stored(tmp_path).read(units(2, absent))


def test_other_settings_have_a_file_of_their_own(tmp_path):
    changes = [
        {},
        *({"number": 5}, {"circuit_layer": "stem"}, {"only_correct": True}),
        *({"precision": "bf16"}, {"decoding": "fast"}),
    ]
    paths = [stored(tmp_path, **one).path for one in changes]
    assert len(set(paths)) == len(changes)
    assert stored(tmp_path, number=100).path.name == "m_pure_references.npz"
    stored(tmp_path).write(units(1), references(1))
    assert [stored(tmp_path, **one).missing(units(1)) for one in changes] == [[], *[units(1)] * 5]


def test_another_training_store_replaces_what_is_there(tmp_path):
    stored(tmp_path).write(units(1), references(1))
    other = stored(tmp_path, {**OF_LAYER, "data_sha256": "0"}, num_features=FEATURES + 1)
    assert other.missing(units(1)) == units(1) and not stored(tmp_path).missing(units(1))
    new = references(3)
    new.features = torch.zeros(1, NUMBER, FEATURES + 1)
    other.write(units(3), new)
    assert other.missing(units(1, 3)) == units(1) and stored(tmp_path).missing(units(3)) == units(3)


def test_damage_is_found_wherever_it_matters(tmp_path):
    first, found = references(1), 0
    stored(tmp_path).write(units(1), first)
    for _, damaged in some_flips(stored(tmp_path).path.read_bytes(), every=9):
        stored(tmp_path).path.write_bytes(damaged)
        try:
            assert same(stored(tmp_path).read(units(1)), first)
        except UserError as error:
            assert "is damaged" in str(error) and "--concepts_from pure again" in str(error)
            found += 1
    assert found > 100
