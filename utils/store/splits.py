"""Split files, each with a channel and everything it was made from; and manifests, which list the splits of a layer."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.divisions.division import Division
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.method.disentangling import Candidate, Concept, Split
from utils.method.equality import EqualityCheck
from utils.processes import progress
from utils.store.files import (
    SUFFIXES,
    damage_is_one_line,
    file_identity,
    number_text,
    read_bytes,
    read_json,
    split_name,
    split_suffix,
    with_suffix,
    write_bytes,
    write_json,
)

if TYPE_CHECKING:  # a summary of results does not wait for torchvision
    from utils.images.transform import Transform
    from utils.store.study import Study

SPLIT_FORMAT = 4
# A file of this format has the values of SPLIT_FORMAT, but its context as JSON: read_split is four times as fast
PACKED_FORMAT = 5
AGAIN = "run disentangle_channel.py again"

# Values of meta.json that a split file keeps, to be compared with the flags of the next stage
SPLIT_CONTEXT = ("model", "weights", "weights_sha256", "layer", "num_channels", "num_outputs", "transform", "classes")
# Thresholds of stage 2. They change nothing in a split, so they are kept next to it and do not count in its digest.
THRESHOLDS = ("tau", "p", "gamma", "min_images")
# Settings of stages 2 and 3; None if unknown
OF_STUDY = ("only_correct", "precision", "decoding", "batch_size")
SETTINGS = (*THRESHOLDS, *OF_STUDY)
_digests: dict[Any, str] = {}  # of the split files that this process has read, by the identity of the file
OF_SPLIT = ("channel", "concepts", "weight", "bias", "positions", "arvs", "mean_arv")


@dataclass
class SplitFile:
    """A split and what it was made from.

    ``context`` has ``SPLIT_CONTEXT``, ``settings`` has ``SETTINGS``; ``background`` is the weight of the background
    concept, or None without one; ``source`` has the ``name`` and ``state`` (plain values and tensors) of the source of
    its concepts; ``proof`` is the result of the equality check. ``sha256`` is the digest of all these values except the
    thresholds, after the file has been written or read.
    """

    split: Split
    context: dict[str, Any]
    settings: dict[str, Any]
    background: float | None
    source: dict[str, Any]
    proof: dict[str, Any]
    sha256: str | None = None

    def content(self) -> dict[str, Any]:
        """All values as one dictionary of plain values and tensors, with the digests."""
        split = {name: getattr(self.split, name) for name in OF_SPLIT}
        split["concepts"] = [asdict(concept) for concept in self.split.concepts]
        division = {"name": self.split.division.name, "state": self.split.division.state()}
        content = {"format": SPLIT_FORMAT, **split, "division": division}
        content |= {name: getattr(self, name) for name in ("context", "settings", "background", "source", "proof")}
        return {**content, "sha256": split_digest(content), "settings_sha256": digest_of(self.settings)}

    def found_by(self) -> dict[str, Any]:
        """How its concepts were found and its inputs divided; only results that agree in it are summarised together."""
        state = {name: value for name, value in self.source["state"].items() if not isinstance(value, torch.Tensor)}
        settings = {"from": self.source["name"], **state, **self.split.division.kept_apart()}
        return dict(sorted(settings.items()))


def split_digest(content: dict[str, Any]) -> str:
    """The digest of a split file's content without the thresholds."""
    settings = {name: value for name, value in content["settings"].items() if name not in THRESHOLDS}
    return digest_of({**content, "settings": settings})


def split_path(
    model_dir: Path | str, run: str, channel: int, concepts: list[list[int]] | str, suffix: str = ""
) -> Path:
    return Path(model_dir) / f"{split_name(run, channel, concepts)}{suffix}.pt"


