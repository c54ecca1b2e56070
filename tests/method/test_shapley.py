"""Shapley values, against the mean over all orders."""

import itertools

import pytest
import torch

from utils.method.shapley import coalitions, shapley_values


def random_game(num_players, seed=0):
    generator = torch.Generator().manual_seed(seed)
    every = itertools.chain.from_iterable(itertools.combinations(range(num_players), n) for n in range(num_players + 1))
    return {frozenset(one): torch.randn(3, generator=generator, dtype=torch.float64) for one in every}


@pytest.mark.parametrize("num_players", [1, 2, 3, 4, 5])
def test_each_player_gets_the_mean_of_what_it_adds_over_all_orders(num_players):
    values = random_game(num_players)
    assert set(coalitions(num_players)) == set(values)
    expected = torch.zeros(num_players, 3, dtype=torch.float64)
    orders = list(itertools.permutations(range(num_players)))
    for order in orders:
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            expected[player] += (values[before | {player}] - values[before]) / len(orders)
    torch.testing.assert_close(shapley_values(values, num_players), expected)


def test_two_players_get_the_mean_of_removing_and_keeping():
    values = random_game(2)
    both, first, second, nobody = (values[frozenset(one)] for one in ((0, 1), (0,), (1,), ()))
    expected = ((both - second) + (first - nobody)) / 2
    torch.testing.assert_close(shapley_values(values, 2)[0], expected)


@pytest.mark.parametrize("seed", [0, 739])
def test_many_players_are_sampled_by_orders_and_their_reverses(seed):
    needed, values = coalitions(7, seed), random_game(7)
    assert needed[0] == frozenset(range(7)) and needed[-1] == frozenset() and len(needed) < 2**7
    assert needed == coalitions(7, seed)
    found = shapley_values({one: values[one] for one in needed}, 7, seed)
    torch.testing.assert_close(found.sum(0), values[needed[0]] - values[frozenset()])


def test_sampled_values_of_players_that_add_pair_by_pair_are_exact():
    """Where v is a sum of terms of one and two players, an order and its reverse give each player its half."""
    single = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).triu(1)

    def worth(coalition):
        members = sorted(coalition)
        return sum((single[i] for i in members), torch.tensor(0.0)) + sum(
            (pairs[i, j] for i in members for j in members if i < j), torch.tensor(0.0)
        )

    found = shapley_values({one: worth(one) for one in coalitions(6)}, 6)
    torch.testing.assert_close(found, single + (pairs + pairs.T).sum(1) / 2)
