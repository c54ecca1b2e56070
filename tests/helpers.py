"""What several tests ask of the project, in one call each."""

from utils.networks.layers import Layer, layer_of
from utils.networks.recording import Recorder


def as_layer(module):
    """A module as a Layer in the normal form; a Layer is one already."""
    return module if isinstance(module, Layer) else layer_of("layer", module)


def forward(network, layer, images):
    """A pass without a graph: a Record at ``layer``, a Layer or its module."""
    with Recorder(network, as_layer(layer)) as recorder:
        return recorder.forward(images)


def forward_with_gradient(network, layer, images, targets):
    """A pass and the gradient of the images' own logits: a Record at ``layer``, a Layer or its module."""
    with Recorder(network, as_layer(layer)) as recorder:
        return recorder.forward_with_gradient(images, targets)
