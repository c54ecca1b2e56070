"""Networks of timm: ``--model timm:NAME``. timm is optional, and imported when such a network is made."""

import importlib
import math
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from utils.errors import UserError, nearest_hint
from utils.images.transform import Transform, checked_transform
from utils.networks.model_names import TIMM
from utils.networks.named_network import MadeNetwork, NamedNetwork
from utils.networks.state_dicts import StateDict, load_into, read_state_dict
from utils.networks.user_code import in_one_line, user_code

OWN_WEIGHTS = "timm's "  # followed by NAME.TAG: the beginning of MadeNetwork.weights without --weights
IMAGENET_OUTPUTS = 1000
IMAGENET_TAG = "in1k"  # a part of the tag of weights that were trained or fine-tuned on ImageNet-1k
FILES_OF_HUB = ("model.safetensors", "pytorch_model.bin")  # names of weights files, in the order timm looks for them
SECONDS_FOR_ANSWER = 10.0  # of the Hugging Face hub, before its weights count as out of reach
GIVE_WEIGHTS = "give --weights FILE"  # the end of messages that weights are missing
CROPS = {  # how timm crops images in the modes that are not reproduced
    "squash": "resizes images to a square without keeping their aspect ratio",
    "border": "resizes the longer side and adds borders",
}


class TimmNetwork(NamedNetwork):
    """A network of timm, with timm's pretrained weights or a local state dict, and timm's evaluation transform."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.name = model.removeprefix(TIMM)

    def make(self, weights: str | None) -> MadeNetwork:
        timm = _timm(self.model)
        pretrained = self._pretrained(timm)
        if weights is None:
            network = self._with_own_weights(timm, pretrained)
            source, imagenet = f"{OWN_WEIGHTS}{self.name.split('.')[0]}.{pretrained.tag}", _is_imagenet(pretrained)
        else:
            classifier = None if pretrained is None else pretrained.classifier
            network = self._with_weights_of_file(timm, read_state_dict(weights), classifier, weights)
            source, imagenet = Path(weights).name, False
        transform, note = self._transform(timm.data.resolve_model_data_config(network))
        return MadeNetwork(network, source, transform, transform_note=note, has_imagenet_classes=imagenet)

    def are_default_weights(self, weights: str) -> bool:
        return weights.startswith(OWN_WEIGHTS)

    def lines_that_make(self, network: nn.Module) -> list[str]:
        return ["import timm", f"network = timm.create_model({self.name!r}, num_classes={network.num_classes})"]

    def _pretrained(self, timm: Any) -> Any:
        """timm's configuration of the pretrained weights, None if it has none; UserError for an unknown name."""
        names = _names(timm)
        if self.name not in names:
            hint = nearest_hint(self.name, {name: (name,) for name in names})
            raise UserError(f"--model {self.model}: timm {timm.__version__} has no such network{hint}")
        return timm.get_pretrained_cfg(self.name)

    def _with_own_weights(self, timm: Any, pretrained: Any) -> nn.Module:
        if pretrained is None or not pretrained.has_weights:
            raise UserError(f"--model {self.model}: timm has no pretrained weights of it: {GIVE_WEIGHTS}")
        file = _HubWeights(pretrained, self.model) if pretrained.hf_hub_id else _UrlWeights(pretrained)
        cached = file.cached()
        if cached is None:
            with user_code(lambda error: self._missing(file, error)):
                file.require_reachable()

        def refusal(error: BaseException) -> UserError:
            if cached is not None:
                return UserError(
                    f"weights file {cached} is damaged or not {self.name}'s ({type(error).__name__}): delete it"
                )
            return self._missing(file, error)

        # timm before 1.0.31 takes a file for one in the format of the network's authors if ``custom_load`` says so
        overlay = None if cached is None else {"file": str(cached), "custom_load": file.has_format_of_authors}
        with user_code(refusal):  # a damaged file can fail to be read in many ways, and so can a download
            network: nn.Module = timm.create_model(self.name, pretrained=True, pretrained_cfg_overlay=overlay)
        return network

    def _missing(self, file: "_HubWeights | _UrlWeights", error: BaseException) -> UserError:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return UserError(
            f"--model {self.model}: its weights, {file}, are not in {file.folder} and cannot be downloaded "
            f"({reason}): download them where there is a network, or {GIVE_WEIGHTS}"
        )

    def _with_weights_of_file(self, timm: Any, state: StateDict, classifier: Any, weights: str) -> nn.Module:
        """The network with a state dict, whose number of classes is read off the classifier's weight.

        Names of layers that timm converts, for example of the files of the networks' authors, are converted.
        """
        classifiers = [classifier] if isinstance(classifier, str) else classifier or []
        weights_of_classifiers = [state[f"{name}.weight"] for name in classifiers if f"{name}.weight" in state]
        rows = [len(tensor) for tensor in weights_of_classifiers if tensor.ndim]
        with user_code(lambda error: UserError(f"--model {self.model} cannot be made ({in_one_line(error)})")):
            network: nn.Module = timm.create_model(self.name, **({"num_classes": rows[0]} if rows else {}))
        try:
            load_into(network, state, weights)
        except UserError as refused:
            refusal = refused
            convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
            if convert is None:
                raise
            with user_code(lambda _: refusal):
                converted = convert(state, network)
            load_into(network, converted, weights)
        return network

    def _transform(self, configuration: dict[str, Any]) -> tuple[Transform, str]:
        """timm's evaluation transform, and what of it is not reproduced."""
        _, height, width = configuration["input_size"]
        if height != width:
            raise UserError(f"--model {self.model} takes images of {height}x{width} pixels: only squares are supported")
        resize_size = math.floor(width / configuration["crop_pct"])  # as timm rounds it
        values = {name: configuration[name] for name in ("interpolation", "mean", "std")}
        sizes = {"resize_size": max(resize_size, width), "crop_size": width}
        try:
            transform = checked_transform({**sizes, **values})
        except ValueError as error:
            raise UserError(f"--model {self.model}: timm's evaluation transform {error}") from error
        way = CROPS.get(configuration["crop_mode"], "")
        if not way and resize_size < width:
            way = f"resizes the shorter side to {resize_size} and adds borders"
        instead = "the shorter side is resized and the centre cropped"
        return transform, f"for this network timm {way}, which is not reproduced: {instead}" if way else ""


