"""What ``--model`` may name: the interface of its kinds (torchvision's networks, timm's, and factories)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from utils.images.transform import Transform


@dataclass(frozen=True)
class MadeNetwork:
    """A network with its weights, as its kind makes it: not yet frozen.

    Parameters
    ----------
    module : nn.Module
    weights : str
        The source of its weights, in words.
    transform : Transform, optional
        The evaluation transform that goes with them; None if nothing says which.
    transform_note : str
        What the transform does not reproduce of the one that the network is evaluated with; empty if nothing.
    has_imagenet_classes : bool
        Whether its outputs are known to be the 1000 classes of ImageNet, in their order.
    """

    module: nn.Module
    weights: str
    transform: Transform | None
    transform_note: str = ""
    has_imagenet_classes: bool = False


class NamedNetwork(ABC):
    """A network by the name that ``--model`` has.

    Parameters
    ----------
    model : str
        The name, as ``--model`` has it.
    """

    def __init__(self, model: str) -> None:
        self.model = model

    @abstractmethod
    def make(self, weights: str | None) -> MadeNetwork:
        """Make the network with its default weights, or with those that ``--weights`` names.

        Raises
        ------
        UserError
            It cannot be made, or the weights do not fit, or can be neither found nor downloaded.
        """

    @abstractmethod
    def are_default_weights(self, weights: str) -> bool:
        """Whether ``MadeNetwork.weights`` of an earlier run are those that are used without ``--weights``."""

    @abstractmethod
    def lines_that_make(self, network: nn.Module) -> list[str]:
        """Lines of Python that set ``network`` to the same architecture, without this project.

        ``network`` is one of this architecture, with its weights.
        """
