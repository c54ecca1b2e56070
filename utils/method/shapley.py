"""Shapley values: what each of several players contributes to their joint value (Shapley 1953)."""

from itertools import combinations
from math import comb

import torch
from torch import Tensor

EXACT = 5  # players at most: 32 coalitions
ORDERS = 8  # that are drawn if there are more players, each with its reverse


def coalitions(num_players: int, seed: int = 0) -> list[frozenset[int]]:
    """The coalitions whose values ``shapley_values`` needs: sets of the players that are present.

    All of them for up to EXACT players; for more, those that arise while the players leave one by one in ORDERS random
    orders and their reverses. The first has all players, the last one none.
    """
    if num_players <= EXACT:
        sizes = range(num_players, -1, -1)
        return [frozenset(members) for size in sizes for members in combinations(range(num_players), size)]
    orders = _orders(num_players, seed)
    drawn = {frozenset(order[left:]) for order in orders for left in range(num_players + 1)}
    return sorted(drawn, key=lambda coalition: (-len(coalition), sorted(coalition)))


def shapley_values(values: dict[frozenset[int], Tensor], num_players: int, seed: int = 0) -> Tensor:
    """Shapley values: the mean, over the orders in which players join, of what each player adds.

    ``phi_k = sum_S |S|! (n - |S| - 1)! / n! * (v(S + k) - v(S))`` over the coalitions S without k; over the drawn
    orders alone where there are more than EXACT players. They sum to ``v(all) - v(nobody)``.

    Parameters
    ----------
    values : dict of coalition -> Tensor [...]
        v of each of ``coalitions``.
    num_players : int
    seed : int
        The one given to ``coalitions``.

    Returns
    -------
    Tensor [num_players, ...]
    """
    if num_players <= EXACT:
        return torch.stack([_exact(values, player, num_players) for player in range(num_players)])
    orders = _orders(num_players, seed)
    added = torch.zeros(num_players, *next(iter(values.values())).shape, dtype=torch.float64)
    for order in orders:
        for left, player in enumerate(order):
            added[player] += values[frozenset(order[left:])] - values[frozenset(order[left + 1 :])]
    return added / len(orders)


def _exact(values: dict[frozenset[int], Tensor], player: int, num_players: int) -> Tensor:
    """The Shapley value of one player, from all coalitions."""
    others = [index for index in range(num_players) if index != player]
    value = torch.zeros_like(next(iter(values.values())))
    for size in range(num_players):
        for members in combinations(others, size):
            gain = values[frozenset((*members, player))] - values[frozenset(members)]
            value += gain / (num_players * comb(num_players - 1, size))
    return value


def _orders(num_players: int, seed: int) -> list[list[int]]:
    """Random orders of the players, and their reverses."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(num_players, generator=generator).tolist() for _ in range(ORDERS)]
    return [*orders, *(order[::-1] for order in orders)]