def timm_hint(model: str) -> str:
    """That timm has a network of this name, as the end of a message; empty if it has not, or cannot be used."""
    if find_spec("timm") is None:
        return ""
    with suppress(UserError):
        if model in _names(_timm(model)):
            return f"; timm has one: --model {TIMM}{model}"
    return ""


def _names(timm: Any) -> list[str]:
    """The networks of timm, without and with a tag of their pretrained weights."""
    return [*timm.list_models(), *timm.list_models(pretrained=True)]


def _timm(model: str) -> Any:
    return _installed("timm", model)


def _installed(package: str, model: str) -> Any:
    """A package that timm's networks need; UserError if it is missing or cannot be imported."""
    with user_code(
        lambda error: UserError(f"--model {model} needs {package}: pip install {package} ({in_one_line(error)})")
    ):
        return importlib.import_module(package)


def _is_imagenet(pretrained: Any) -> bool:
    """Whether the outputs of pretrained weights are the classes of ImageNet-1k, in their order."""
    return pretrained.num_classes == IMAGENET_OUTPUTS and IMAGENET_TAG in pretrained.tag.split("_")


class _HubWeights:
    """Pretrained weights on the Hugging Face hub, and their files in its cache."""

    has_format_of_authors = False

    def __init__(self, pretrained: Any, model: str) -> None:
        self.hub = _installed("huggingface_hub", model)
        self.repository, _, revision = pretrained.hf_hub_id.partition("@")
        self.revision = revision or None
        self.names = (pretrained.hf_hub_filename,) if pretrained.hf_hub_filename else FILES_OF_HUB
        self.folder = self.hub.constants.HF_HUB_CACHE

    def __str__(self) -> str:
        return f"{self.repository} of the Hugging Face hub"

    def cached(self) -> Path | None:
        """The file in the cache, if it is there."""
        for name in self.names:
            path = self.hub.try_to_load_from_cache(self.repository, name, revision=self.revision)
            if isinstance(path, str):
                return Path(path)
        return None

    def require_reachable(self) -> None:
        """Raise an error unless the hub answers that it has one of the files.

        A download tries again for most of a minute if there is no network.
        """
        for name in self.names:
            url = self.hub.hf_hub_url(self.repository, name, revision=self.revision)
            try:
                self.hub.get_hf_file_metadata(url, timeout=SECONDS_FOR_ANSWER)
            except self.hub.errors.EntryNotFoundError:
                continue
            return
        raise FileNotFoundError(f"{self.repository} has no {' or '.join(self.names)}")


class _UrlWeights:
    """Pretrained weights at a URL, and their file in torch's cache."""

    def __init__(self, pretrained: Any) -> None:
        self.url = pretrained.url
        self.has_format_of_authors = bool(pretrained.custom_load)
        self.folder = Path(torch.hub.get_dir()) / "checkpoints"

    def __str__(self) -> str:
        return str(self.url)

    def cached(self) -> Path | None:
        """The file in the cache, if it is there."""
        path = self.folder / Path(urlparse(self.url).path).name
        return path if path.is_file() else None

    def require_reachable(self) -> None:
        """Nothing: a download from a URL fails at once if there is no network."""
