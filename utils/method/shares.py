"""Sharing a channel's inputs out among concepts by least squares, so that what is not there is not invented."""

import torch

RIDGE = 0.01  # of the mean diagonal of the quadratic form, towards equal shares
TOLERANCE = 1e-5  # of the mean square of the channel
CHECKED = 10  # steps between two looks at the gap
MOST_STEPS = 20_000


def least_squares_shares(weights, groups, importance, targets=None, *, ridge=RIDGE, tolerance=TOLERANCE):
    """Shares ``alpha_k`` of every input for which each new channel is the channel on its own images and 0 on others.

    With ``c'_k(x) = sum_i alpha_ki W_i . S_i(x)`` and ``a(x) = sum_i T_i . S_i(x)``, minimises over the simplex
    (``alpha_ki >= 0``, ``sum_k alpha_ki = 1`` for each input i)

        ``sum_g importance_g * mean_{x in g} sum_k (c'_k(x) - [k = g] a(x))^2 + ridge * sum_k |alpha_k - 1 / K|^2``

    over the groups g of images, one for each concept. Convex; by projected gradients with momentum that restarts, each
    input with a step of its own, until the duality gap is below ``tolerance`` times the value of giving nothing.

    Parameters
    ----------
    weights : Tensor [B, C_in, taps]
        The rows W of B units, each of which is divided for itself.
    groups : list of K Tensors [n_g, C_in, taps]
        The tap sums S of the images of each concept (a background is one).
    importance : list of K floats
    targets : Tensor [B, C_in, taps], optional
        The rows T of the units to be reproduced; default: ``weights``.
    ridge : float
        Times the mean diagonal of a unit's quadratic form.
    tolerance : float

    Returns
    -------
    Tensor [B, K, C_in], of the type of ``weights``
    """
    problem = _Problem(weights, groups, importance, weights if targets is None else targets, ridge)
    return _solve(problem, tolerance)


def on_simplex(values):
    """The nearest points of the simplex: [B, K, C_in] -> the same, not negative and of sum 1 along K.

    Michelot's method: the coordinates that a shift to sum 1 makes negative are zero; the others are shifted again.
    """
    inside = torch.ones_like(values)
    for _ in range(values.shape[1]):
        shift = ((values * inside).sum(1, keepdim=True) - 1) / inside.sum(1, keepdim=True)
        inside = (values > shift).to(values)
    return (values - shift).clamp(min=0)


class _Problem:
    """The quadratic form of B units: ``sum_k alpha_k A alpha_k - 2 alpha_k h_k``, A without ever being made."""

    def __init__(self, weights, groups, importance, targets, ridge):
        self.weights, self.num_concepts = weights, len(groups)
        flat = [group.to(weights).flatten(1) for group in groups]
        self.moments = sum(w * one.T @ one / len(one) for w, one in zip(importance, flat, strict=True))
        wanted = [one @ targets.flatten(1).T for one in flat]  # a(x) of the images of each group, [n_g, B]
        linear = [w * (one.T @ a / len(one)).T for w, one, a in zip(importance, flat, wanted, strict=True)]
        self.linear = (torch.stack(linear, 1).view(len(weights), len(flat), *weights.shape[1:]) * weights[:, None]).sum(
            -1
        )
        self.scale = sum(w * a.square().mean(0) for w, a in zip(importance, wanted, strict=True))
        taps = self.moments.view(*weights.shape[1:], *weights.shape[1:]).diagonal(dim1=0, dim2=2)
        diagonal = torch.einsum("bit,tui,biu->bi", weights, taps, weights)
        self.ridge = ridge * diagonal.mean(1)
        # |A| 1 on the diagonal is no smaller a form than A: steps of its inverse never overshoot
        magnitudes = weights.abs()
        self.steepness = (magnitudes * (magnitudes.flatten(1) @ self.moments.abs()).view(weights.shape)).sum(-1)
        self.steepness = (self.steepness + self.ridge[:, None]).clamp(min=torch.finfo(weights.dtype).tiny)[:, None]

    def half_gradient(self, shares):
        given = (shares[..., None] * self.weights[:, None]).flatten(2) @ self.moments
        form = (given.view(*shares.shape, -1) * self.weights[:, None]).sum(-1)
        return form - self.linear + self.ridge[:, None, None] * (shares - 1 / self.num_concepts)

    def of(self, chosen):
        """The same of some of the units."""
        part = object.__new__(_Problem)
        part.moments, part.num_concepts = self.moments, self.num_concepts
        for name in ("weights", "linear", "scale", "ridge", "steepness"):
            setattr(part, name, getattr(self, name)[chosen])
        return part


def _solve(problem, tolerance):
    shape = len(problem.weights), problem.num_concepts, problem.weights.shape[1]
    found = problem.weights.new_full(shape, 1 / problem.num_concepts)
    active, shares = torch.arange(shape[0]), found.clone()
    ahead, momentum = shares, shares.new_ones(shape[0], 1, 1)
    for step in range(1, MOST_STEPS + 1):
        following = on_simplex(ahead - problem.half_gradient(ahead) / problem.steepness)
        moved = following - shares
        # momentum that leads uphill begins anew
        uphill = ((ahead - following) * problem.steepness * moved).sum((1, 2), keepdim=True) > 0
        grown = (1 + (1 + 4 * momentum.where(~uphill, 1).square()).sqrt()) / 2
        factor = ((momentum - 1) / grown).where(~uphill, 0)
        ahead, shares, momentum = following + factor * moved, following, grown
        if step % CHECKED == 0 or step == MOST_STEPS:
            gradient = 2 * problem.half_gradient(shares)
            # what a linear function can still gain: no less than what is missing to the best value
            gap = (gradient * shares).sum((1, 2)) - gradient.min(1).values.sum(1)
            open_ = gap > tolerance * problem.scale
            found[active] = shares
            if not open_.any():
                break
            active, problem = active[open_], problem.of(open_)
            ahead, shares, momentum = ahead[open_], shares[open_], momentum[open_]
    return found
