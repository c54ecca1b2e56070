"""The file of embeddings: what is written is read, of its origin alone, and damage is found."""

import pytest
import torch

from tests.stores import some_flips
from utils.errors import UserError
from utils.store.embeddings import EmbeddingFile, Embeddings

ORIGIN = {"store": {"format": 2}, "precision": "fp32"}


def embeddings(size=3):
    values = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    return Embeddings(torch.tensor([0, 2, 3, 7]), values)


@pytest.fixture
def file(tmp_path):
    return EmbeddingFile(tmp_path, "m", "some.package:network", 3, ORIGIN)


def test_what_is_written_is_read(file, tmp_path):
    assert file.read() is None
    file.write(embeddings())
    assert file.path == tmp_path / "m_embeddings_some.package-network.npz"
    found = file.read()
    assert torch.equal(found.indices, embeddings().indices) and torch.equal(found.values, embeddings().values)


@pytest.mark.parametrize("size", [3, 5])
def test_embeddings_of_another_origin_are_none(file, tmp_path, size):
    file.write(embeddings())
    other = EmbeddingFile(tmp_path, "m", "some.package:network", size, {**ORIGIN, "precision": "bf16"})
    assert other.read() is None
    other.write(embeddings(size))
    assert file.read() is None and other.read().values.shape == (4, size)


def test_a_flipped_bit_is_found_or_makes_them_anew(file):
    file.write(embeddings())
    original = embeddings()
    for position, damaged in some_flips(file.path.read_bytes(), every=7):
        file.path.write_bytes(damaged)
        try:
            found = file.read()
        except UserError as error:
            assert f"{file.path} is damaged" in str(error) or "is of another" in str(error)
        else:
            same = found is not None and all(map(torch.equal, found, original))
            assert same or found is None, position
