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
from utils.method.disentangling import RHOS, Concept, Split, split_sources
from utils.method.rho import OBJECTIVES
from utils.networks.layers import splittable
from utils.networks.loading import fingerprint
from utils.networks.splitting import why_other_weights, with_splits
from utils.store.files import damage_is_one_line, json_digest, read_bytes, write_bytes
from utils.store.names import SUFFIXES, split_name

SPLIT_FORMAT = 3
AGAIN = "run disentangle_channel.py again"

# What a split file takes over from meta.json, to be compared with what the next stage is asked for
SPLIT_CONTEXT = (
    *("model", "weights", "weights_sha256", "layer", "num_channels", "num_outputs", "positions"),
    *("transform", "classes"),
)
# What stages 2 and 3 were asked for; None where it is not known
SETTINGS = ("tau", "p", "gamma", "min_images", "only_correct", "precision", "decoding", "batch_size")


@dataclass
class SplitFile:
    """A split with what it belongs to.

    ``context`` has ``SPLIT_CONTEXT``, ``settings`` has ``SETTINGS``; ``mean_arv`` [C_in] is the channel's ARV over all
    training images, ``source`` says where its concepts came from; ``proof`` says how equality was shown: images, and
    predictions that changed. ``sha256`` is the digest of all that, once it is written or read.
    """

    split: Split
    context: dict
    settings: dict
    mean_arv: torch.Tensor
    source: dict
    proof: dict
    sha256: str | None = None

    def content(self):
        """Everything as one dictionary of plain values and tensors."""
        split = {field.name: getattr(self.split, field.name) for field in fields(Split)}
        split["concepts"] = [asdict(concept) for concept in self.split.concepts]
        content = {"format": SPLIT_FORMAT, "rhos": list(RHOS), "objective_names": list(OBJECTIVES), **split}
        content |= {name: getattr(self, name) for name in ("context", "settings", "mean_arv", "source", "proof")}
        return content

    def made_of(self):
        """All but the proof, as a digest: what is the same if it were made again."""
        return _digest({name: value for name, value in self.content().items() if name != "proof"})


def split_path(model_dir, run, channel, concepts, suffix=""):
    return Path(model_dir) / f"{split_name(run, channel, concepts)}{suffix}.pt"


def find_splits(model_dir, run, channel, concepts=None):
    """Paths of all split files of a channel, or of a channel and its concepts (lists of outputs), sorted."""
    found = sorted(Path(model_dir).glob(f"{run}_channel{channel}_*.pt"))
    if concepts is None:
        return found
    pattern = re.compile(re.escape(split_name(run, channel, concepts)) + SUFFIXES + r"\.pt")
    return [path for path in found if pattern.fullmatch(path.name)]


def write_split(path, file):
    """Write a SplitFile, and note its digest."""
    content = file.content()
    file.sha256 = content["sha256"] = _digest(content)
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
        sha256 = content.pop("sha256")
        if sha256 != _digest(content):
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
    shapes = {"arvs": (num_concepts, num_inputs), "owners": (len(RHOS), num_inputs)}
    shapes |= {"objectives": (len(RHOS), len(OBJECTIVES))}
    for name, shape in shapes.items():
        if tuple(getattr(split, name).shape) != shape:
            raise ValueError(f"its {name} are {tuple(getattr(split, name).shape)}")
    values = [split.weight, split.arvs, split.objectives, file.mean_arv, *([] if split.bias is None else [split.bias])]
    if not set(chain.from_iterable(split.classes)) <= set(context["classes"].values()):
        raise ValueError("its concepts have classes that are not there")
    if not all(value.isfinite().all() for value in values) or file.mean_arv.shape != (num_inputs,):
        raise ValueError("its weight or ARVs are impossible")
    if split.rho not in RHOS or split.objective not in OBJECTIVES:
        raise ValueError(f"its rho {split.rho} was chosen in an unknown way")
    owners = torch.stack([split_sources(split.arvs, rho) for rho in RHOS])
    if not torch.equal(owners, split.owners.long()):
        raise ValueError("its owners do not follow from its ARVs")


def _digest(content):
    """SHA-256 of a split file's content: plain values as JSON, tensors as type, shape and bytes."""

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


def split_network(network, *paths, rhos=None):
    """A copy of ``network`` with the channels of one or several split files disentangled, and equal outputs.

    Parameters
    ----------
    network : nn.Module
        With the weights that the splits were made from, as it was then: it can be converted or wrapped afterwards.
    paths : str or Path
        Split files of different channels, of one layer or several: all that the network shall have.
    rhos : list of float, optional
        One a file; default: the chosen ones.

    Raises
    ------
    UserError
        A damaged file, or one with another weight than the network's.
    ValueError
        A file of another network (one that is split, converted or wrapped is another), or of the same channel; a rho
        that is not stored, or not as many as files; a network that cannot be copied.
    """
    if not paths:
        raise ValueError("no split file was given")
    files = [read_split(path) for path in paths]
    weights = fingerprint(network)
    for path, file in zip(paths, files, strict=True):
        if file.context["weights_sha256"] != weights:
            raise ValueError(f"{path} was made for {file.context['model']}{why_other_weights(network)}")
    layers = [file.context["layer"] for file in files]
    for path, file in zip(paths, files, strict=True):
        layer = splittable(file.context["layer"], network.get_submodule(file.context["layer"]))
        require_weight(path, file.split, layer.weight, layer.bias)
    return with_splits(network, layers, [file.split for file in files], rhos)