class StoredSplits:
    """The split files of a network and layer in a folder, which is listed once: later files are not found.

    Parameters
    ----------
    model_dir : Path or str
        It need not exist.
    run : str
    """

    def __init__(self, model_dir: Path | str, run: str) -> None:
        self.folder = Path(model_dir)
        self.run = run
        self._of_channels: dict[str, list[Path]] = {}
        of_divisions = "|".join(f"(?:{division.suffix_pattern})" for division in DIVISIONS.all())
        self._suffix = re.compile(SUFFIXES.format(divisions=of_divisions) + r"\.pt")
        name_pattern = re.compile(re.escape(run) + r"_channel(\d+)_.*\.pt")
        for name in sorted(os.listdir(self.folder)) if self.folder.is_dir() else ():
            match = name_pattern.fullmatch(name)
            if match:
                self._of_channels.setdefault(match[1], []).append(self.folder / name)

    def all(self) -> list[Path]:
        """Paths of all split files, sorted."""
        return sorted(path for paths in self._of_channels.values() for path in paths)

    def manifests(self) -> list[Path]:
        """Paths of the manifests of these splits, the newest last; damaged ones are left out."""
        paths = []
        for path in self.folder.glob("*_layer.json"):
            with suppress(UserError):
                if read_manifest(path)[0]["file"].startswith(f"{self.run}_channel"):
                    paths.append(path)
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns)

    def find(self, channel: int, concepts: list[list[int]] | str | None = None) -> list[Path]:
        """Paths of the split files of a channel, or of a channel and its concepts (see ``split_name``), sorted."""
        paths = self._of_channels.get(str(channel), [])
        if concepts is None:
            return paths
        start = split_name(self.run, channel, concepts)
        return [path for path in paths if path.name.startswith(start) and self._suffix.fullmatch(path.name, len(start))]


def write_split(path: Path, file: SplitFile) -> None:
    """Write a SplitFile, and set its ``sha256``."""
    content = file.content()
    file.sha256 = content["sha256"]
    buffer = io.BytesIO()
    torch.save({**content, "format": PACKED_FORMAT, "context": json.dumps(file.context)}, buffer)
    write_bytes(path, buffer.getvalue())


def read_split(path: Path | str) -> SplitFile:
    """Read a SplitFile.

    Raises
    ------
    UserError
        A file that is missing, damaged or of another format, or whose way of dividing inputs is not registered.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no split file {path}: {AGAIN}")
    data = read_bytes(path)
    with damage_is_one_line(path, AGAIN):
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["format"] == PACKED_FORMAT:
            content |= {"format": SPLIT_FORMAT, "context": _context_of(content["context"])}
        if content["format"] != SPLIT_FORMAT:
            raise UserError(f"{path} was made by another version of this program: {AGAIN}")
        sha256 = content.pop("sha256")
        settings_sha256 = content.pop("settings_sha256")
        if sha256 != split_digest(content) or settings_sha256 != digest_of(content["settings"]):
            raise ValueError("its checksum is wrong")
        division_name = content["division"]["name"]
        DIVISIONS.require(division_name, path)
        division = DIVISIONS.get(division_name).from_state(content["division"]["state"], content["arvs"])
    of_split = {name: content[name] for name in OF_SPLIT}
    of_split["concepts"] = [Concept(**concept) for concept in content["concepts"]]
    of_file = {name: content[name] for name in ("context", "settings", "background", "source", "proof")}
    return SplitFile(Split(**of_split, division=division), **of_file, sha256=sha256)


def stored_digest(path: Path) -> str:
    """The ``sha256`` of a split file. A file that has not changed since the last call is not read again."""
    identity = file_identity(path)
    if identity is None or identity not in _digests:
        sha256 = read_split(path).sha256
        assert sha256 is not None  # it was read
        _digests[identity] = sha256
    return _digests[identity]


@lru_cache(maxsize=16)
def _context_of(text: str) -> dict[str, Any]:
    """The context of split files, from JSON. Files of one study share it: it is long, and must not be changed."""
    return json.loads(text)


def digest_of(content: Any) -> str:
    """SHA-256 of a split file's content, or of part of it: plain values as JSON, tensors as type, shape and bytes."""

    def plain(tensor: torch.Tensor) -> Any:
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data.data).hexdigest()]

    return hashlib.sha256(json.dumps(content, sort_keys=True, default=plain).encode()).hexdigest()


