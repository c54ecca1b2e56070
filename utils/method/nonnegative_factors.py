"""Non-negative matrix factorisation (Lee and Seung 2001), and the codes of new values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

UPDATES = 5  # of one factor between two of the other
SMALLEST = 1e-12  # keeps a divisor from 0


class Factors(NamedTuple):
    """``codes`` [n, r] and ``components`` [r, C] whose product approximates values [n, C]; components have norm 1."""

    codes: Tensor
    components: Tensor


@dataclass(frozen=True)
class NonnegativeComponents:
    """Components [r, C] of norm 1, nowhere negative; ``steps`` of the search for codes."""

    components: Tensor
    steps: int

    @property
    def atoms(self) -> Tensor:
        return self.components

    def codes(self, values: Tensor) -> Tensor:
        """Codes [n, r] of values [n, C] that are nowhere negative."""
        return nonnegative_codes(values, self.components, steps=self.steps)

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Values [n, C] of codes [n, r]."""
        return codes @ self.components


def factorise(
    values: Tensor, number: int, *, iterations: int, seed: int, after_iteration: Callable[[], object] | None = None
) -> Factors:
    """Non-negative Z [n, r] and H [r, C] that minimise ``|V - Z H|^2`` by multiplicative updates.

        Z <- Z * (V H^T) / (Z H H^T)        H <- H * (Z^T V) / (Z^T Z H)

    No update raises the objective (Lee and Seung, NeurIPS 2000, theorem 1). A factor is updated several times with the
    same products with V, which cost most (Gillis and Glineur, Neural Computation 24, 2012).

    Parameters
    ----------
    values : Tensor [n, C]
        V; nowhere negative.
    number : int
        r, the number of components.
    iterations : int
        How often both factors are updated.
    seed : int
        Of the factors at the beginning.
    after_iteration
        Called after each iteration.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = (float(values.mean()) / number) ** 0.5
    codes, components = (
        scale * (0.5 + torch.rand(shape, generator=generator)).to(values)
        for shape in ((len(values), number), (number, values.shape[1]))
    )
    for _ in range(iterations):
        products, grams = values @ components.T, components @ components.T
        for _ in range(UPDATES):
            codes = codes * (products / (codes @ grams).clamp(min=SMALLEST))
        products, grams = codes.T @ values, codes.T @ codes
        for _ in range(UPDATES):
            components = components * (products / (grams @ components).clamp(min=SMALLEST))
        if after_iteration is not None:
            after_iteration()
    norms = components.norm(dim=1)
    return Factors(codes * norms, F.normalize(components, dim=1))


def nonnegative_codes(values: Tensor, components: Tensor, *, steps: int) -> Tensor:
    """Non-negative Z [n, r] that minimise ``|V - Z H|^2`` for given components, by accelerated projected gradients.

    FISTA (Beck and Teboulle, SIAM J. Imaging Sciences 2, 2009), which has the minimum of this convex problem as its
    limit.

    Parameters
    ----------
    values : Tensor [n, C]
        V.
    components : Tensor [r, C]
        H.
    steps : int
    """
    products, grams = values @ components.T, components @ components.T
    step = 1 / float(torch.linalg.matrix_norm(grams, 2).clamp(min=SMALLEST))
    codes = torch.zeros_like(products)
    ahead = codes
    momentum = 1.0
    for _ in range(steps):
        before = codes
        codes = (ahead - step * (ahead @ grams - products)).clamp(min=0)
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = codes + (momentum - 1) / next_momentum * (codes - before)
        momentum = next_momentum
    return codes
