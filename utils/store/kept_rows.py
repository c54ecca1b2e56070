"""Rows of numbers by ascending index that are read once and needed often, in memory or in a scratch file."""

import os
import tempfile
from math import prod
from pathlib import Path

import torch

from utils.errors import UserError

MOST_BYTES = 3 * 2**29  # in memory; more are in a scratch file


class KeptRows:
    """Rows [N, *shape] float32 of N ascending ``indices``. The scratch file has no name and ends with the process.

    Parameters
    ----------
    indices : LongTensor [N]
        Ascending, each once.
    shape : tuple
        Shape of a row.
    folder : Path
        Where a scratch file is made, unless it may not be written to: then the system's folder for such files.
    """

    def __init__(self, indices: torch.Tensor, shape: tuple[int, ...], folder: Path) -> None:
        self.indices = indices
        self.shape = shape
        self._row_bytes = 4 * prod(shape)
        self._in_memory = len(indices) * self._row_bytes <= MOST_BYTES
        if self._in_memory:
            self._rows = torch.empty(len(indices), *shape)
        else:
            writable = folder if os.access(folder, os.W_OK) else None
            self._file = tempfile.TemporaryFile(dir=writable)  # noqa: SIM115  # open as long as this object

    def write(self, first: int, rows: torch.Tensor) -> None:
        """Set the rows from position ``first`` on, [n, *shape]."""
        if self._in_memory:
            self._rows[first : first + len(rows)] = rows
            return
        try:
            self._file.seek(first * self._row_bytes)
            self._file.write(rows.contiguous().numpy().data)
            self._file.flush()
        except OSError as error:
            size = len(self.indices) * self._row_bytes / 1e9
            raise UserError(f"cannot write a scratch file of {size:.1f} GB ({error.strerror})") from error

    def positions(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which of some indices are kept, BoolTensor [n], and the positions of those that are."""
        if not len(self.indices):
            return torch.zeros(len(indices), dtype=torch.bool), torch.empty(0, dtype=torch.long)
        nearest = torch.searchsorted(self.indices, indices).clamp(max=len(self.indices) - 1)
        is_kept = self.indices[nearest] == indices
        return is_kept, nearest[is_kept]

    def read(self, positions: torch.Tensor) -> torch.Tensor:
        """The rows at some positions, [n, *shape]."""
        if self._in_memory:
            return self._rows[positions]
        rows = torch.empty(len(positions), *self.shape)
        for row, position in zip(rows.numpy(), positions.tolist(), strict=True):
            self._file.seek(position * self._row_bytes)
            self._file.readinto(row.data)
        return rows
