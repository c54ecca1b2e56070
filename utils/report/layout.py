"""A figure whose parts are placed in inches, independently of their content."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


class Page:
    """A figure laid out in inches from its lower left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.figure = Figure(figsize=(width, height))

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """New axes with this lower left corner and size."""
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def text(self, left: float, bottom: float, text: str, size: float, **options: Any) -> None:
        """Write a text, ``size`` in points; ``options`` as in ``Figure.text``."""
        options = {"ha": "center", "parse_math": False, **options}
        self.figure.text(left / self.width, bottom / self.height, text, fontsize=size, **options)


def line_height(size: float, lines: float = 1) -> float:
    """The height in inches of lines of text whose size is in points."""
    return 1.3 * size * lines / 72
