"""Split files, one channel each, with everything it came from; and manifests, all splits of a layer as one thing."""

import hashlib
import io
import re
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path

import torch

from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.images.transform import Transform
from utils.method.disentangling import Concept, Split
from utils.store.files import (
    SUFFIXES,
    damage_is_one_line,
    json_digest,
    number_text,
    read_bytes,
    read_json,
    split_name,
    split_suffix,
    write_bytes,
    write_json,
)

SPLIT_FORMAT = 4
AGAIN = "run disentangle_channel.py again"

# What a split file takes over from meta.json, to be compared with what the next stage is asked for
SPLIT_CONTEXT = (
    *("model", "weights", "weights_sha256", "layer", "num_channels", "num_outputs", "transform", "classes"),
)
# Thresholds of stage 2, which change nothing in a split: they are kept beside it, and do not count in its digest
THRESHOLDS = ("tau", "p", "gamma", "min_images")
# What stages 2 and 3 were asked for; None where it is not known
SETTINGS = (*THRESHOLDS, "only_correct", "precision", "decoding", "batch_size")
OF_SPLIT = ("channel", "concepts", "weight", "bias", "positions", "arvs", "mean_arv")


@dataclass
class SplitFile:
    """A split with what it belongs to.

    ``context`` has ``SPLIT_CONTEXT``, ``settings`` has ``SETTINGS``; ``background`` is the weight of everything else as
    a concept, or None without one; ``source`` says where its concepts came from, by ``name``, and its ``state``, plain
    values and tensors; ``proof`` says how equality was shown: images, and predictions that changed. ``sha256`` is the
    digest of all that but the thresholds, once it is written or read.
    """

    split: Split
    context: dict
    settings: dict
    background: float | None
    source: dict
    proof: dict
    sha256: str | None = None

    def content(self):
        """Everything as one dictionary of plain values and tensors, with the digests."""
        split = {name: getattr(self.split, name) for name in OF_SPLIT}
        split["concepts"] = [asdict(concept) for concept in self.split.concepts]
        division = {"name": self.split.division.name, "state": self.split.division.state()}
        content = {"format": SPLIT_FORMAT, **split, "division": division}
        content |= {name: getattr(self, name) for name in ("context", "settings", "background", "source", "proof")}
        return {**content, "sha256": split_digest(content), "settings_sha256": digest_of(self.settings)}

    def found_by(self):
        """How its concepts were found and its inputs divided: what results that are summed up together agree in."""
        state = {name: value for name, value in self.source["state"].items() if not isinstance(value, torch.Tensor)}
        found = {"from": self.source["name"], **state, **self.split.division.kept_apart()}
        return dict(sorted(found.items()))


def split_digest(content):
    """The digest of a split file's content, whatever thresholds chose its channel."""
    settings = {name: value for name, value in content["settings"].items() if name not in THRESHOLDS}
    return digest_of({**content, "settings": settings})


def split_path(model_dir, run, channel, concepts, suffix=""):
    return Path(model_dir) / f"{split_name(run, channel, concepts)}{suffix}.pt"


def find_splits(model_dir, run, channel, concepts=None):
    """Paths of all split files of a channel, or of a channel and its concepts (see ``split_name``), sorted."""
    found = sorted(Path(model_dir).glob(f"{run}_channel{channel}_*.pt"))
    if concepts is None:
        return found
    of_divisions = "|".join(f"(?:{division.suffix_pattern})" for division in DIVISIONS.all())
    suffixes = SUFFIXES.format(divisions=of_divisions)
    pattern = re.compile(re.escape(split_name(run, channel, concepts)) + suffixes + r"\.pt")
    return [path for path in found if pattern.fullmatch(path.name)]


