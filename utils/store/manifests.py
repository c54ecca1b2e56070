"""Manifests: all splits of a candidates file as one thing, a whole layer say."""

from pathlib import Path

from utils.errors import UserError
from utils.store.files import damage_is_one_line, read_json, write_json
from utils.store.splits import read_split

MANIFEST_FORMAT = 1
AGAIN = "run disentangle_channel.py on the candidates file again"


def manifest_path(model_dir, run, stem, suffix):
    """Path of the manifest of a candidates file: named after its stem, with RUN once."""
    name = stem if stem.startswith(run) else f"{run}_{stem}"
    return Path(model_dir) / f"{name}{suffix}_layer.json"


def write_manifest(path, files, proof):
    """Write a manifest.

    Parameters
    ----------
    path : Path
        Beside the split files.
    files : dict of Path -> SplitFile
    proof : dict
        How equality was shown with all of them at once.
    """
    write_json(path, {"format": MANIFEST_FORMAT, "splits": describe_splits(files), "proof": proof})


def describe_splits(files):
    """What a manifest says of its splits, {Path: SplitFile}: a list of dict."""
    return [
        {"file": path.name, "sha256": file.sha256, "channel": file.split.channel, "rho": file.split.rho}
        for path, file in files.items()
    ]


def read_manifest(path):
    """The splits of a manifest, each with its digest and rho: a list of dict."""
    content = read_json(path, AGAIN)
    with damage_is_one_line(path, AGAIN):
        if content["format"] != MANIFEST_FORMAT:
            raise ValueError("it is of another version of this program")
        if any(not one.keys() >= {"file", "sha256", "rho"} for one in content["splits"]):
            raise ValueError("it is not complete")
        if any(Path(one["file"]).name != one["file"] for one in content["splits"]):
            raise ValueError("it names a file elsewhere")
    return content["splits"]


def splits_of(path):
    """The split files that a path stands for, itself or those of a manifest: a list of (Path, rho or None)."""
    path = Path(path)
    if path.suffix != ".json":
        return [(path, None)]
    if not path.is_file():
        raise UserError(f"there is no manifest {path}")
    found = []
    for one in read_manifest(path):
        split = path.with_name(one["file"])
        if read_split(split).sha256 != one["sha256"]:
            raise UserError(f"{split} has changed since {path} was written: {AGAIN}")
        found.append((split, one["rho"]))
    return found
