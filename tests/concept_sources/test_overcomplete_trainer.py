"""Overcomplete is optional: what is missing or does not fit is one line."""

import pytest
import torch

from utils.concept_sources import overcomplete_trainer
from utils.errors import UserError
from utils.method.sparse_autoencoder import AutoencoderTraining


@pytest.mark.parametrize(
    "error, message",
    [
        (ModuleNotFoundError("No module named 'overcomplete'", name="overcomplete"), "pip install overcomplete"),
        (
            ModuleNotFoundError("No module named 'sklearn'", name="sklearn"),
            r"cannot be imported \(No module named 'skl",
        ),
        (AttributeError("module 'matplotlib.cm' has no attribute 'get_cmap'"), r"cannot be imported \(module 'matpl"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(error, message, monkeypatch):
    def fail(name):
        raise error

    monkeypatch.setattr(overcomplete_trainer.importlib, "import_module", fail)
    with pytest.raises(UserError, match=message):
        overcomplete_trainer.train_autoencoder(torch.zeros(4, 2), AutoencoderTraining())


def test_what_it_trains_is_an_autoencoder_of_the_values():
    pytest.importorskip("overcomplete.sae", exc_type=Exception)
    values = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) + 3
    training = AutoencoderTraining(units=24, sparsity=3, epochs=5, batch_size=50)
    trained = overcomplete_trainer.train_autoencoder(values, training, frozen_decoder=False)
    codes = trained.codes(values)
    assert trained.decoder.shape == (24, 6) and int((codes > 0).sum(1).max()) <= 3
    error = (values - trained.reconstruct(codes)).square().mean()
    assert error < (values - values.mean(0)).square().mean()