def transform_from(stored: dict[str, Any]) -> Transform:
    """The Transform that ``meta.json`` or a split file holds as a dictionary."""
    from utils.images.transform import Transform

    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Transform(**fields)


# --------------------------------------------------------------------------------------------------------------------
# Manifests: the splits of a candidates file, for example of a whole layer

MANIFEST_FORMAT = 1
LAYER_AGAIN = "run disentangle_channel.py on the candidates file again"


def manifest_path(model_dir: Path | str, run: str, stem: str, suffix: str) -> Path:
    """Path of the manifest of a candidates file, named after the stem of that file, with RUN once."""
    name = stem if stem.startswith(run) else f"{run}_{stem}"
    return Path(model_dir) / f"{with_suffix(name, suffix)}_layer.json"


def write_manifest(path: Path, files: dict[Path, SplitFile], proof: dict[str, Any]) -> None:
    """Write a manifest next to its split files; ``proof`` is the result of the equality check with all of them."""
    write_json(path, {"format": MANIFEST_FORMAT, "splits": describe_splits(files), "proof": proof})


def describe_splits(files: dict[Path, SplitFile]) -> list[dict[str, Any]]:
    """The entry of each split in a manifest."""
    return [
        {"file": path.name, "sha256": file.sha256, "channel": file.split.channel, "rho": file.split.rho}
        for path, file in files.items()
    ]


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """The entries of a manifest: ``file``, ``sha256``, ``channel`` and ``rho`` of each split."""
    content = read_json(path, LAYER_AGAIN)
    with damage_is_one_line(path, LAYER_AGAIN):
        if content["format"] != MANIFEST_FORMAT:
            raise ValueError("it is of another version of this program")
    return content["splits"]


def read_splits(path: Path | str) -> Iterator[tuple[Path, SplitFile, float | None]]:
    """Path, SplitFile and rho of each split of a manifest; or of a split file itself, with None.

    Each is read when it is asked for; UserError if it is not as its manifest says.
    """
    path = Path(path)
    if path.suffix != ".json":
        yield path, read_split(path), None
        return
    if not path.is_file():
        raise UserError(f"there is no manifest {path}")
    for entry in progress(read_manifest(path), "reading splits", unit=" splits", delay=2, leave=False):
        split = path.with_name(entry["file"])
        file = read_split(split)
        if file.sha256 != entry["sha256"]:
            raise UserError(f"{split} has changed since {path} was written: {LAYER_AGAIN}")
        yield split, file, entry["rho"]


# --------------------------------------------------------------------------------------------------------------------
# Stage 3's files: which splits are stored already, and how a new one is written


