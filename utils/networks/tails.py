"""What the network computes after the layer of interest, for many changes of a single channel in the same images.

An edit changes one channel of the layer's output. The simple way to its logits is a replay of everything after the
layer for each edit (``WholeTail``). After the last layer of most networks, channels do not meet before a linear
classifier: normalisation, shortcut, activation and pooling act on each channel by itself. There, a replay of V edits
of a channel, and of nothing else, gives the V values that the classifier receives (``GatheredTail``): for the 1280
channels of EfficientNet-Lite0's last convolution, that is a thousandth of the numbers. Whether this holds is measured,
not assumed (``GatheredTail.of``).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.networks.arithmetic import outside_heap
from utils.networks.layers import Layer
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import full_precision
from utils.networks.recording import layer_input
from utils.networks.replay import Replay
from utils.networks.user_code import lacks_memory

# of the largest value: sums in another order
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-3, "bf16": 2e-2}


class RecordedBatch:
    """B images of which the network before the layer has been computed once.

    ``replay`` is their Replay; ``indices`` LongTensor [B] in their ImageList and ``targets`` LongTensor [B], the
    outputs that are their own classes, are on the CPU. ``logits`` [B, outputs] are the network's.
    """

    def __init__(self, network: OpenedNetwork, pixels: Tensor, indices: Tensor, targets: Tensor) -> None:
        self._network = network
        self.indices = indices
        self.targets = targets
        with self.computing():
            self.replay = Replay(network.module, network.layer.module, pixels)
            self.logits = outside_heap(self.replay().float())
        self.replay.move_outside_heap()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def num_bytes(self) -> int:
        return self.replay.num_bytes + self.logits.nbytes

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The context in which the network is called."""
        with torch.no_grad(), self._network.arithmetic():
            yield

    def input(self) -> Tensor:
        """What enters the layer."""
        with self.computing():
            return layer_input(lambda _: self.replay(), self._network.layer.module, None)

    def output(self) -> Tensor:
        """What the layer makes of it, before any later operation."""
        x = self.input()
        with self.computing():
            return self._network.layer.module(x)

    def logits_with(self, output: Tensor) -> Tensor:
        """The logits where the layer's output is another one, which the network may change in place."""
        with self.computing():
            return self.replay(output).float()

    def received_by(self, module: nn.Module, output: Tensor, **changes: Any) -> Tensor:
        """What a module after the layer receives where the layer's output is another one, which the network may change.

        ``changes`` as ``Replay`` takes them.
        """
        with self.computing():
            return layer_input(lambda _: self.replay(output, **changes), module, None).float()


class ChannelMaps:
    """Any rows, applied to the layer's input: maps as the layer itself arranges its output, in fp32.

    Parameters
    ----------
    layer : Layer
    rows : Tensor [R, C_in, taps]
    biases : Tensor [R] or None
    """

    def __init__(self, layer: Layer, rows: Tensor, biases: Tensor | None) -> None:
        self._module = layer.with_rows(rows, biases)
        self._channel_dim = layer.channel_dim

    def __call__(self, x: Tensor) -> Tensor:
        """Maps [R, B, ...] of the layer's input: the layer's output without its channels' dimension."""
        with torch.no_grad(), full_precision(x.device):
            return self._module(x.float()).movedim(self._channel_dim, 0)


class Tail(ABC):
    """Computes how logits change where one channel of the layer's output does."""

    @abstractmethod
    def differences(self, batch: RecordedBatch, channel: int, original: Tensor, edited: Tensor) -> Tensor:
        """Logits with a channel edited, minus those with the channel as it is: [V, B, outputs], fp32.

        Parameters
        ----------
        batch : RecordedBatch
            Of B images.
        channel : int
        original : Tensor [B, ...]
            The channel's map, from ``ChannelMaps``.
        edited : Tensor [V, B, ...]
            V edits of it.
        """

    def own_differences(self, batch: RecordedBatch, channel: int, original: Tensor, edited: Tensor) -> Tensor:
        """The ``differences`` of the logit of each image's own class: [V, B], fp32."""
        differences = self.differences(batch, channel, original, edited)
        targets = batch.targets.to(differences.device)
        return differences.gather(2, targets[None, :, None].expand(len(edited), -1, 1))[..., 0]


