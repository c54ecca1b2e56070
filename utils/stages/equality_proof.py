"""Stage 3's proof that splits change nothing: the split network against the original, in fp32 and in fp64."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from utils.errors import UserError
from utils.images.batches import ImageSource, batches_of
from utils.images.transform import Transform
from utils.method.disentangling import GroupKey, Split
from utils.method.equality import EqualityCheck
from utils.networks.layers import Layer
from utils.networks.module_copies import copy_module
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import Recorder
from utils.networks.replay import Replay
from utils.networks.splitting import DisentangledLayer, in_place_of
from utils.networks.user_code import in_one_line, lacks_memory, user_code
from utils.store.unfinished import Unfinished

BATCH = 8  # images; in fp64 they take twice the memory
IN_FP64 = 4  # every fourth image
MOST_BYTES = 2**29  # of the replays and logits of classes that are kept
STEP = 32  # images of a proof of all splits at once, after which the result is kept


class EqualityProof:
    """Compares split networks with the original.

    In fp32, and on every fourth image in fp64 if the network runs in it: fp64 shows whether a split is correct even for
    a deep network that amplifies rounding.

    The computation before the layer is the same for every split, and so are the original's outputs. For classes that
    are used again, both are kept, up to ``MOST_BYTES``. The precision of ``network`` does not matter. Where memory does
    not suffice for a batch, all later batches are half as large; fp64 is never given up for it.
    """

    def __init__(self, network: OpenedNetwork, transform: Transform) -> None:
        self.network = network
        self.transform = transform
        self._batch_size = BATCH
        self._networks: list[OpenedNetwork] = []
        self._originals: dict[tuple, list[_Batch]] = {}

    def check(self, splits: list[Split], crops: dict[GroupKey, torch.Tensor]) -> EqualityCheck:
        """An EqualityCheck of splits, all of them in the layer at once.

        Parameters
        ----------
        splits : list of Split
            Splits of different channels.
        crops : dict of group -> Tensor [n, H, W, 3], uint8
            On the CPU. Those of one class, if there are as many, are always the same. Image sets belong to one split,
            so theirs are compared together.
        """
        if not crops:
            raise UserError("none of the images for checking that outputs are unchanged can be read")
        joined: dict[GroupKey, torch.Tensor] = {key: some for key, some in crops.items() if not isinstance(key, tuple)}
        of_sets = [(key, some) for key, some in crops.items() if isinstance(key, tuple)]
        if of_sets:
            joined[of_sets[0][0]] = torch.cat([some for _, some in of_sets])

        def compare() -> EqualityCheck:
            check = EqualityCheck()
            for network in self._in_both_precisions(next(iter(crops.values()))):
                changed = DisentangledLayer(network.layer, splits)
                for key, some in joined.items():
                    for batch in self._original(network, key, some):
                        _add(check, network, batch, changed)
            return check

        return self._with_less_memory(compare)

    def check_all(
        self, splits: list[Split], source: ImageSource, indices: list[int], unfinished: Unfinished
    ) -> EqualityCheck:
        """An EqualityCheck of all splits of a layer at once, on the images at some indices.

        What is measured is kept in ``unfinished`` every ``STEP`` images, and found there again after a stop.
        """
        check = EqualityCheck()
        missing = {}
        for step, images in enumerate(batches_of(indices, STEP)):
            kept = unfinished.find(step)
            if kept is None:
                missing[step] = images
            else:
                check.include(kept)
        done = len(indices) - sum(map(len, missing.values()))
        layers: dict[str, DisentangledLayer] = {}
        loader = source.batches(list(missing.values()), "all splits at once", done)
        for step, batch in zip(missing, loader, strict=True):
            measured = self._measured(splits, batch.crops, layers) if len(batch.indices) else EqualityCheck().state()
            unfinished.keep(step, measured)
            check.include(measured)
        return check

    def _measured(
        self, splits: list[Split], crops: torch.Tensor, layers: dict[str, DisentangledLayer]
    ) -> dict[str, dict]:
        """The state of an EqualityCheck on some images; ``layers`` has the split layer in each precision, once made."""

        def compare() -> EqualityCheck:
            check = EqualityCheck()
            for network in self._in_both_precisions(crops):
                if network.precision not in layers:
                    layers[network.precision] = DisentangledLayer(network.layer, splits)
                for images in self._pixels(network, crops).split(self._batch_size):
                    _add(check, network, _Batch.of(network, images), layers[network.precision])
            return check

        return self._with_less_memory(compare).state()

    def _with_less_memory(self, compare: Callable[[], EqualityCheck]) -> EqualityCheck:
        """What ``compare`` returns, with batches of half the size as often as memory does not suffice."""
        while True:
            try:
                return compare()
            except Exception as error:
                if not lacks_memory(error):
                    raise
                if self._batch_size == 1:
                    raise UserError(
                        "there is not enough memory to check on a single image that the output is unchanged; in fp64 "
                        "the network needs twice its memory"
                    ) from error
            self._originals.clear()
            self._batch_size //= 2

    def _in_both_precisions(self, crops: torch.Tensor) -> list[OpenedNetwork]:
        """The network in each precision; fp64 only if the network can be copied and runs in it."""
        if not self._networks:
            in_fp32 = replace(self.network, precision="fp32")
            try:
                self._networks = [in_fp32, _in_fp64(self.network, self._pixels(in_fp32, crops[:1]))]
            except NotInFp64 as error:
                self._networks = [in_fp32]
                print(f"equality is checked in fp32 only: {error}", file=sys.stderr)
        return self._networks

    def _pixels(self, network: OpenedNetwork, crops: torch.Tensor) -> torch.Tensor:
        """The images that are compared in the precision of a network, as it takes them."""
        shown = crops[::IN_FP64] if network.precision == "fp64" else crops
        # the layout of the weights in memory decides that of the activations
        return self.transform.normalise(shown, network.device).to(network.layer.weight.dtype).contiguous()

    def _original(self, network: OpenedNetwork, group: GroupKey, crops: torch.Tensor) -> list[_Batch]:
        """The _Batches of a group's images. Those of a class, which many splits share, are kept; the last used longest.

        An image set belongs to one split. Keeping its batches would also leave gaps in the memory between them, too
        small to be used again: 2.5 GB after 900 splits.
        """
        if isinstance(group, tuple):
            return self._batches(network, crops)
        key = (network.precision, group, len(crops))
        if key not in self._originals:
            self._originals[key] = self._batches(network, crops)
            sizes = {each: sum(batch.num_bytes for batch in batches) for each, batches in self._originals.items()}
            while len(self._originals) > 1 and sum(sizes.values()) > MOST_BYTES:
                oldest = next(iter(self._originals))
                del self._originals[oldest], sizes[oldest]
        self._originals[key] = self._originals.pop(key)  # the last in order
        return self._originals[key]

    def _batches(self, network: OpenedNetwork, crops: torch.Tensor) -> list[_Batch]:
        return [_Batch.of(network, batch) for batch in self._pixels(network, crops).split(self._batch_size)]


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


def _add(check: EqualityCheck, network: OpenedNetwork, batch: _Batch, changed: DisentangledLayer) -> None:
    """Add a batch to a check: the original network against the one that has the split layer in place of its own."""
    with in_place_of(network.module, network.layer, changed):
        merged, logits = _run(batch.replay, replace(network.layer, module=changed))
    check.add(
        channels=batch.activation[:, changed.channels],
        merged=merged[:, changed.channels],
        logits=batch.logits,
        split_logits=logits,
        precision=network.precision,
    )


def _run(replay: Replay, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Activation and logits of a replay, with any module in the layer's place."""
    with Recorder(lambda _: replay(), layer) as recorder:
        record = recorder.forward(None)
    return record.activation, record.logits
