"""The order of values by size."""

from torch import Tensor


def largest_first(values: Tensor, number: int | None = None, dim: int = -1) -> Tensor:
    """Indices of the ``number`` (default: all) largest values along ``dim``, the largest first.

    Of equal values, the earlier one is first on every device, so that results do not depend on the machine.

    Parameters
    ----------
    values : Tensor
    number : int, optional
        Fewer where there are fewer values.
    dim : int

    Returns
    -------
    LongTensor, of the shape of ``values`` but for ``dim``
    """
    order = values.argsort(dim=dim, descending=True, stable=True)
    return order if number is None else order.narrow(dim, 0, min(number, order.shape[dim]))
