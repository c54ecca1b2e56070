"""The table of gamma-polysemantic pairs that stage 2 makes, and that stages 3 and 4 take as ``--candidates``."""

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.store.files import write_bytes


@dataclass
class AskedPair:
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


def pairs_path(args, run):
    """Path of stage 2's table, named after the arguments that chose its pairs."""
    name = (
        f"{run}_required{args.proportion_attribution_required}_p{args.p}_cossim{args.cos_sim_low}to{args.cos_sim_high}"
    )
    name += "_only_correct" if args.only_correct else ""
    name += f"_min{args.min_images}" if args.min_images > 1 else ""
    return Path(args.output_dir) / "results_get_cosine_similarities" / f"{name}.txt"


def write_pairs(path, pairs):
    """Write (channel, class1, class2, cosine) rows."""
    rows = [f"{channel},{class1},{class2},{cosine:.6f}\n" for channel, class1, class2, cosine in pairs]
    write_bytes(path, "".join(["Channel,Class1,Class2,CosineSimilarity\n", *rows]).encode())


def read_pairs(path):
    """Read pairs from ``write_pairs``'s table, or from text with a line ``channel: class1, class2`` a pair.

    Parameters
    ----------
    path : str or Path
        Empty lines and what follows a ``#`` do not count. Folders with spaces or ``,:;#`` in their names can only be
        given as outputs.

    Returns
    -------
    list of AskedPair
    """
    if not Path(path).is_file():
        raise UserError(f"--candidates {path}: there is no such file")
    pairs, text = [], Path(path).read_text(encoding="utf-8-sig", errors="backslashreplace")
    for number, line in enumerate(text.splitlines(), start=1):
        words, where = re.split(r"[\s,:;]+", line.partition("#")[0].strip()), f"--candidates {path}, line {number}"
        if words == [""] or words[0] == "Channel":
            continue
        if len(words) - _has_cosine(words) != 3 or not words[0].isdecimal():
            raise UserError(f"{where} is no 'channel: class1, class2' ({line.strip()[:60]})")
        pairs.append(AskedPair(int(words[0]), [[words[1]], [words[2]]], where))
    if not pairs:
        raise UserError(f"--candidates {path}: there is no pair in it")
    return pairs


def _has_cosine(words):
    """Whether a line ends in a cosine, as those of stage 2's table do: a fourth word, which is no class."""
    return len(words) == 4 and bool(re.fullmatch(r"-?[01]\.\d+", words[3]))
