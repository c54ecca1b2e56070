"""The table of gamma-polysemantic pairs that stage 2 makes, and that stages 3 and 4 take as ``--candidates``."""

import re
from pathlib import Path

from utils.errors import UserError
from utils.files import write_bytes


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
        Empty lines and what follows a ``#`` do not count.

    Returns
    -------
    list of (channel, [[class1], [class2]])
        In the file's order, each once; classes as strings.
    """
    if not Path(path).is_file():
        raise UserError(f"--candidates {path}: there is no such file")
    pairs = {}
    for number, line in enumerate(Path(path).read_text(errors="backslashreplace").splitlines(), start=1):
        words = re.split(r"[\s,:;]+", line.partition("#")[0].strip())
        if words == [""] or words[0] == "Channel":
            continue
        if len(words) not in (3, 4) or not words[0].isdecimal():
            raise UserError(f"--candidates {path}: line {number} is no 'channel: class1, class2' ({line.strip()[:60]})")
        pairs[int(words[0]), words[1], words[2]] = None
    if not pairs:
        raise UserError(f"--candidates {path}: there is no pair in it")
    return [(channel, [[class1], [class2]]) for channel, class1, class2 in pairs]
