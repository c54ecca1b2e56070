"""Split files: one channel and what stage 3 has made of it, with everything it came from."""

import hashlib
import io
import re
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path

import torch

from utils.errors import UserError
from utils.images.transform import Transform
from utils.method.disentangling import OBJECTIVES, RHOS, Concept, Split, split_sources
from utils.store.files import SUFFIXES, damage_is_one_line, json_digest, read_bytes, split_name, write_bytes

SPLIT_FORMAT = 3
AGAIN = "run disentangle_channel.py again"

# What a split file takes over from meta.json, to be compared with what the next stage is asked for
SPLIT_CONTEXT = (
    *("model", "weights", "weights_sha256", "layer", "num_channels", "num_outputs", "transform", "classes"),
)
# What stages 2 and 3 were asked for; None where it is not known
SETTINGS = ("tau", "p", "gamma", "min_images", "only_correct", "precision", "decoding", "batch_size")


@dataclass
class SplitFile:
    """A split with what it belongs to.

    ``context`` has ``SPLIT_CONTEXT``, ``settings`` has ``SETTINGS``; ``background`` is the weight of everything else as
    a concept, or None without one; ``source`` says where its concepts came from; ``proof`` says how equality was
    shown: images, and predictions that changed. ``sha256`` is the digest of all that, once it is written or read.
    """

    split: Split
    context: dict
    settings: dict
    background: float | None
    source: dict
    proof: dict
    sha256: str | None = None

    def content(self):
        """Everything as one dictionary of plain values and tensors."""
        split = {field.name: getattr(self.split, field.name) for field in fields(Split)}
        split["concepts"] = [asdict(concept) for concept in self.split.concepts]
        content = {"format": SPLIT_FORMAT, "rhos": list(RHOS), "objective_names": list(OBJECTIVES), **split}
        content |= {name: getattr(self, name) for name in ("context", "settings", "background", "source", "proof")}
        return content


def split_path(model_dir, run, channel, concepts, suffix=""):
    return Path(model_dir) / f"{split_name(run, channel, concepts)}{suffix}.pt"


def find_splits(model_dir, run, channel, concepts=None):
    """Paths of all split files of a channel, or of a channel and its concepts (see ``split_name``), sorted."""
    found = sorted(Path(model_dir).glob(f"{run}_channel{channel}_*.pt"))
    if concepts is None:
        return found
    pattern = re.compile(re.escape(split_name(run, channel, concepts)) + SUFFIXES + r"\.pt")
    return [path for path in found if pattern.fullmatch(path.name)]


def write_split(path, file):
    """Write a SplitFile, and note its digest."""
    content = file.content()
    file.sha256 = content["sha256"] = digest_of(content)
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
        if content["format"] != SPLIT_FORMAT or "background" not in content:
            raise UserError(f"{path} was made by another version of this program: {AGAIN}")
        sha256 = content.pop("sha256")
        if sha256 != digest_of(content):
            raise ValueError("its checksum is wrong")
        if content["rhos"] != list(RHOS) or content["objective_names"] != list(OBJECTIVES):
            raise ValueError("its rhos or objectives are not those of this program")
        concepts = [Concept(**concept) for concept in content["concepts"]]
        split = Split(**{**{field.name: content[field.name] for field in fields(Split)}, "concepts": concepts})
        names = [field.name for field in fields(SplitFile) if field.name not in ("split", "sha256")]
        file = SplitFile(split, *(content[name] for name in names), sha256)
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
    if "images" in kinds and len(file.source["centroids"]) != kinds.count("images"):
        raise ValueError("its centroids are impossible")
    if not set(chain.from_iterable(split.classes)) <= set(context["classes"].values()):
        raise ValueError("its concepts have classes that are not there")
    values = {"weight": split.weight.shape, "arvs": (num_concepts, num_inputs), "mean_arv": (num_inputs,)}
    values |= {"bias": ()} if split.bias is not None else {}
    if split.split_by == "arv":
        values["objectives"] = (len(RHOS), len(OBJECTIVES))
    for name, shape in values.items():
        if tuple(getattr(split, name).shape) != tuple(shape) or not getattr(split, name).isfinite().all():
            raise ValueError(f"its {name} is impossible")
    _check_division(split)


def _check_division(split):
    """Raise ValueError where a split's inputs cannot have been divided as it says."""
    if split.split_by == "least_squares":
        fitted = split.fitted
        on_simplex = (fitted >= 0).all() and ((fitted.sum(0) - 1).abs() < 1e-9).all()  # which NaN is not
        if fitted.shape != split.arvs.shape or not on_simplex:
            raise ValueError("its shares are impossible")
        return
    if split.rho not in RHOS or split.objective not in OBJECTIVES:
        raise ValueError(f"its rho {split.rho} was chosen in an unknown way")
    owners = torch.stack([split_sources(split.arvs, rho) for rho in RHOS])
    if not torch.equal(owners, split.owners.long()):
        raise ValueError("its owners do not follow from its ARVs")


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
