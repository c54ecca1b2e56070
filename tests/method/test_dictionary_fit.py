"""The fit of a dictionary to positions, against a loop over them."""

import pytest
import torch

from utils.method import dictionary_fit
from utils.method.dictionary_fit import fit_of
from utils.method.sparse_autoencoder import TopKAutoencoder


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_fit_equals_a_loop(monkeypatch):
    monkeypatch.setattr(dictionary_fit, "ROWS", 4)
    autoencoder = TopKAutoencoder(normal(7, 4), normal(7, 4, seed=1) / 4, normal(4, seed=2), sparsity=2)
    values = normal(9, 4, seed=3)
    left = total = 0.0
    active = set()
    count = 0
    for x in values:
        z = autoencoder.codes(x[None])
        left += float((x - autoencoder.reconstruct(z)[0]).square().sum())
        total += float((x - values.mean(0)).square().sum())
        active |= set(z.nonzero()[:, 1].tolist())
        count += int((z > 0).sum())
    fit = fit_of(autoencoder, values)
    assert fit.explained == pytest.approx(1 - left / total, rel=1e-5)
    assert fit.active.nonzero().flatten().tolist() == sorted(active)
    assert fit.units_at_position == pytest.approx(count / 9)