class SplitWriter:
    """Writes the splits of one run of stage 3, and finds those that are stored already and equal.

    Parameters
    ----------
    study : Study
        Study of the layer.
    stage_two : dict
        The settings of stage 2, as far as they are known.
    division : type
        The class of the Divisions of these splits.
    division_settings : dict
        From ``division.settings_from``.
    """

    def __init__(
        self,
        study: Study,
        stage_two: dict[str, Any],
        division: type[Division],
        division_settings: dict[str, Any],
    ) -> None:
        self.folder = study.model_dir
        self.run = study.run
        self.background = study.background
        self.division = division
        self.division_settings = division_settings
        self.context = {key: study.meta[key] for key in SPLIT_CONTEXT}
        of_study = {name: getattr(study, name) for name in OF_STUDY}
        self.settings: dict[str, Any] = {key: {**stage_two, **of_study}.get(key) for key in SETTINGS}

    @property
    def suffix(self) -> str:
        """The end of the names of these splits, after the channel and its concepts."""
        division = self.division.suffix_of(self.division_settings)
        return split_suffix(only_correct=self.settings["only_correct"], division=division, background=self.background)

    def path(self, candidate: Candidate) -> Path:
        return split_path(self.folder, self.run, candidate.channel, candidate.named_by, self.suffix)

    def selectors(self, candidates: Iterable[Candidate]) -> list[str]:
        """The flags that select these splits in stage 4, also among other splits of the same channels and concepts."""
        stored = StoredSplits(self.folder, self.run)
        several = any(len(stored.find(split.channel, split.named_by)) > 1 for split in candidates)
        words = ["--split_by", self.division.name]
        words += ["--background", number_text(self.background or 0)] if several or self.background else []
        if several:
            words += ["--only_correct" if self.settings["only_correct"] else "--no-only_correct"]
            words += self.division.flag_words(self.division_settings)
        return words

    def is_there(self, candidate: Candidate) -> bool:
        """Whether the split is stored already, made from the same values with the same settings.

        If so, prints it, and updates the thresholds of stage 2 in its file.
        """
        try:
            file = read_split(self.path(candidate))
        except UserError:  # missing, damaged or of another version: it will be made again
            return False
        if not self._is_equal(file, candidate):
            return False
        print(f"already stored: {self.path(candidate)}")
        settings = {key: value for key, value in self.settings.items() if value is not None}
        if file.settings != {**file.settings, **settings}:  # thresholds of stage 2, which change nothing else
            file.settings |= settings
            write_split(self.path(candidate), file)
        return True

    def _is_equal(self, file: SplitFile, candidate: Candidate) -> bool:
        """Whether a split file was made from the values of a candidate with the settings of this run."""
        split = file.split
        return (
            file.context == self.context
            and all(file.settings[name] == self.settings[name] for name in OF_STUDY)
            and file.background == self.background
            and digest_of(file.source) == digest_of(candidate.source)
            and split.division.name == self.division.name
            and split.division.settings() == self.division_settings
            and split.concepts == candidate.concepts
            and split.positions == candidate.positions
            and all(
                torch.equal(getattr(split, name), getattr(candidate, name)) for name in ("weight", "arvs", "mean_arv")
            )
        )

    def write(self, candidate: Candidate, split: Split, check: EqualityCheck) -> tuple[Path, SplitFile]:
        """Write a split that has passed its EqualityCheck; UserError if it has not. Returns its path and SplitFile."""
        if not check.is_equal():
            raise UserError("the split network does not equal the original: the split was not stored")
        file = SplitFile(split, self.context, self.settings, self.background, candidate.source, described(check))
        write_split(self.path(candidate), file)
        return self.path(candidate), file

    def read_all(self, candidates: Iterable[Candidate]) -> dict[Path, SplitFile]:
        """The SplitFiles of candidates that have been written."""
        paths = progress([*map(self.path, candidates)], "reading splits", unit=" splits", delay=2, leave=False)
        return {path: read_split(path) for path in paths}

    def make_a_layer(self, candidates: list[Candidate]) -> bool:
        """Whether these candidates can be in one network, that is, no channel occurs twice."""
        return len({candidate.channel for candidate in candidates}) == len(candidates)

    def manifest_path(self, stem: str) -> Path:
        return manifest_path(self.folder, self.run, stem, self.suffix)

    def layer_is_there(self, path: Path, files: dict[Path, SplitFile]) -> bool:
        """Whether the manifest of these splits is stored already; if so, prints it."""
        try:
            stored = read_manifest(path) == describe_splits(files)
        except UserError:  # missing, damaged or of another version: it will be made again
            return False
        if stored:
            print(f"already stored: {path}")
        return stored

    def write_layer(self, path: Path, files: dict[Path, SplitFile], check: EqualityCheck) -> None:
        """Write the manifest of splits whose network with all of them has passed its EqualityCheck."""
        if not check.is_equal():
            raise UserError("the network with all splits at once does not equal the original: no manifest was stored")
        write_manifest(path, files, described(check))


def described(check: EqualityCheck) -> dict[str, Any]:
    """An EqualityCheck as plain values."""
    return {
        "images": check.images,
        "changed_predictions": check.changed_predictions,
        "precision": check.precision,
        "errors": list(check.errors()),
        "fp32_errors": list(check.fp32_errors()),
    }
