"""What each of several players adds to a value that they reach together (Shapley 1953)."""

from itertools import combinations
from math import comb

import torch

EXACT = 5  # players at most: 32 coalitions
ORDERS = 8  # that are drawn where there are more, each with its reverse


def coalitions(num_players, seed=0):
    """The coalitions whose values ``shapley_values`` needs: a list of frozensets of the players that are there.

    All of them for up to EXACT players; for more, those that arise while the players leave one by one in ORDERS random
    orders and their reverses. The first is all players, the last one nobody.
    """
    if num_players <= EXACT:
        sizes = range(num_players, -1, -1)
        return [frozenset(chosen) for size in sizes for chosen in combinations(range(num_players), size)]
    found = {frozenset(order[place:]): None for order in _orders(num_players, seed) for place in range(num_players + 1)}
    return sorted(found, key=lambda one: (-len(one), sorted(one)))


def shapley_values(values, num_players, seed=0):
    """Each player's share of what all add to nobody's value: the mean of what it adds, over the orders of coming.

    ``phi_k = sum_S |S|! (n - |S| - 1)! / n! * (v(S + k) - v(S))`` over the coalitions S without k; over the drawn
    orders alone where there are more than EXACT players. They sum to ``v(all) - v(nobody)``.

    Parameters
    ----------
    values : dict of coalition -> Tensor [...]
        v of each of ``coalitions``.
    num_players : int
    seed : int
        That of ``coalitions``.

    Returns
    -------
    Tensor [num_players, ...]
    """
    if num_players <= EXACT:
        return torch.stack([_exact(values, player, num_players) for player in range(num_players)])
    orders = _orders(num_players, seed)
    added = torch.zeros(num_players, *next(iter(values.values())).shape, dtype=torch.float64)
    for order in orders:
        for place, player in enumerate(order):
            added[player] += values[frozenset(order[place:])] - values[frozenset(order[place + 1 :])]
    return added / len(orders)


def _exact(values, player, num_players):
    others = [one for one in range(num_players) if one != player]
    return sum(
        (values[frozenset((*chosen, player))] - values[frozenset(chosen)]) / (num_players * comb(num_players - 1, size))
        for size in range(num_players)
        for chosen in combinations(others, size)
    )


def _orders(num_players, seed):
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(num_players, generator=generator).tolist() for _ in range(ORDERS)]
    return [*orders, *(order[::-1] for order in orders)]
