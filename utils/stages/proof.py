"""Showing that a split changes nothing, on real images, in fp32 and in fp64."""

from contextlib import suppress
from dataclasses import replace

import torch

from utils.method.equality import EqualityCheck
from utils.networks.copying import copy_module
from utils.networks.recording import Recorder
from utils.networks.splitting import DisentangledLayer, in_place_of

BATCH = 8  # images; in fp64 they take twice the memory
IN_FP64 = 4  # every so many-th image
MOST_CLASSES = 64  # whose originals are remembered


class EqualityProof:
    """Compares split networks with the original.

    In fp32, and on some images in fp64 if the network runs in it: however deep a network is, and however much it
    enlarges roundings, there it shows whether a split is correct.

    Parameters
    ----------
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    """

    def __init__(self, network, layer):
        self.network, self.layer, self._networks, self._originals = network, layer, None, {}

    def check(self, splits, images):
        """An EqualityCheck of splits, all at once.

        Parameters
        ----------
        splits : list of Split
            Of different channels.
        images : dict of class -> Tensor [n, 3, H, W]
            On the CPU; of one class always the same.
        """
        self._networks = self._networks or self._in_both_precisions(next(iter(images.values())))
        check, channels = EqualityCheck(), [split.channel for split in splits]
        for precision, (network, layer) in self._networks.items():
            changed = replace(layer, module=DisentangledLayer(layer, splits))
            for output, pixels in images.items():
                shown = pixels[:: IN_FP64 if precision == "fp64" else 1]
                activation, logits = self._original(precision, output, shown)
                with in_place_of(network, layer, changed.module):
                    merged, split_logits = self._run(network, changed, shown)
                check.add(activation[:, channels], merged[:, channels], logits, split_logits, precision)
        return check

    def _in_both_precisions(self, pixels):
        """{precision: (network, layer)}; fp64 only if the network can be copied and runs in it."""
        networks = {"fp32": (self.network, self.layer)}
        with suppress(Exception):  # whatever somebody else's network raises
            double = copy_module(self.network).double().to(memory_format=torch.contiguous_format)  # twice as fast
            layer = replace(self.layer, module=double.get_submodule(self.layer.name))
            self._run(double, layer, pixels[:1])
            networks["fp64"] = double, layer
        return networks

    def _original(self, precision, output, pixels):
        """The original's activation and logits for images of a class, which many splits share."""
        key = precision, output, len(pixels)
        if key not in self._originals:
            while len(self._originals) >= 2 * MOST_CLASSES:
                self._originals.pop(next(iter(self._originals)))
            self._originals[key] = self._run(*self._networks[precision], pixels)
        return self._originals[key]

    def _run(self, network, layer, pixels):
        """Activation [n, C, positions] of the layer and logits [n, outputs], on the CPU."""
        weight, found = layer.weight, []
        with Recorder(network, layer) as recorder:
            for batch in pixels.split(BATCH):
                record = recorder.forward(batch.to(weight))
                found.append((record.activation.cpu(), record.logits.cpu()))
        return tuple(map(torch.cat, zip(*found, strict=True)))
