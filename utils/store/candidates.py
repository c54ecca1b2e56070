"""Stage 2's table of gamma-polysemantic pairs, and what stages 3 and 4 read as ``--candidates``."""

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.store.files import write_bytes


@dataclass
class AskedCandidate:
    """A channel and the classes of each concept, as given; ``line`` says where, or is None for flags."""

    channel: int
    concepts: list
    line: str | None = None

    @contextmanager
    def named(self):
        """Say in errors which line of a file is meant."""
        try:
            yield
        except UserError as error:
            if self.line is None:
                raise
            raise UserError(f"{self.line}: {error}") from error


def pairs_path(output_dir, run, *, tau, p, cosines, only_correct, min_images):
    """Path of stage 2's table, named after the settings that chose its pairs; ``cosines`` are the bounds."""
    low, high = cosines
    name = f"{run}_required{tau}_p{p}_cossim{low}to{high}"
    name += "_only_correct" if only_correct else ""
    name += f"_min{min_images}" if min_images > 1 else ""
    return Path(output_dir) / "results_get_cosine_similarities" / f"{name}.txt"


def write_pairs(path, pairs):
    """Write ClassPairs as stage 2's table."""
    rows = [f"{channel},{class1},{class2},{cosine:.6f}\n" for channel, class1, class2, cosine in pairs]
    write_bytes(path, "".join(["Channel,Class1,Class2,CosineSimilarity\n", *rows]).encode())


def read_candidates(path):
    """Read candidates from ``write_pairs``'s table, or from text with a line ``channel: class1, class2`` each.

    Parameters
    ----------
    path : str or Path
        Empty lines and what follows a ``#`` do not count. Folders with spaces or ``,:;#`` in their names can only be
        given as outputs.

    Returns
    -------
    list of AskedCandidate
    """
    if not Path(path).is_file():
        raise UserError(f"--candidates {path}: there is no such file")
    candidates, text = [], Path(path).read_text(encoding="utf-8-sig", errors="backslashreplace")
    for number, line in enumerate(text.splitlines(), start=1):
        words, where = re.split(r"[\s,:;]+", line.partition("#")[0].strip()), f"--candidates {path}, line {number}"
        if words == [""] or words[0] == "Channel":
            continue
        if len(words) - _has_cosine(words) != 3 or not words[0].isdecimal():
            raise UserError(f"{where} is no 'channel: class1, class2' ({line.strip()[:60]})")
        candidates.append(AskedCandidate(int(words[0]), [[words[1]], [words[2]]], where))
    if not candidates:
        raise UserError(f"--candidates {path}: there is no pair in it")
    return candidates


def _has_cosine(words):
    """Whether a line ends in a cosine, as those of stage 2's table do: a fourth word, which is no class."""
    return len(words) == 4 and bool(re.fullmatch(r"-?[01]\.\d+", words[3]))
