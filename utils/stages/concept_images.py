"""Stage 3: the concepts' training images, class by class, for whoever divides the inputs, and the proof of equality."""

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch

from utils.images.batches import batches_of
from utils.method.disentangling import in_order
from utils.method.equality import EqualityCheck
from utils.networks.loading import copy_module
from utils.networks.recording import Recorder
from utils.networks.replay import Replay
from utils.networks.splitting import DisentangledLayer, in_place_of

PROOF_IMAGES = 4  # of each class or image set
MOST_AT_ONCE = 1000  # groups of images of which one is shown
BATCH = 8  # images; in fp64 they take twice the memory
IN_FP64 = 4  # every so many-th image
MOST_BYTES = 2**29  # that are remembered of classes


def members_of(candidates, labels, only_correct):
    """Training images of all groups of images, as used in stage 1: {key: LongTensor of indices}, in order.

    ``only_correct`` is about classes; image sets are what they are.
    """
    usable = labels.counting(only_correct)
    sets = {
        key: torch.tensor(concept.images)
        for one in candidates
        for keys, concept in zip(one.groups, one.own_concepts, strict=True)
        for key in keys
        if concept.kind == "images"
    }
    keys = in_order(chain.from_iterable(one.keys for one in candidates))
    return {key: sets[key] if key in sets else labels.indices[usable & (labels.targets == key)] for key in keys}


def images_in_turn(candidates, members, divider, load, batch_size):
    """One pass over all groups of images, in order; a candidate is ready when its last one has been read.

    A batch is of one group, a class or an image set, so that it is the same however many candidates there are.

    Parameters
    ----------
    candidates : list of Candidate
    members : dict
        Of ``members_of``.
    divider : Divider
        Sees all of them, or those alone on which equality is shown.
    load : function of (batches, description) that returns ImageBatches
    batch_size : int

    Yields
    ------
    candidate : Candidate
        For which ``divider.divide(candidate)`` has all it needs.
    images : dict of key -> Tensor [n, 3, H, W], on the CPU
        Some images of each of its groups, on which to show equality.
    """
    users = {key: [] for key in members}
    for one in candidates:
        for key in one.keys:
            users[key].append(one)
    seen = (lambda indices: indices) if divider.sees_images else proof_images
    wanted = {key: seen(members[key]) for key in members if users[key]}
    plan = [(key, batch) for key in wanted for batch in batches_of(wanted[key], batch_size)]
    if not plan:
        return
    ends = {key: number for number, (key, _) in enumerate(plan)}
    proof = {key: [] for key in wanted}
    loader = load([batch for _, batch in plan], divider.progress)
    with divider:
        for number, ((key, _), (indices, pixels, _)) in enumerate(zip(plan, loader, strict=True)):
            if len(indices):
                shown = torch.isin(indices, proof_images(members[key]))
                proof[key].append(pixels[shown.to(pixels.device)].cpu())
                divider.see(users[key], key, pixels)
            if number == ends[key]:
                for one in (one for one in users[key] if one.keys[-1] == key):
                    yield one, {own: torch.cat(proof[own]) for own in one.keys if proof[own]}
                done = [own for own in proof if all(ends[one.keys[-1]] <= number for one in users[own])]
                for own in done:
                    del proof[own]


def some_of_all(members, load):
    """An image of each group, or of some from all over, on which to show equality of all splits at once.

    {key: Tensor [1, 3, H, W]}
    """
    keys = list(members)
    keys = [keys[place] for place in np.unique(np.linspace(0, len(keys) - 1, MOST_AT_ONCE).astype(int))]
    loader = load([proof_images(members[key])[:1] for key in keys], "all splits at once")
    return {key: pixels.cpu() for key, (indices, pixels, _) in zip(keys, loader, strict=True) if len(indices)}


def proof_images(indices):
    """The images of a group on which equality is shown: some, from all parts of it."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, PROOF_IMAGES).astype(int))]


# --------------------------------------------------------------------------------------------------------------------
# Showing that splits change nothing, on real images, in fp32 and in fp64


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
