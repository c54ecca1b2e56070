"""Showing that splits change nothing, on real images, in fp32 and in fp64."""

from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from utils.method.equality import EqualityCheck
from utils.networks.copying import copy_module
from utils.networks.recording import Recorder
from utils.networks.replay import Replay
from utils.networks.splitting import DisentangledLayer, in_place_of

BATCH = 8  # images; in fp64 they take twice the memory
IN_FP64 = 4  # every so many-th image
MOST_BYTES = 2**29  # that are remembered of classes


class EqualityProof:
    """Compares split networks with the original.

    In fp32, and on some images in fp64 if the network runs in it: however deep a network is, and however much it
    enlarges roundings, there it shows whether a split is correct.

    What the network does before the layer is the same for every split, and so is what the original gives: of classes
    that come again, both are remembered, as far as they fit.

    Parameters
    ----------
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    """

    def __init__(self, network, layer):
        self.network, self.layer, self._networks, self._originals = network, layer, None, {}

    def check(self, splits, images):
        """An EqualityCheck of splits, all of them in the layer at once.

        Parameters
        ----------
        splits : list of Split
            Of different channels.
        images : dict of class -> Tensor [n, 3, H, W]
            On the CPU; so many of one class always the same.
        """
        self._networks = self._networks or self._in_both_precisions(next(iter(images.values())))
        check, channels = EqualityCheck(), [split.channel for split in splits]
        for precision, (network, layer) in self._networks.items():
            changed = replace(layer, module=DisentangledLayer(layer, splits))
            for output, pixels in images.items():
                for batch in self._original(precision, output, pixels):
                    with in_place_of(network, layer, changed.module):
                        merged, logits = _run(batch.behind, changed)
                    check.add(batch.activation[:, channels], merged[:, channels], batch.logits, logits, precision)
        return check

    def _in_both_precisions(self, pixels):
        """{precision: (network, layer)}; fp64 only if the network can be copied and runs in it."""
        networks = {"fp32": (self.network, self.layer)}
        with suppress(Exception), torch.no_grad():  # whatever somebody else's network raises
            double = copy_module(self.network).double().to(memory_format=torch.contiguous_format)  # twice as fast
            layer = replace(self.layer, module=double.get_submodule(self.layer.name))
            double(pixels[:1].to(layer.weight))
            networks["fp64"] = double, layer
        return networks

    def _original(self, precision, output, pixels):
        """The _Batches of a class's images, which many splits share; those used last stay longest."""
        key, (network, layer) = (precision, output, len(pixels)), self._networks[precision]
        if key not in self._originals:
            shown = pixels[:: IN_FP64 if precision == "fp64" else 1].to(layer.weight)
            self._originals[key] = [_Batch.of(network, layer, batch) for batch in shown.split(BATCH)]
            sizes = {one: sum(batch.num_bytes for batch in batches) for one, batches in self._originals.items()}
            while len(self._originals) > 1 and sum(sizes.values()) > MOST_BYTES:
                oldest = next(iter(self._originals))
                del self._originals[oldest], sizes[oldest]
        self._originals[key] = self._originals.pop(key)  # the last in order
        return self._originals[key]


@dataclass
class _Batch:
    """Some images in the original: the ``activation`` [B, C, positions] of its layer, its ``logits`` [B, outputs], and
    how the network is run from the layer on."""

    behind: Replay
    activation: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def of(cls, network, layer, images):
        behind = Replay(network, layer.module, images)
        return cls(behind, *_run(behind, layer))

    @property
    def num_bytes(self):
        return self.behind.num_bytes + self.activation.nbytes + self.logits.nbytes


def _run(behind, layer):
    """Activation and logits of a replay, with whatever stands in the layer's place."""
    with Recorder(lambda _: behind(), layer) as recorder:
        record = recorder.forward(None)
    return record.activation, record.logits