def write_split(path, file):
    """Write a SplitFile, and note its digest."""
    content = file.content()
    file.sha256 = content["sha256"]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def read_split(path):
    """Read a SplitFile; what it promises is checked."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no split file {path}")
    data = read_bytes(path)
    with damage_is_one_line(path, AGAIN):
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["format"] != SPLIT_FORMAT:
            raise UserError(f"{path} was made by another version of this program: {AGAIN}")
        sha256, of_settings = content.pop("sha256"), content.pop("settings_sha256")
        if sha256 != split_digest(content) or of_settings != digest_of(content["settings"]):
            raise ValueError("its checksum is wrong")
        of_split = {name: content[name] for name in OF_SPLIT}
        of_split["concepts"] = [Concept(**concept) for concept in content["concepts"]]
        name = content["division"]["name"]
        DIVISIONS.require(name, path)
        division = DIVISIONS.get(name).from_state(content["division"]["state"], content["arvs"])
        of_file = [field.name for field in fields(SplitFile) if field.name not in ("split", "sha256")]
        file = SplitFile(Split(**of_split, division=division), *(content[field] for field in of_file), sha256)
        _check(file)
    return file


def _check(file):
    """Raise ValueError where a split file cannot be one, whatever its checksum says."""
    split, context = file.split, file.context
    num_concepts, num_inputs = len(split.concepts), len(split.weight)
    if set(context) != set(SPLIT_CONTEXT) or set(file.settings) != set(SETTINGS):
        raise ValueError("it is not complete")
    if not 0 <= split.channel < context["num_channels"] or split.weight.ndim != 2 or num_concepts < 2:
        raise ValueError("its channel or concepts are impossible")
    kinds = [concept.kind for concept in split.concepts]
    if "background" in kinds[:-1] or split.has_background != (file.background is not None) or split.positions < 1:
        raise ValueError("its background or positions are impossible")
    for concept, kind in zip(split.concepts, kinds, strict=True):
        if (kind == "images") != bool(concept.images) or (kind == "classes") != bool(concept.classes):
            raise ValueError("its concepts are impossible")
    centroids = file.source["state"].get("centroids")
    if centroids is not None and len(centroids) != kinds.count("images"):
        raise ValueError("its centroids are impossible")
    if not set(chain.from_iterable(split.classes)) <= set(context["classes"].values()):
        raise ValueError("its concepts have classes that are not there")
    values = {"weight": split.weight.shape, "arvs": (num_concepts, num_inputs), "mean_arv": (num_inputs,)}
    values |= {"bias": ()} if split.bias is not None else {}
    for name, shape in values.items():
        if tuple(getattr(split, name).shape) != tuple(shape) or not getattr(split, name).isfinite().all():
            raise ValueError(f"its {name} is impossible")


def digest_of(content):
    """SHA-256 of a split file's content, or of part of it: plain values as JSON, tensors as type, shape and bytes."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    return json_digest(plain(content))


def require_weight(path, split, weight, bias):
    """Raise UserError unless the split's weight and bias are the layer's: ``weight`` [C, C_in, taps], ``bias`` [C]."""
    own = weight[split.channel].float().cpu(), None if bias is None else bias[split.channel].float().cpu()
    for stored, real in zip((split.weight, split.bias), own, strict=True):
        if (stored is None) != (real is None) or (stored is not None and not torch.equal(stored, real)):
            raise UserError(f"{path} has another weight than channel {split.channel} of the network: {AGAIN}")


def transform_from(stored):
    """The Transform that a meta or split file holds as a dictionary."""
    return Transform(**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})


# --------------------------------------------------------------------------------------------------------------------
# Manifests: all splits of a candidates file as one thing, a whole layer say

MANIFEST_FORMAT = 1
LAYER_AGAIN = "run disentangle_channel.py on the candidates file again"


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
    content = read_json(path, LAYER_AGAIN)
    with damage_is_one_line(path, LAYER_AGAIN):
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
            raise UserError(f"{split} has changed since {path} was written: {LAYER_AGAIN}")
        found.append((split, one["rho"]))
    return found


# --------------------------------------------------------------------------------------------------------------------
# Stage 3's files: which splits are there and equal, and what is written of a new one


