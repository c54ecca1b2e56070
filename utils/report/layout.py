"""A figure whose parts are placed by hand, in inches, so that what they show decides nothing about where they are."""

from matplotlib.figure import Figure


class Page:
    """A figure laid out in inches from its lower left corner."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def axes(self, left, bottom, width, height):
        box = left / self.width, bottom / self.height, width / self.width, height / self.height
        return self.figure.add_axes(box)

    def text(self, left, bottom, text, size, **options):
        options = {"ha": "center", "parse_math": False, **options}
        self.figure.text(left / self.width, bottom / self.height, text, fontsize=size, **options)


def line_height(size, lines=1):
    """The height in inches of so many lines of type of a size in points."""
    return 1.3 * size * lines / 72
