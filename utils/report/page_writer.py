"""The folder of a report: pages from templates, data in a script, and pictures. All of it opens from disk."""

import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from utils.report.numbers import formatted
from utils.report.plots import DISENTANGLED, EVERYTHING_ELSE, GREY, ORIGINAL
from utils.store.files import write_bytes

TEMPLATES = Path(__file__).with_name("page")
QUALITY = 75  # of JPEG
WIDEST = 1000  # pixels of a figure that was made for print
DPI = 110
DASHES = {"--": "6 3", "-.": "7 2 1.5 2", "-": "none", ":": "1.5 2"}


class Strip(NamedTuple):
    """The most activating patches of a unit, side by side in one picture, strongest first.

    ``src`` is the picture's name, relative to the report's folder; ``images`` has (output, activation, path relative to
    ``val/``) of each patch.
    """

    src: str
    images: list[tuple[int, float, str]]


def report_folder(output_dir: str | Path, run: str) -> Path:
    return Path(output_dir) / "report" / run


def patches_path(folder: Path) -> Path:
    """The file of a report's ``folder`` with the strongest patches of all units that a report or a card has shown."""
    return folder / "patches.npz"


def strip_name(key: str) -> str:
    """The picture of a unit's patches, relative to the report's folder; ``key`` tells units and sizes apart."""
    return f"patches/{key}.jpg"


def write_strip(path: Path, tiles: np.ndarray) -> None:
    """Write tiles [n, H, W, 3] side by side."""
    write_bytes(path, _jpeg(Image.fromarray(np.concatenate(list(tiles), axis=1))))


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


class Pictures:
    """The figures of a report, below its ``folder``; ``made`` are their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: set[str] = set()

    def copied(self, path: Path, widest: int = WIDEST) -> dict:
        """A figure as a JPEG of at most ``widest`` pixels: its name relative to the folder, and its size."""
        with Image.open(path) as figure:
            picture = figure.convert("RGB")
        picture.thumbnail((widest, 4 * widest), Image.Resampling.LANCZOS)
        return self._written(f"{path.stem}.jpg", _jpeg(picture), picture.width, picture.height)

    def drawn(self, name: str, figure: Figure) -> dict:
        """A matplotlib figure as PNG: its name relative to the folder, and its size."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        width, height = (round(side * DPI) for side in figure.get_size_inches())
        return self._written(name, buffer.getvalue(), width, height)

    def _written(self, name: str, content: bytes, width: int, height: int) -> dict:
        src = f"figures/{name}"
        write_bytes(self.folder / src, content)
        self.made.add(src)
        return {"src": src, "width": width, "height": height}


def write_pages(
    folder: Path, layer: dict, channels: list[dict], data: list[dict], figures: Collection[str] = ()
) -> Path:
    """Write the page of the layer and a page for each channel, and remove what earlier reports have left.

    Parameters
    ----------
    folder
    layer
        What ``index.html`` shows next to the channels, and ``title``, ``subtitle``, ``settings``.
    channels
        From ``page_data.describe_channel``, in the order of the table.
    data
        From ``page_data.table_data``.
    figures
        The figures that pages show, relative to the folder.

    Returns
    -------
    Path
        The page to open first.
    """
    environment = _environment()

    def write(name: str, template: str, **values: Any) -> None:
        write_bytes(folder / name, environment.get_template(template).render(**values).encode())

    write("style.css", "style.css", **_colours())
    write("page.js", "page.js")
    write("data.js", "data.js", data=data)
    neighbours = [None, *channels, None]
    for channel, previous, following in zip(channels, neighbours[:-2], neighbours[2:], strict=True):
        write(channel["file"], "channel.html", layer=layer, channel=channel, previous=previous, following=following)
    write("index.html", "index.html", layer=layer, channels=channels)
    shown = [units for channel in channels for units in (channel, *channel["splits"])]
    strips = {unit["src"] for units in shown for unit in units["units"]}
    _remove_others(folder, {*figures, *strips, *(channel["file"] for channel in channels)})
    return folder / "index.html"


def _remove_others(folder: Path, shown: set[str]) -> None:
    """Remove pages of channels, strips and figures that are not among those ``shown``."""
    for pattern in ("channel_*.html", "patches/*.jpg", "figures/*.*"):
        for path in folder.glob(pattern):
            if path.relative_to(folder).as_posix() not in shown:
                path.unlink()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "symbol": symbol}
    return environment


def number(value: float | None, digits: int = 2) -> str:
    """A number as text; a dash where it could not be measured."""
    return formatted(value, f".{digits}f")


def symbol(text: str) -> str:
    """``c'_1`` without its underscore, as pages write it."""
    return re.sub(r"c'_(\d)", r"c'\1", text)


def _colours() -> dict:
    """The colours and dashes of the project's figures, for the style sheet."""
    lines = [{"colour": colour, "dash": _dash(line)} for colour, line in DISENTANGLED]
    return {"lines": lines, "original": ORIGINAL[0], "grey": GREY, "rest": EVERYTHING_ELSE[0]}


def _dash(line: str | tuple) -> str:
    return DASHES[line] if isinstance(line, str) else " ".join(str(1.6 * length) for length in line[1])
