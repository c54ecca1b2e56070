"""What a figure is drawn for, a screen or a printed page: how wide it is, and how large its type."""

from dataclasses import dataclass

WIDTHS = {"column": 3.25, "text": 6.75}  # inches, of papers in two columns
SMALLEST_TYPE = 6.0  # points, in print


@dataclass(frozen=True)
class Sheet:
    """A screen (no ``name``), or a ``column`` or the ``text`` of a paper, in which a figure is printed as it is."""

    name: str | None = None

    @property
    def width(self):
        """The width of a figure in inches; None: as wide as what it shows."""
        return WIDTHS.get(self.name)

    @property
    def narrow(self):
        """Whether panels stand one above the other, as there is no room beside them."""
        return self.name == "column"

    @property
    def suffix(self):
        """What follows in the names of files."""
        return "" if self.name is None else f"_{self.name}"

    @property
    def dots_per_inch(self):
        return 200 if self.name is None else 400

    def wide(self, inches):
        """The width of a figure, in inches, that is so wide on a screen."""
        return self.width or inches

    def type(self, size):
        """The size of type, in points, that is so large on a screen."""
        return size if self.width is None else max(SMALLEST_TYPE, 0.75 * size)


SCREEN = Sheet()
