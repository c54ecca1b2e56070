"""TopK autoencoders trained by Overcomplete (Fel et al., https://github.com/KempnerInstitute/overcomplete)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.method.sparse_autoencoder import AutoencoderTraining, TopKAutoencoder

CANNOT_IMPORT = "--sae_trainer overcomplete: its package cannot be imported ({error})"
INSTALL = "--sae_trainer overcomplete needs the package overcomplete: pip install overcomplete"


def train_autoencoder(
    values: Tensor,
    training: AutoencoderTraining,
    *,
    frozen_decoder: bool = False,
    after_step: Callable[[], object] | None = None,
) -> TopKAutoencoder:
    """As ``utils.method.sparse_autoencoder.train_autoencoder``, by Overcomplete's ``TopKSAE`` and ``train_sae``.

    Overcomplete has no b and no auxiliary loss for dead units. b is the mean of the values [n, D] here, and stays it.

    Raises
    ------
    UserError
        The package is not installed.
    """
    sae = _package()
    torch.manual_seed(training.seed)  # Overcomplete has no generator of its own
    mean = values.mean(0)
    centred = values - mean
    scale = float(centred.square().mean().sqrt()) or 1.0
    model = sae.TopKSAE(values.shape[1], training.units, top_k=training.sparsity, device=str(values.device))
    model = model.untied()  # an encoder of its own, which begins as the dictionary
    model.dictionary.requires_grad_(not frozen_decoder)
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad], training.learning_rate
    )
    batches = _Batches(centred / scale, training, after_step)
    sae.train_sae(
        model, batches, _mean_squared_error, optimizer, nb_epochs=training.epochs, monitoring=0, device=values.device
    )
    model.eval()
    return TopKAutoencoder(
        encoder=model.encoder.weight.detach(),
        decoder=model.get_dictionary().detach(),
        centre=mean,
        sparsity=training.sparsity,
    )


def _package() -> Any:
    try:
        return importlib.import_module("overcomplete.sae")
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "overcomplete":
            raise UserError(INSTALL) from error
        raise UserError(CANNOT_IMPORT.format(error=error)) from error
    except AttributeError as error:  # version 0.3 reads a name that newer versions of matplotlib lack
        raise UserError(CANNOT_IMPORT.format(error=error)) from error


def _mean_squared_error(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    """The criterion with the arguments that ``train_sae`` gives."""
    return (x - x_hat).square().mean()


class _Batches:
    """Iterates over the positions in another random order each time, batch by batch."""

    def __init__(self, values: Tensor, training: AutoencoderTraining, after_step: Callable[[], object] | None) -> None:
        self._values = values
        self._size = training.batch_size
        self._generator = torch.Generator().manual_seed(training.seed)
        self._after_step = after_step

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self._values), generator=self._generator).to(self._values.device)
        for rows in order.split(self._size):
            yield self._values[rows]
            if self._after_step is not None:
                self._after_step()
