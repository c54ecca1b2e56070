"""Stage 3: the concepts' training images, class by class, for a divider of inputs, and the proof of equality."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch

from utils.divisions.division import Divider
from utils.images.batches import ImageSource, batches_by_group
from utils.method.disentangling import Candidate, GroupKey, Split, in_order
from utils.method.equality import EqualityCheck
from utils.networks.layers import Layer
from utils.networks.loading import copy_module
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import Recorder
from utils.networks.replay import Replay
from utils.networks.splitting import DisentangledLayer, in_place_of
from utils.networks.user_code import in_one_line, user_code
from utils.store.importance_store import Labels

PROOF_IMAGES = 4  # of each class or image set
MOST_AT_ONCE = 1000  # groups, of each of which one image is used
BATCH = 8  # images; in fp64 they take twice the memory
IN_FP64 = 4  # every fourth image
MOST_BYTES = 2**29  # of the replays and logits of classes that are kept


def members_of(candidates: list[Candidate], labels: Labels, only_correct: bool) -> dict[GroupKey, torch.Tensor]:
    """Training images of all groups of images, as used in stage 1: {key: LongTensor of indices}, in order.

    ``only_correct`` selects images of classes; image sets are used whole.
    """
    usable = labels.counting(only_correct)
    sets = {
        key: torch.tensor(concept.images)
        for candidate in candidates
        for keys, concept in zip(candidate.groups, candidate.own_concepts, strict=True)
        for key in keys
        if concept.kind == "images"
    }
    keys = in_order(chain.from_iterable(candidate.keys for candidate in candidates))
    return {key: sets[key] if key in sets else labels.indices[usable & (labels.targets == key)] for key in keys}


def images_in_turn(
    candidates: list[Candidate],
    members: dict[GroupKey, torch.Tensor],
    divider: Divider,
    source: ImageSource,
) -> Iterator[tuple[Candidate, dict[GroupKey, torch.Tensor]]]:
    """One pass over all groups of images, in order; a candidate is ready when its last one has been read.

    A batch is of one group, a class or an image set, so that it is the same however many candidates there are.

    Parameters
    ----------
    candidates : list of Candidate
    members : dict
        From ``members_of``.
    divider : Divider
        Sees all of them, or those alone on which equality is shown.
    source : ImageSource

    Yields
    ------
    candidate : Candidate
        For which ``divider.divide(candidate)`` has all it needs.
    images : dict of key -> Tensor [n, 3, H, W], on the CPU
        Some images of each of its groups, on which to show equality.
    """
    users = _users_of(candidates, members)
    groups = {key: indices for key, indices in members.items() if users[key]}
    if not divider.sees_images:
        groups = {key: proof_images(indices) for key, indices in groups.items()}
    plan = batches_by_group(groups, source.batch_size)
    if not plan:
        return
    proof: dict[GroupKey, list[torch.Tensor]] = {key: [] for key in groups}
    not_ready = {key: len(users[key]) for key in groups}
    loader = source.batches([planned.indices for planned in plan], divider.progress)
    with divider:
        for planned, batch in zip(plan, loader, strict=True):
            key = planned.group
            if len(batch.indices):
                shown = torch.isin(batch.indices, proof_images(members[key]))
                proof[key].append(batch.pixels[shown.to(batch.pixels.device)].cpu())
                divider.see(users[key], key, batch.pixels)
            for candidate in users[key] if planned.is_last else ():
                if candidate.keys[-1] == key:
                    yield candidate, {group: torch.cat(proof[group]) for group in candidate.keys if proof[group]}
                    for group in candidate.keys:
                        not_ready[group] -= 1
                        if not not_ready[group]:
                            del proof[group]


def _users_of(candidates: list[Candidate], keys: Iterable[GroupKey]) -> dict[GroupKey, list[Candidate]]:
    """The candidates that have each group of images."""
    users: dict[GroupKey, list[Candidate]] = {key: [] for key in keys}
    for candidate in candidates:
        for key in candidate.keys:
            users[key].append(candidate)
    return users


def some_of_all(members: dict[GroupKey, torch.Tensor], source: ImageSource) -> dict[GroupKey, torch.Tensor]:
    """An image of each group, or of some from all over, on which to show equality of all splits at once.

    {key: Tensor [1, 3, H, W]}
    """
    keys = list(members)
    keys = [keys[number] for number in np.unique(np.linspace(0, len(keys) - 1, MOST_AT_ONCE).astype(int))]
    loader = source.batches([proof_images(members[key])[:1].tolist() for key in keys], "all splits at once")
    return {key: batch.pixels.cpu() for key, batch in zip(keys, loader, strict=True) if len(batch.indices)}


def proof_images(indices: torch.Tensor) -> torch.Tensor:
    """The images of a group on which equality is shown: some, from all parts of it."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, PROOF_IMAGES).astype(int))]


