"""Networks of torchvision: classification networks by name, with named weights or a local state dict."""

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

from utils import defaults
from utils.errors import UserError
from utils.images.transform import Transform
from utils.networks.named_network import MadeNetwork, NamedNetwork
from utils.networks.state_dicts import StateDict, load_into, read_state_dict
from utils.networks.user_code import user_code


def torchvision_names() -> list[str]:
    """The names of torchvision's classification networks."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


class TorchvisionNetwork(NamedNetwork):
    """A network of torchvision. The outputs of all of its named weights are the classes of ImageNet."""

    def make(self, weights: str | None) -> MadeNetwork:
        named = torchvision.models.get_model_weights(self.model).__members__
        weights = weights or self._default_weights()
        if weights in named:
            chosen = named[weights]
            network = _download(self.model, chosen)
            return MadeNetwork(network, chosen.name, _transform_of(chosen), has_imagenet_classes=True)
        if not Path(weights).is_file():
            raise UserError(
                f"--weights {weights}: neither a file nor one of {self.model}'s weights ({', '.join(named)})"
            )
        state = read_state_dict(weights)
        network = torchvision.models.get_model(self.model, weights=None, **_local_options(self.model, state, weights))
        load_into(network, state, weights)
        return MadeNetwork(network, Path(weights).name, Transform())

    def are_default_weights(self, weights: str) -> bool:
        return weights == self._default_weights()

    def lines_that_make(self, network: nn.Module) -> list[str]:
        options = _local_options(self.model, network.state_dict(), self.model)
        if getattr(network, "transform_input", False):  # of googlenet and inception_v3 with named weights
            options["transform_input"] = True
        arguments = "".join(f", {name}={value!r}" for name, value in options.items())
        return [
            "import torchvision",
            f"network = torchvision.models.get_model({self.model!r}, weights=None{arguments})",
        ]

    def _default_weights(self) -> str:
        """The paper's weights, else the network's ``DEFAULT``."""
        named = torchvision.models.get_model_weights(self.model).__members__
        return named.get(defaults.WEIGHTS, named["DEFAULT"]).name


def _download(model: str, weights: torchvision.models.WeightsEnum) -> nn.Module:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    present = file.is_file()

    def refusal(error: BaseException) -> UserError:
        if present:
            return UserError(f"weights file {file} is damaged or not {model}'s ({type(error).__name__}): delete it")
        return UserError(f"no weights file {file}, and it cannot be downloaded ({error}): put {weights.url} there")

    with user_code(refusal):  # a damaged file can fail to be read in many ways, and so can a download
        return torchvision.models.get_model(model, weights=weights)


def _transform_of(weights: torchvision.models.WeightsEnum) -> Transform:
    preset = weights.transforms()
    (resize_size,) = preset.resize_size
    (crop_size,) = preset.crop_size
    return Transform(resize_size, crop_size, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))


def _local_options(model: str, state: StateDict, weights: str) -> dict[str, Any]:
    """Number of classes and auxiliary classifiers, read off a state dict.

    The classifier is what changes its shape with the number of classes.
    """
    auxiliary = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}.get(model)
    options: dict[str, Any] = {}
    if auxiliary:
        options = {"aux_logits": any(name.startswith(auxiliary) for name in state), "init_weights": False}
    shapes = [_shapes(model, {"num_classes": number, **options}) for number in (1000, 1001)]
    classifier = [name for name, shape in shapes[0].items() if shape != shapes[1][name] and len(shape) > 1]
    if classifier[-1] not in state or state[classifier[-1]].ndim == 0:
        raise UserError(f"--weights {weights} does not fit {model}: it has no {classifier[-1]}")
    return {"num_classes": len(state[classifier[-1]]), **options}


def _shapes(model: str, options: dict[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes of a network's parameters and buffers."""
    try:
        with torch.device("meta"):  # costs no time and no memory
            network = torchvision.models.get_model(model, **options)
    except RuntimeError:  # RegNet computes while it is made, and meta tensors have no values
        network = torchvision.models.get_model(model, **options)
    return {name: value.shape for name, value in network.state_dict().items()}
