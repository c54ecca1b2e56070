"""TopK autoencoders (Gao et al. 2024, arXiv 2406.04093), and the same with a decoder that stays as it was drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AutoencoderTraining:
    """How an autoencoder is trained.

    Parameters
    ----------
    units : int
        U, the number of units.
    sparsity : int
        k, the most units that are active at a position.
    epochs : int
        How many times all positions are used.
    batch_size : int
        Positions of a step of Adam.
    learning_rate : float
        In the first half of the steps; it falls linearly to 0 in the second half.
    dead_after : int
        A unit that was not active in so many positions counts as dead.
    dead_weight : float
        Weight of the auxiliary loss, with which dead units learn what the others leave.
    seed : int
    """

    units: int = 2048
    sparsity: int = 32
    epochs: int = 10
    batch_size: int = 1024
    learning_rate: float = 3e-3
    dead_after: int = 50_000
    dead_weight: float = 1 / 32
    seed: int = 0

    def steps(self, positions: int) -> int:
        """The number of steps of a training with so many positions."""
        return self.epochs * -(-positions // self.batch_size)


@dataclass(frozen=True)
class TopKAutoencoder:
    """``z = TopK(max(W_enc (x - b), 0))``, ``x_hat = W_dec^T z + b``: Gao et al., section 2.3.

    Parameters
    ----------
    encoder : Tensor [U, D]
    decoder : Tensor [U, D]
        A row of norm 1 for each unit.
    centre : Tensor [D]
        b.
    sparsity : int
        k, the most units that are active at a position.
    """

    encoder: Tensor
    decoder: Tensor
    centre: Tensor
    sparsity: int

    @property
    def atoms(self) -> Tensor:
        return self.decoder

    def codes(self, values: Tensor) -> Tensor:
        """z of positions x [n, D]: [n, U]."""
        return top_k((values - self.centre) @ self.encoder.T, self.sparsity)

    def reconstruct(self, codes: Tensor) -> Tensor:
        """x_hat of codes [n, U]: [n, D]."""
        return codes @ self.decoder + self.centre


def top_k(values: Tensor, number: int) -> Tensor:
    """Values [n, U] whose ``number`` largest ones of each row are kept if they are positive; all others are 0."""
    largest = values.topk(min(number, values.shape[1]), dim=1, sorted=False)
    return torch.zeros_like(values).scatter(1, largest.indices, largest.values.clamp(min=0))


def train_autoencoder(
    values: Tensor,
    training: AutoencoderTraining,
    *,
    frozen_decoder: bool = False,
    after_step: Callable[[], object] | None = None,
) -> TopKAutoencoder:
    """An autoencoder that minimises ``|x - x_hat|^2`` over the variance, by Adam.

    The decoder begins with random rows of norm 1, the encoder as a copy of it, b as the mean. Rows of the decoder keep
    norm 1. Dead units learn to reconstruct the error of the others: Gao et al., appendix A.2.

    Parameters
    ----------
    values : Tensor [n, D]
        Positions; float32.
    training : AutoencoderTraining
    frozen_decoder : bool
        The decoder stays at random; the encoder and b alone are trained. A control: what is found with such a decoder
        is no evidence for learned directions (Heap et al. 2025, arXiv 2501.17727; Korznikov et al. 2026,
        arXiv 2602.14111).
    after_step
        Called after each step.
    """
    generator = torch.Generator().manual_seed(training.seed)
    mean = values.mean(0)
    variance = float((values - mean).square().sum(1).mean())
    scale = (variance / values.shape[1]) ** 0.5 or 1.0  # so that one learning rate suits all layers
    start = F.normalize(torch.randn(training.units, values.shape[1], generator=generator), dim=1).to(values.device)
    encoder, decoder, centre = (tensor.clone().requires_grad_() for tensor in (start, start, mean / scale))
    decoder.requires_grad_(not frozen_decoder)
    optimizer = torch.optim.Adam([tensor for tensor in (encoder, decoder, centre) if tensor.requires_grad])
    steps = training.steps(len(values))
    idle = torch.zeros(training.units, dtype=torch.long, device=values.device)  # positions since it was active
    step = 0
    for _ in range(training.epochs):
        order = torch.randperm(len(values), generator=generator).to(values.device)
        for rows in order.split(training.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * min(1.0, 2 * (1 - step / steps))
            x = values[rows] / scale
            autoencoder = TopKAutoencoder(encoder, decoder, centre, training.sparsity)
            loss, active = loss_of(autoencoder, x, idle > training.dead_after, training.dead_weight)
            optimizer.zero_grad()
            loss.backward()
            if decoder.grad is not None:  # only what turns a row of norm 1
                decoder.grad -= (decoder.grad * decoder.detach()).sum(1, keepdim=True) * decoder.detach()
            optimizer.step()
            with torch.no_grad():
                if not frozen_decoder:
                    decoder.copy_(F.normalize(decoder, dim=1))
                idle = (idle + len(rows)).where(~active, 0)
            step += 1
            if after_step is not None:
                after_step()
    return TopKAutoencoder(encoder.detach(), decoder.detach(), centre.detach() * scale, training.sparsity)


def loss_of(autoencoder: TopKAutoencoder, x: Tensor, dead: Tensor, dead_weight: float) -> tuple[Tensor, Tensor]:
    """The loss of a batch x [n, D], and which units are active in it: BoolTensor [U].

        mean (x - x_hat)^2 + dead_weight * mean (e - e_hat)^2

    e is the error x - x_hat, which is held, and e_hat what the D / 2 largest of the ``dead`` units, BoolTensor [U],
    make of it.
    """
    centred = x - autoencoder.centre
    codes = top_k(centred @ autoencoder.encoder.T, autoencoder.sparsity)
    error = centred - codes @ autoencoder.decoder
    loss = error.square().mean()
    if dead_weight and dead.any():
        of_dead = top_k(centred @ autoencoder.encoder[dead].T, max(1, x.shape[1] // 2))
        left = error.detach() - of_dead @ autoencoder.decoder[dead]
        loss = loss + dead_weight * left.square().mean()
    return loss, (codes.detach() > 0).any(0)
