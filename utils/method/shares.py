"""Shares of a channel's inputs for each concept by least squares, so that no new channel responds where it did not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice

import torch
from torch import Tensor

RIDGE = 0.01  # of the mean diagonal of the quadratic form, towards equal shares
TOLERANCE = 1e-5  # of the mean square of the channel
CHECKED = 10  # steps between two checks of the gap
MOST_STEPS = 20_000
TOTALS_BYTES = 2**27  # of the second moments of units that are solved together


def summed_outer_products(blocks: Iterable[Tensor], size: int) -> Tensor:
    """The sum over images of the outer product of their tap sums with themselves, [size, size] float64.

    Parameters
    ----------
    blocks : iterable of Tensors [n, C_in, taps]
        Tap sums of images, a block at a time.
    size : int
        C_in * taps.
    """
    total = torch.zeros(size, size, dtype=torch.float64)
    for block in blocks:
        inputs = block.flatten(1).double()
        total.addmm_(inputs.T, inputs)
    return total


def second_moments(inputs: Tensor) -> Tensor:
    """The mean outer product of the tap sums of images, [n, C_in, taps] -> [C_in * taps, C_in * taps] float64."""
    return summed_outer_products([inputs], inputs[0].numel()) / len(inputs)


def least_squares_shares(
    weights: Tensor,
    moments: Sequence[Tensor],
    importance: Sequence[float],
    targets: Tensor | None = None,
    *,
    ridge: float = RIDGE,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Shares ``alpha_k`` of every input for which each new channel is the channel on its own images and 0 on others.

    With ``c'_k(x) = sum_i alpha_ki W_i . S_i(x)`` and ``a(x) = sum_i T_i . S_i(x)``, minimises over the simplex
    (``alpha_ki >= 0``, ``sum_k alpha_ki = 1`` for each input i)

        ``sum_g importance_g * mean_{x in g} sum_k (c'_k(x) - [k = g] a(x))^2 + ridge * sum_k |alpha_k - 1 / K|^2``

    over the groups g of images, one for each concept. Convex; by projected gradients with momentum that restarts, each
    input with a step of its own, until the duality gap is below ``tolerance`` times the value of giving nothing.

    Parameters
    ----------
    weights : Tensor [B, C_in, taps]
        The rows W of B units, each divided independently.
    moments : K Tensors [C_in * taps, C_in * taps]
        The ``second_moments`` of the tap sums S of the images of each concept (a background is one).
    importance : K floats
    targets : Tensor [B, C_in, taps], optional
        The rows T of the units to be reproduced; default: ``weights``.
    ridge : float
        Times the mean diagonal of a unit's quadratic form.
    tolerance : float

    Returns
    -------
    Tensor [B, K, C_in], of the type of ``weights``
    """
    problem = _problem(weights, moments, importance, weights if targets is None else targets, ridge)
    return _solve(problem, tolerance)


