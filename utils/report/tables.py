"""What tables have in common: Markdown in columns, and files that miss nothing that was written meanwhile."""

from utils.store.files import write_bytes


def aligned(cells):
    """Rows of text, the header first, as a Markdown table with columns of one width, whatever the text."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def write_settled(measurements, texts):
    """Write the files that are made of all entries of Measurements: their paths.

    Others may write entries at the same time: all is made again until nothing has changed meanwhile.

    Parameters
    ----------
    measurements : Measurements
    texts : dict of file name -> function of the entries that returns the file's text
    """
    state = None
    while state != measurements.state():
        state, found = measurements.state(), measurements.read_all()
        for name, text in texts.items():
            write_bytes(measurements.folder / name, text(found).encode())
    return [measurements.folder / name for name in texts]
