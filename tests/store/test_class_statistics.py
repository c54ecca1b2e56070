"""Stage 2's part of the store: class means and counts."""

import pytest
import torch

from tests.store.helpers import META, equal
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
    assert equal(classes.read_relevant(0.5), counts)
    assert classes.read_relevant(0.25) is None
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


@pytest.mark.parametrize("what", ["halves", "negative", "nan", "counts"])
def test_class_means_that_cannot_be_any_are_refused(tmp_path, what):
    classes = ClassStore(tmp_path, "m", META)
    means, images = write_means(classes)
    if what == "counts":
        classes.write_relevant(0.5, torch.tensor([-1]).expand(2, 2, 2))
        with pytest.raises(UserError, match=r"is damaged .its counts are impossible"):
            classes.read_relevant(0.5)
        return
    if what == "nan":
        means[0, 1, 0] = torch.nan
    else:
        images[0, 0, 0] += 1 if what == "halves" else -9
        images[0, 1, 0] -= 9 * (what == "negative")
    classes.write_means(means, images)
    with pytest.raises(UserError, match=r"class_means\.npz is damaged \(its (means|numbers of images) are"):
        classes.read_means()
