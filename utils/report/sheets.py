"""The medium of a figure, a screen or a printed page: its width and the size of its type; and titles."""

from dataclasses import dataclass
from typing import NamedTuple

WIDTHS = {"column": 3.25, "text": 6.75}  # inches, of papers in two columns
SMALLEST_TYPE = 6.0  # points, in print


@dataclass(frozen=True)
class Sheet:
    """A screen (no ``name``), or a ``column`` or the ``text`` of a paper, where a figure is printed in its own size."""

    name: str | None = None

    @property
    def width(self) -> float | None:
        """The width of a figure in inches; None on a screen, where it follows from what is shown."""
        return None if self.name is None else WIDTHS[self.name]

    @property
    def narrow(self) -> bool:
        """Whether panels are stacked, because the sheet has no room for two side by side."""
        return self.name == "column"

    @property
    def suffix(self) -> str:
        """The end of the stems of files."""
        return "" if self.name is None else f"_{self.name}"

    @property
    def dots_per_inch(self) -> int:
        return 200 if self.name is None else 400

    def wide(self, inches: float) -> float:
        """The width in inches of a figure whose width on a screen is given."""
        return self.width or inches

    def type(self, size: float) -> float:
        """The size of type, in points, whose size on a screen is given."""
        return size if self.width is None else max(SMALLEST_TYPE, 0.75 * size)


SCREEN = Sheet()


class Titles(NamedTuple):
    """Text above a figure; the ``subtitle`` is in small print, below the figure in some of them."""

    title: str
    subtitle: str
