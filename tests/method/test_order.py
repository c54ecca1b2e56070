"""The order of values by size, against sorting pairs of value and number."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.method.order import largest_first


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=50), number=st.none() | st.integers(1, 60))
@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_of_equal_values_the_earlier_one_is_first(dtype, values, number):
    expected = sorted(range(len(values)), key=lambda index: (-values[index], index))[:number]
    assert largest_first(torch.tensor(values, dtype=dtype), number).tolist() == expected


def test_each_row_and_column_has_an_order_of_its_own():
    values = torch.tensor([[1.0, 3.0, 3.0], [2.0, 3.0, 0.0]])
    assert largest_first(values, 2, dim=1).tolist() == [[1, 2], [1, 0]]
    assert largest_first(values, 1, dim=0).tolist() == [[1, 0, 0]]
    assert largest_first(values, dim=0).tolist() == [[1, 0, 0], [0, 1, 1]]