# --------------------------------------------------------------------------------------------------------------------
# Showing that splits change nothing, on real images, in fp32 and in fp64


class EqualityProof:
    """Compares split networks with the original.

    In fp32, and on some images in fp64 if the network runs in it: fp64 shows whether a split is correct even for a deep
    network that amplifies rounding.

    The computation before the layer is the same for every split, and so are the original's outputs. For classes that
    are used again, both are kept, up to ``MOST_BYTES``. The precision of ``network`` does not matter.
    """

    def __init__(self, network: OpenedNetwork) -> None:
        self.network = network
        self._networks: dict[str, OpenedNetwork] = {}
        self._originals: dict[tuple, list[_Batch]] = {}

    def check(self, splits: list[Split], images: dict[GroupKey, torch.Tensor]) -> EqualityCheck:
        """An EqualityCheck of splits, all of them in the layer at once.

        Parameters
        ----------
        splits : list of Split
            Splits of different channels.
        images : dict of class -> Tensor [n, 3, H, W]
            On the CPU. The images of one class, if there are as many, are always the same.
        """
        self._networks = self._networks or self._in_both_precisions(next(iter(images.values())))
        check = EqualityCheck()
        channels = [split.channel for split in splits]
        for precision, network in self._networks.items():
            changed = replace(network.layer, module=DisentangledLayer(network.layer, splits))
            for output, pixels in images.items():
                for batch in self._original(network, output, pixels):
                    with in_place_of(network.module, network.layer, changed.module):
                        merged, logits = _run(batch.replay, changed)
                    check.add(
                        channels=batch.activation[:, channels],
                        merged=merged[:, channels],
                        logits=batch.logits,
                        split_logits=logits,
                        precision=precision,
                    )
        return check

    def _in_both_precisions(self, pixels: torch.Tensor) -> dict[str, OpenedNetwork]:
        """The network in each precision; fp64 only if the network can be copied and runs in it."""
        networks = {"fp32": replace(self.network, precision="fp32")}
        try:
            networks["fp64"] = _in_fp64(self.network, pixels[:1])
        except NotInFp64 as error:
            print(f"equality is shown in fp32 alone: {error}", file=sys.stderr)
        return networks

    def _original(self, network: OpenedNetwork, output: GroupKey, pixels: torch.Tensor) -> list[_Batch]:
        """The _Batches of a class's images, which many splits share; those used last stay longest."""
        key = (network.precision, output, len(pixels))
        if key not in self._originals:
            shown = pixels[:: IN_FP64 if network.precision == "fp64" else 1].to(network.layer.weight)
            self._originals[key] = [_Batch.of(network, batch) for batch in shown.split(BATCH)]
            sizes = {each: sum(batch.num_bytes for batch in batches) for each, batches in self._originals.items()}
            while len(self._originals) > 1 and sum(sizes.values()) > MOST_BYTES:
                oldest = next(iter(self._originals))
                del self._originals[oldest], sizes[oldest]
        self._originals[key] = self._originals.pop(key)  # the last in order
        return self._originals[key]


class NotInFp64(Exception):
    """A user-supplied network cannot be copied, or does not run in fp64: the reason."""


def _in_fp64(network: OpenedNetwork, image: torch.Tensor) -> OpenedNetwork:
    """A copy of the network in fp64 that has run on an image [1, 3, H, W]; NotInFp64 where that cannot be."""
    try:
        module = copy_module(network.module)
    except ValueError as error:
        raise NotInFp64(str(error)) from error
    with (
        user_code(lambda error: NotInFp64(f"the network does not run in fp64 ({in_one_line(error)})")),
        torch.no_grad(),
    ):
        module = module.double().to(memory_format=torch.contiguous_format)  # twice as fast as channels last
        module(image.to(network.device).double())
    layer = replace(network.layer, module=module.get_submodule(network.layer.name))
    return replace(network, module=module, layer=layer, precision="fp64")


@dataclass(frozen=True)
class _Batch:
    """Some images in the original network, and how it is run from the layer on.

    ``activation`` [B, C, positions] is that of its layer, ``logits`` [B, outputs] are its own.
    """

    replay: Replay
    activation: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def of(cls, network: OpenedNetwork, images: torch.Tensor) -> _Batch:
        replay = Replay(network.module, network.layer.module, images)
        return cls(replay, *_run(replay, network.layer))

    @property
    def num_bytes(self) -> int:
        return self.replay.num_bytes + self.activation.nbytes + self.logits.nbytes


def _run(replay: Replay, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Activation and logits of a replay, with any module in the layer's place."""
    with Recorder(lambda _: replay(), layer) as recorder:
        record = recorder.forward(None)
    return record.activation, record.logits
