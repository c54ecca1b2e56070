"""Rounding rows of weights so that their merge is the rounded weight of the original channel."""

import torch
from torch import Tensor

from utils.method.disentangling import merge


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` rounded to ``dtype``, but in at least fp32, with the gradient of ``values``."""
    wide = torch.promote_types(dtype, torch.float32)
    if torch.promote_types(values.dtype, dtype) == dtype:  # nothing to round
        return values.to(wide)
    exact = values.detach()
    bits = exact.to(dtype).view(torch.int16) | 0  # computing with them keeps a compiler from leaving out the rounding
    return values + (bits.view(dtype).to(wide) - exact)


def rounded_together(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows scaled so that their merge is rounded to ``dtype``, in at least fp32, with the gradient of ``rows``.

    Whole inputs are rounded as the original's weight is. Shares of a weight, each rounded by itself, would not add up
    to the rounded weight. So they are scaled by its ratio to the exact weight.

    Parameters
    ----------
    rows : Tensor [n, K + 1, ...]
        Of ``c'_1 .. c'_K`` and the residual of n splits.
    dtype : torch.dtype

    Returns
    -------
    Tensor [n, K + 1, ...]
    """
    exact = rows.detach()
    whole = merge(exact, dim=1)[:, None]
    target = rounded(whole, dtype)
    scaled = exact * (target / whole.where(whole != 0, 1))
    return rows + (torch.where(exact == whole, target, scaled) - exact)


def stored_together(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in ``dtype`` whose merge is exactly their merge rounded to ``dtype``, in this and any wider type.

    Every row but the last concept's is a multiple of the last binary place of the merged weight; the last concept's row
    is the rest. Rows with whole inputs stay as they are.

    Parameters
    ----------
    rows : Tensor [n, K + 1, ...]
        Of ``c'_1 .. c'_K`` and the residual of n splits, in ``dtype`` or wider.
    dtype : torch.dtype

    Returns
    -------
    Tensor [n, K + 1, ...]
    """
    rows = rows.detach().double()
    whole = merge(rows, dim=1).to(dtype)
    info = torch.finfo(dtype)
    exponent = torch.frexp(whole.float() if dtype != torch.float64 else whole).exponent
    last_places = torch.ldexp(torch.full_like(rows[:, 0], info.eps / 2), exponent)
    last_places = last_places.clamp(min=info.smallest_normal * info.eps)
    rows = (rows / last_places[:, None]).round() * last_places[:, None]
    without_last = merge(torch.cat([rows[:, :-2], rows[:, -1:]], dim=1), dim=1)
    last = whole.double() - without_last + rows[:, -1]
    return torch.cat([rows[:, :-2], last[:, None], rows[:, -1:]], dim=1).to(dtype)