class WholeTail(Tail):
    """Replays everything after the layer for each edit: works for any layer of any network."""

    def __init__(self, layer: Layer) -> None:
        self._channel_dim = layer.channel_dim

    def differences(self, batch: RecordedBatch, channel: int, original: Tensor, edited: Tensor) -> Tensor:
        output = batch.output()
        dim = self._channel_dim % output.ndim

        def logits(values: Tensor) -> Tensor:
            changed = output.clone()
            changed.select(dim, channel).copy_(values)
            return batch.logits_with(changed)

        before = logits(original)
        return torch.stack([logits(values) - before for values in edited])


@dataclass(frozen=True)
class GatheredTail(Tail):
    """Replays some channels as if the layer had no others.

    ``classifier`` is linear, receives a value for each channel and makes the logits. ``tensors`` are the parameters and
    buffers of the network, by name, that have a value for each channel.
    """

    layer: Layer
    classifier: nn.Linear
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, network: OpenedNetwork, batch: RecordedBatch) -> "GatheredTail | None":
        """The GatheredTail of a network; None if channels meet before a classifier, or something else comes after it.

        This is measured on a batch: channels drawn at random with repetitions, half as many as there are, are run after
        the layer without the others. The classifier has to receive for each of them what it receives when all are
        there, and its output has to be the network's.
        """
        layer = network.layer
        named = [*network.module.named_parameters(), *network.module.named_buffers()]
        tensors = {name: tensor for name, tensor in named if tensor.shape == (layer.num_channels,)}
        linear = [module for module in network.module.modules() if isinstance(module, nn.Linear)]
        for classifier in reversed([module for module in linear if module.in_features == layer.num_channels]):
            tail = cls(layer, classifier, tensors)
            try:
                if tail._is_right(network, batch):
                    return tail
            except Exception as error:  # of a user-supplied network that needs all channels
                if lacks_memory(error):
                    raise
        return None

    def _is_right(self, network: OpenedNetwork, batch: RecordedBatch) -> bool:
        number = max(1, self.layer.num_channels // 2)
        drawn = torch.randint(self.layer.num_channels, (number,), generator=torch.Generator().manual_seed(0))
        channels = drawn.to(network.device)
        output = batch.output()
        some = output.index_select(self.layer.channel_dim % output.ndim, channels)
        features = batch.received_by(self.classifier, output.clone())
        with batch.computing():
            logits = self.classifier(features).float()
        tolerance = TOLERANCE[network.precision]
        return (
            features.shape == (len(batch), self.layer.num_channels)
            and _nearly_equal(logits, batch.logits, tolerance)
            and _nearly_equal(self.features(batch, channels, some), features[:, channels], tolerance)
        )

    def features(self, batch: RecordedBatch, channels: Tensor, maps: Tensor) -> Tensor:
        """What the classifier receives of some channels, LongTensor [V]: [B, V].

        ``maps`` is the layer's output with these channels alone.
        """
        dim = self.layer.channel_dim % maps.ndim

        def of_channels(recorded: Tensor) -> Tensor:
            if recorded.ndim == maps.ndim and recorded.shape[dim] == self.layer.num_channels:
                return recorded.index_select(dim, channels)
            return recorded

        tensors = {name: tensor[channels] for name, tensor in self.tensors.items()}
        return batch.received_by(self.classifier, maps, change=of_channels, tensors=tensors)

    def differences(self, batch: RecordedBatch, channel: int, original: Tensor, edited: Tensor) -> Tensor:
        return self._received(batch, channel, original, edited)[..., None] * self._column(channel)

    def own_differences(self, batch: RecordedBatch, channel: int, original: Tensor, edited: Tensor) -> Tensor:
        column = self._column(channel)
        return self._received(batch, channel, original, edited) * column[batch.targets.to(column.device)]

    def _received(self, batch: RecordedBatch, channel: int, original: Tensor, edited: Tensor) -> Tensor:
        """How each edit changes the value that the classifier receives of the channel: [V, B]."""
        maps = torch.cat([original[None], edited]).movedim(0, self.layer.channel_dim % edited.ndim).contiguous()
        channels = torch.full((1 + len(edited),), channel, device=maps.device)
        features = self.features(batch, channels, maps)
        return (features[:, 1:] - features[:, :1]).T

    def _column(self, channel: int) -> Tensor:
        """The classifier's weights of a channel, [outputs]."""
        return self.classifier.weight.detach()[:, channel].float()


def _nearly_equal(values: Tensor, others: Tensor, tolerance: float) -> bool:
    return values.shape == others.shape and bool((values - others).abs().max() <= tolerance * others.abs().max())


def tail_of(network: OpenedNetwork, batch: RecordedBatch) -> Tail:
    """The fastest Tail that is right for the network, as measured on a batch."""
    return GatheredTail.of(network, batch) or WholeTail(network.layer)
