"""Files of dictionaries: positions in halves and scales, dictionaries that are made once."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.method.dictionary_fit import Fit
from utils.store.dictionary_files import packed_positions, stored_dictionary, unpacked_positions

LAYOUT = {"atoms": (np.float32, (3, 4)), "mean": (np.float32, (4,))}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_positions_of_any_scale_are_kept_to_the_precision_of_a_half(scale):
    coordinates = scale * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    again = unpacked_positions(packed_positions(coordinates))
    error = (again - coordinates).abs().max(1).values
    assert (error <= 2**-10 * coordinates.abs().max(1).values).all()


def test_a_position_at_the_origin_stays_there():
    assert torch.equal(unpacked_positions(packed_positions(torch.zeros(2, 8))), torch.zeros(2, 8))


@pytest.fixture
def study(tmp_path):
    return SimpleNamespace(model_dir=tmp_path, run="toy_last")


def stored(study, made, seed):
    def make():
        made.append(seed)
        atoms = torch.full((3, 4), float(seed))
        return {"atoms": atoms, "mean": atoms[0]}, Fit(0.75, torch.tensor([True, False, True]), 1.5)

    return stored_dictionary(study, "sae", {"seed": seed}, LAYOUT, words="an autoencoder", make=make)


def test_a_dictionary_is_made_once_for_each_of_its_settings(study, capsys):
    made = []
    first = stored(study, made, 1)
    other = stored(study, made, 2)
    again = stored(study, made, 1)
    assert made == [1, 2]
    assert capsys.readouterr().out.count("an autoencoder: ") == 2
    for tensors, fit in (first, again):
        assert tensors.keys() == LAYOUT.keys() and (tensors["atoms"] == 1).all()
        assert fit.explained == 0.75 and fit.units_at_position == 1.5 and fit.active.tolist() == [True, False, True]
    assert (other[0]["mean"] == 2).all()


def test_a_damaged_dictionary_is_made_again(study):
    made = []
    stored(study, made, 1)
    (path,) = study.model_dir.glob("toy_last_sae_*.npz")
    path.write_bytes(path.read_bytes()[:-20])
    tensors, _ = stored(study, made, 1)
    assert made == [1, 1] and (tensors["atoms"] == 1).all()
