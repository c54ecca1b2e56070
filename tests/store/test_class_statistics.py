"""Stage 2's part of the store: class means and counts."""

import numpy as np
import pytest
import torch

from tests.stores import META, equal
from utils.errors import UserError
from utils.store.class_statistics import ClassStore


def write_means(classes):
    means = torch.arange(12.0, dtype=torch.float64).view(2, 3, 2, 1, 1)
    images = torch.tensor([[[3, 2], [2, 1], [1, 1]], [[1, 0], [1, 0], [0, 0]]])
    means[images == 0] = torch.nan
    classes.write_means(means, images)
    return means, images


def test_class_means_are_read_as_they_are_and_those_of_another_store_are_not(tmp_path):
    classes = ClassStore(tmp_path, "m", META)
    assert classes.read_means() is None and classes.read_relevant(0.5) is None
    with pytest.raises(UserError, match=r"there is no .*class_means.npz .*: run get_cosine_similarities.py first"):
        classes.require_means()
    means, images = write_means(classes)
    read_means, read_images = classes.require_means()
    torch.testing.assert_close(read_means, means, rtol=0, atol=0, equal_nan=True)
    assert equal(read_images, images)
    counts = torch.tensor([[[0, 1], [2, 0]], [[0, 1], [0, 0]]])
    classes.write_relevant(0.5, counts)
    assert equal(classes.read_relevant(0.5), counts) and equal(classes.require_relevant(0.5), counts)
    assert classes.read_relevant(0.25) is None
    with pytest.raises(UserError, match=r"there is no .*0.25.* for this store: run get_cosine_similarities.py first"):
        classes.require_relevant(0.25)
    other = ClassStore(tmp_path, "m", {**META, "model": "other"})
    assert other.read_means() is None and other.read_relevant(0.5) is None


def test_tau_is_part_of_the_content_so_that_renamed_counts_are_refused(tmp_path):
    classes = ClassStore(tmp_path, "m", META)
    for tau in (0.5, 0.25):
        classes.write_relevant(tau, torch.full((2, 2, 2), int(100 * tau)))
    one, other = classes.relevant_path(0.5), classes.relevant_path(0.25)
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    for tau, of in ((0.5, 0.25), (0.25, 0.5)):
        with pytest.raises(UserError, match=rf"required{tau}\.npz is damaged \(it is of tau {of}\)"):
            classes.read_relevant(tau)


SETTINGS = {"tau": 0.5, "p": 0.75, "only_correct": True, "min_images": 2, "only_above_mean": False}
MODES = np.array([0, 1, 1]), np.array([1, 0, 1]), np.array([0.5, np.nan, -0.25])


def test_modes_are_read_for_the_channels_classes_and_settings_that_they_are_of(tmp_path):
    classes = ClassStore(tmp_path, "m", META)
    channels, outputs, cosines = MODES
    assert classes.read_modes(SETTINGS, channels, outputs) is None
    classes.write_modes(SETTINGS, *MODES)
    assert classes.modes_path(**SETTINGS).name == "m_modes_required0.5_p0.75_only_correct_min2.npz"
    np.testing.assert_array_equal(classes.read_modes(SETTINGS, channels, outputs), cosines)
    assert classes.read_modes(SETTINGS, channels, 1 - outputs) is None
    assert classes.read_modes(SETTINGS, channels[:2], outputs[:2]) is None
    assert classes.read_modes({**SETTINGS, "only_above_mean": True}, channels, outputs) is None
    assert ClassStore(tmp_path, "m", {**META, "model": "other"}).read_modes(SETTINGS, channels, outputs) is None


def test_modes_under_another_name_are_refused(tmp_path):
    classes, other = ClassStore(tmp_path, "m", META), {**SETTINGS, "p": 0.5}
    classes.write_modes(SETTINGS, *MODES)
    classes.modes_path(**SETTINGS).rename(classes.modes_path(**other))
    with pytest.raises(UserError, match=r"modes_required0.5_p0.5_.*is damaged .it is of other settings"):
        classes.read_modes(other, *MODES[:2])