def least_squares_shares_of_each(
    weights: Tensor,
    moments_of_each: Iterable[Sequence[Tensor]],
    importance: Sequence[float],
    *,
    ridge: float = RIDGE,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """``least_squares_shares`` of B units that have concepts of their own, K each: [B, K, C_in].

    Parameters
    ----------
    weights : Tensor [B, C_in, taps]
    moments_of_each : B sequences of K Tensors
        The moments for each unit. Those of a unit are not needed any more when those of the next one are asked for.
    importance : K floats
    ridge, tolerance : float
    """
    size = max(1, TOTALS_BYTES // (weights[0].numel() ** 2 * weights.element_size()))
    given = zip(weights.split(1), moments_of_each, strict=True)
    problems = (_problem(weight, moments, importance, weight, ridge) for weight, moments in given)
    shares = []
    while of_block := list(islice(problems, size)):
        shares.append(_solve(_Problem.joined(of_block), tolerance))
    return torch.cat(shares)


def on_simplex(values: Tensor) -> Tensor:
    """The nearest points of the simplex: [B, K, C_in] -> the same, not negative and of sum 1 along K.

    Michelot's method: the coordinates that a shift to sum 1 makes negative are zero; the others are shifted again.
    """
    inside = torch.ones_like(values)
    for _ in range(values.shape[1]):
        shift = ((values * inside).sum(1, keepdim=True) - 1) / inside.sum(1, keepdim=True)
        remaining = (values > shift).to(values)
        if torch.equal(remaining, inside):
            break
        inside = remaining
    return (values - shift).clamp(min=0)


@dataclass(frozen=True)
class _Problem:
    """The quadratic forms of B units, ``sum_k alpha_k A alpha_k - 2 alpha_k h_k``, where A is never computed.

    ``moments`` [1 or B, C_in * taps, C_in * taps] are the weighted second moments of the tap sums. For each unit:
    ``weights`` [B, C_in, taps]; ``linear`` [B, K, C_in], h; ``scale`` [B], the value of giving nothing; ``ridge`` [B];
    and ``steepness`` [B, 1, C_in], the diagonal of a form that bounds A from above.
    """

    moments: Tensor
    weights: Tensor
    linear: Tensor
    scale: Tensor
    ridge: Tensor
    steepness: Tensor

    def half_gradient(self, shares: Tensor) -> Tensor:
        """Half of the gradient at ``shares`` [B, K, C_in]."""
        given = (shares[..., None] * self.weights[:, None]).flatten(2)
        # one product where all units have the same moments: that is faster than a batch of them
        given = given @ (self.moments[0] if len(self.moments) == 1 else self.moments)
        form = (given.view(*shares.shape, -1) * self.weights[:, None]).sum(-1)
        return form - self.linear + self.ridge[:, None, None] * (shares - 1 / shares.shape[1])

    def of(self, chosen: Tensor) -> "_Problem":
        """The problem of some of the units."""
        return replace(
            self,
            moments=self.moments if len(self.moments) == 1 else self.moments[chosen],
            weights=self.weights[chosen],
            linear=self.linear[chosen],
            scale=self.scale[chosen],
            ridge=self.ridge[chosen],
            steepness=self.steepness[chosen],
        )

    @classmethod
    def joined(cls, problems: Sequence["_Problem"]) -> "_Problem":
        """The problem of the units of several ones, each with moments of its own."""
        return cls(*(torch.cat([getattr(problem, field.name) for problem in problems]) for field in fields(cls)))


def _problem(
    weights: Tensor, moments: Sequence[Tensor], importance: Sequence[float], targets: Tensor, ridge: float
) -> _Problem:
    """The _Problem of ``least_squares_shares``."""
    wanted = targets.flatten(1)
    size = wanted.shape[1]
    total = weights.new_zeros(size, size)
    scale = weights.new_zeros(len(weights))
    linear = []
    for factor, of_group in zip(importance, moments, strict=True):
        of_group = of_group.to(weights)
        total.add_(of_group, alpha=factor)
        products = factor * (wanted @ of_group)  # mean of S(x) a(x) over the images
        scale += (products * wanted).sum(1)
        linear.append(products)
    by_input = torch.stack(linear, 1).view(len(weights), len(linear), *weights.shape[1:])
    taps = total.view(*weights.shape[1:], *weights.shape[1:]).diagonal(dim1=0, dim2=2)
    diagonal = torch.einsum("bit,tui,biu->bi", weights, taps, weights)
    ridges = ridge * diagonal.mean(1)
    # the form with |A| 1 on the diagonal bounds A from above: steps of its inverse never overshoot
    magnitudes = weights.abs()
    row_sums = (magnitudes * (magnitudes.flatten(1) @ total.abs()).view(weights.shape)).sum(-1)
    return _Problem(
        moments=total[None],
        weights=weights,
        linear=(by_input * weights[:, None]).sum(-1),
        scale=scale,
        ridge=ridges,
        steepness=(row_sums + ridges[:, None]).clamp(min=torch.finfo(weights.dtype).tiny)[:, None],
    )


def _solve(problem: _Problem, tolerance: float) -> Tensor:
    """The best shares, by accelerated projected gradients; units that have converged are left out of further steps."""
    solution = torch.full_like(problem.linear, 1 / problem.linear.shape[1])
    active = torch.arange(len(solution))
    shares = solution.clone()
    ahead = shares
    momentum = shares.new_ones(len(solution), 1, 1)
    for step in range(1, MOST_STEPS + 1):
        following = on_simplex(ahead - problem.half_gradient(ahead) / problem.steepness)
        moved = following - shares
        # momentum that points uphill is reset
        uphill = ((ahead - following) * problem.steepness * moved).sum((1, 2), keepdim=True) > 0
        grown = (1 + (1 + 4 * momentum.where(~uphill, 1).square()).sqrt()) / 2
        ahead = following + ((momentum - 1) / grown).where(~uphill, 0) * moved
        shares = following
        momentum = grown
        if step % CHECKED == 0 or step == MOST_STEPS:
            unfinished = _duality_gap(problem, shares) > tolerance * problem.scale
            solution[active] = shares
            if not unfinished.any():
                break
            active = active[unfinished]
            problem = problem.of(unfinished)
            ahead = ahead[unfinished]
            shares = shares[unfinished]
            momentum = momentum[unfinished]
    return solution


def _duality_gap(problem: _Problem, shares: Tensor) -> Tensor:
    """Frank-Wolfe's duality gap, [B]: an upper bound of the distance from the optimal value."""
    gradient = 2 * problem.half_gradient(shares)
    return (gradient * shares).sum((1, 2)) - gradient.min(1).values.sum(1)