class SplitWriter:
    """Writes the splits of one run of stage 3, and knows which are there and equal.

    Parameters
    ----------
    study : Study
        Of the layer.
    stage_two : dict
        What stage 2 was asked, as far as it is known.
    division : type
        Of the Divisions of these splits.
    division_settings : dict
        Of ``division.settings_from``.
    """

    def __init__(self, study, stage_two, division, division_settings):
        self.folder, self.run, self.background = study.model_dir, study.run, study.background
        self.division, self.division_settings = division, division_settings
        self.context = {key: study.meta[key] for key in SPLIT_CONTEXT}
        of_study = {name: getattr(study, name) for name in ("only_correct", "precision", "decoding", "batch_size")}
        self.settings = {key: {**stage_two, **of_study}.get(key) for key in SETTINGS}

    @property
    def suffix(self):
        """What follows the channel and its concepts in the names of these splits."""
        division = self.division.suffix_of(self.division_settings)
        return split_suffix(only_correct=self.settings["only_correct"], division=division, background=self.background)

    def path(self, candidate):
        return split_path(self.folder, self.run, candidate.channel, candidate.named_by, self.suffix)

    def selectors(self, candidates):
        """The flags with which stage 4 takes these splits, where others of the same channels and concepts are there."""
        several = any(len(find_splits(self.folder, self.run, one.channel, one.named_by)) > 1 for one in candidates)
        words = ["--split_by", self.division.name]
        words += ["--background", number_text(self.background or 0)] if several or self.background else []
        if several:
            words += ["--only_correct" if self.settings["only_correct"] else "--no-only_correct"]
            words += self.division.flag_words(self.division_settings)
        return words

    def is_there(self, candidate):
        """Whether the split is stored already, made of the same in the same way.

        Then says so, and writes the thresholds of stage 2 into its file where they are others.
        """
        try:
            file = read_split(self.path(candidate))
        except UserError:  # missing, damaged or of another version: it is made anew
            return False
        split, how = file.split, ("only_correct", "precision", "decoding", "batch_size")
        stored = (file.context, [file.settings[key] for key in how], digest_of(file.source), file.background)
        stored += (split.division.name, split.division.settings(), split.concepts, split.positions)
        wanted = (self.context, [self.settings[key] for key in how], digest_of(candidate.source), self.background)
        wanted += (self.division.name, self.division_settings, candidate.concepts, candidate.positions)
        equal = stored == wanted and all(
            torch.equal(getattr(split, name), getattr(candidate, name)) for name in ("weight", "arvs", "mean_arv")
        )
        if equal:
            print(f"there already: {self.path(candidate)}")
            known = {key: value for key, value in self.settings.items() if value is not None}
            if file.settings != {**file.settings, **known}:  # thresholds of stage 2, which change nothing else
                file.settings |= known
                write_split(self.path(candidate), file)
        return equal

    def write(self, candidate, split, check):
        """Write a split, with its EqualityCheck: its path, and the SplitFile; UserError where it is not equal."""
        if not check.is_equal():
            raise UserError("the split network does not equal the original: the split was not stored")
        proof = described(check)
        file = SplitFile(split, self.context, self.settings, self.background, candidate.source, proof)
        write_split(self.path(candidate), file)
        return self.path(candidate), file

    def read_all(self, candidates):
        """The SplitFiles of candidates that were written: {Path: SplitFile}."""
        return {path: read_split(path) for path in map(self.path, candidates)}

    def make_a_layer(self, candidates):
        """Whether these candidates can be in one network: no channel twice."""
        return len({one.channel for one in candidates}) == len(candidates)

    def manifest_path(self, stem):
        return manifest_path(self.folder, self.run, stem, self.suffix)

    def layer_is_there(self, path, files):
        """Whether the manifest of these splits, as they are, is stored already; says so."""
        try:
            there = read_manifest(path) == describe_splits(files)
        except UserError:  # missing, damaged or of another version: it is made anew
            return False
        if there:
            print(f"there already: {path}")
        return there

    def write_layer(self, path, files, check):
        """Write the manifest of splits, with the EqualityCheck of all of them at once."""
        if not check.is_equal():
            raise UserError("the network with all splits at once does not equal the original: no manifest was stored")
        write_manifest(path, files, described(check))


def described(check):
    """An EqualityCheck as plain values."""
    return {
        "images": check.images,
        "changed_predictions": check.changed_predictions,
        "precision": check.precision,
        "errors": list(check.errors()),
        "fp32_errors": list(check.fp32_errors()),
    }
