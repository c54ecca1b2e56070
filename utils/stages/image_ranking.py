"""Stage 4: which channels, and which of their circuits, rank a user's list of images above all other images.

Everything follows from the stores. The score of an image is the spatial sum of a unit, ``W S``, from the tap sums of
the layer's input; the bias moves all images alike. The null of a channel is its own row of weights permuted over the
inputs. A channel may also answer to the listed images by being *low*: the same is measured with the lowest sum first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.concept_sources.compared_channels import permuted_weights
from utils.concept_sources.image_sets import Clusters, ImageSetCandidates
from utils.concept_sources.source_registry import SOURCES, SUGGESTED
from utils.defaults import IMAGE_SET_DRAWS as DRAWS
from utils.divisions.division_registry import DIVISIONS, USUAL_WITHOUT_LABELS
from utils.errors import UserError
from utils.method.disentangling import Concept
from utils.method.ranking import StreamedPrecision
from utils.processes import progress
from utils.stages.image_set_nulls import rows_of_sets
from utils.store.files import Layout
from utils.store.image_lists import ListedImages
from utils.store.importance_store import ImportanceStore, Labels
from utils.store.study import Study
from utils.store.tap_sums import StoredTapSums
from utils.store.unfinished import Unfinished

KEPT_CHUNKS = 64  # of a pass are a step that is kept
MOST_VALUES = 2**26  # of the weights, or of the counts, of the units of one pass
MOST_SCORES = 2**22  # of a block of units and images: they stay in the processor's cache


@dataclass(frozen=True)
class ListInStore:
    """A list of images in a complete store.

    ``listed`` LongTensor [P] are the indices of the listed images, ``input_sums`` [P, C_in * taps] their tap sums;
    ``num_images`` is the number of all images that the store has measured.
    """

    store: ImportanceStore
    listed: Tensor
    input_sums: Tensor
    num_images: int

    @classmethod
    def of(cls, listed: ListedImages, store: ImportanceStore, labels: Labels) -> ListInStore:
        """UserError if the store lacks a listed image, or if it has no other images; ``labels`` are the store's."""
        indices = listed.indices_in(store, labels)
        if len(indices) == len(labels.indices):
            raise UserError(f"{listed.file} lists all images of {store.folder}: there is nothing to rank them above")
        tap_sums = StoredTapSums(store, lambda: labels, only_correct=False).of_images(indices)
        return cls(store, indices, tap_sums.flatten(1), len(labels.indices))

    @property
    def prevalence(self) -> float:
        """The share of the listed images among all; about the average precision of a random order."""
        return len(self.listed) / self.num_images


@dataclass(frozen=True)
class ChannelRanks:
    """Average precisions of the C channels of a layer for a list of images, by their spatial sums in one order.

    ``values`` [C] are those of the channels, ``nulls`` [C, DRAWS] those of their permuted weights; float64.
    """

    values: Tensor
    nulls: Tensor

    def best(self, number: int) -> list[int]:
        """The channels of the highest average precision, the highest first."""
        return self.values.argsort(descending=True, stable=True)[:number].tolist()

    @property
    def best_of_nulls(self) -> Tensor:
        """The highest average precision among all channels in each draw of the null: [DRAWS].

        It answers for the choice of the best channel of the layer.
        """
        return self.nulls.amax(0)


@dataclass(frozen=True)
class CircuitRanks:
    """Average precisions of the circuits of a channel for a list of images.

    ``names`` [K] are those of the circuits, ``sizes`` [K] their numbers of training images. ``values`` [K] are the
    average precisions of their new channels; ``best_of_nulls`` [draws] that of the best circuit of each unit of
    permuted weights, which is found and split in the same way: it answers for the choice of the best circuit.
    """

    channel: int
    names: list[str]
    sizes: list[int]
    values: Tensor
    best_of_nulls: Tensor


def rank_channels(in_store: ListInStore, kept: Unfinished | None) -> tuple[ChannelRanks, ChannelRanks]:
    """The ChannelRanks of all channels of a layer, the highest sum first, and the lowest sum first.

    One pass over the store, or several where the list is long. Of N images, P of them listed, and C channels a pass
    computes ``(1 + DRAWS) C N`` sums of ``C_in * taps`` products, sorts them in blocks, and counts for P of each.
    ``kept`` keeps what has been counted every few chunks.
    """
    weight, _ = in_store.store.read_layer()
    units = 1 + DRAWS
    size = max(1, MOST_VALUES // (units * max(len(in_store.listed), weight[0].numel())))
    starts = range(0, len(weight), size)
    highest, lowest = [], []
    for start in starts:
        channels = range(start, min(start + size, len(weight)))
        rows = torch.cat([permuted_weights(weight[channel], channel, DRAWS).float() for channel in channels])
        words = "ranking channels" if len(starts) == 1 else f"channels {channels[0]} to {channels[-1]}"
        counted = count_rows(rows, in_store, words=words, kept=kept, key=start)
        highest.append(counted.highest_first())
        lowest.append(counted.lowest_first())
    by_order = [torch.cat(parts).view(len(weight), units) for parts in (highest, lowest)]
    highest_first, lowest_first = [ChannelRanks(precisions[:, 0], precisions[:, 1:]) for precisions in by_order]
    return highest_first, lowest_first


def count_rows(
    rows: Tensor, in_store: ListInStore, *, words: str, kept: Unfinished | None = None, key: int = 0
) -> StreamedPrecision:
    """The average precisions with which units [B, C_in, taps] rank the listed images among all others.

    Parameters
    ----------
    rows, in_store
    words
        In front of the progress bar.
    kept, key
        Where the counts of a stopped pass are kept, and what tells the pass from others there.
    """
    store = in_store.store
    units = rows.float().flatten(1).numpy()
    counted = StreamedPrecision(torch.from_numpy(units @ in_store.input_sums.numpy().T))
    counts = {"at_least": counted.at_least.numpy(), "at_most": counted.at_most.numpy()}  # share the memory
    done = 0 if kept is None else _resumed(kept, key, counts)
    total = store.num_chunks
    images = store.meta["num_images"]
    bar = progress(range(done, total), words, unit=" chunks", delay=2, images=images, initial=done, total=total)
    for chunk in bar:
        of_chunk = store.read_chunk(chunk, ["input_sums"])
        others = ~torch.isin(of_chunk["indices"], in_store.listed)
        for part, scores in _scores_in_blocks(units, of_chunk["input_sums"][others].flatten(1).numpy()):
            counted.add(scores, part)
        if kept is not None and (chunk + 1) % KEPT_CHUNKS == 0 and chunk + 1 < total:
            kept.keep_arrays(["pass", key], {**counts, "chunks": np.array(chunk + 1)})
    return counted


def _scores_in_blocks(units: np.ndarray, inputs: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
    """Spatial sums [b, n] of blocks of units [B, D] in images [n, D], with the units of each block."""
    if not len(inputs):
        return
    size = max(1, MOST_SCORES // len(inputs))
    for start in range(0, len(units), size):
        part = slice(start, start + size)
        yield part, torch.from_numpy(units[part] @ inputs.T)


def _resumed(kept: Unfinished, key: int, counts: dict[str, np.ndarray]) -> int:
    """Set ``counts`` to those of a pass that was stopped; the number of chunks that it had read."""
    layout: Layout = {name: (array.dtype, array.shape) for name, array in counts.items()}
    so_far = kept.find_arrays(["pass", key], {**layout, "chunks": (np.int64, ())})
    if so_far is None:
        return 0
    for name, array in counts.items():
        array[...] = so_far[name]
    return int(so_far["chunks"])


# --------------------------------------------------------------------------------------------------------------------
# Circuits


@dataclass(frozen=True)
class ChannelCircuits:
    """The circuits of a channel, and of its permuted weights.

    ``names`` and ``sizes`` [K] are as in CircuitRanks. ``rows`` are the new channels [K, C_in, taps] of the channel,
    and then of each draw of permuted weights that has K circuits, too.
    """

    channel: int
    names: list[str]
    sizes: list[int]
    rows: list[Tensor]


def find_circuits(study: Study, channels: Sequence[int]) -> list[ChannelCircuits]:
    """The circuits of some channels, found and split as stage 3 does by default; channels without them are left out.

    They are sets of a channel's strongest training images, which ``study`` has, with the weight of the background.
    """
    weight, _ = study.weight_and_bias
    source = SOURCES.get(SUGGESTED).from_given({}, study)
    weights = torch.stack([permuted_weights(weight[channel], channel, DRAWS) for channel in channels])
    clusters_of_units = source.clusters_of_units(source.settings(), study, weights)
    split = _splitting(study)
    circuits = []
    for index, channel in enumerate(progress(channels, "circuits of channels", unit=" channels", delay=2)):
        rows: list[Tensor] = []
        named: list[Concept] = []
        for draw in range(1 + DRAWS):
            try:
                clusters = clusters_of_units.of_number(index, draw, source.number)
            except UserError:  # too few distinct images
                if draw == 0:
                    break
                continue
            named = named or _named(study, source, channel, clusters)
            rows.append(split(weights[index, draw], clusters))
        if rows:
            sizes = [len(concept.images or ()) for concept in named]
            circuits.append(ChannelCircuits(channel, [concept.name for concept in named], sizes, rows))
    return circuits


def _named(study: Study, source: Any, channel: int, clusters: Clusters) -> list[Concept]:
    """The concepts that are the clusters of a channel, with the names that stage 3 gives them."""
    return ImageSetCandidates(study, source, lambda _: clusters).make(channel, []).own_concepts


def _splitting(study: Study) -> Callable[[Tensor, Clusters], Tensor]:
    """The function that splits a unit [C_in, taps] by its clusters: ``c'_1 .. c'_K`` [K, C_in, taps]."""
    division = DIVISIONS.get(USUAL_WITHOUT_LABELS)
    settings = division.settings_from({})

    def split(weight: Tensor, clusters: Clusters) -> Tensor:
        return rows_of_sets(
            study,
            weight,
            clusters.sets(),
            background=study.background,
            rule_of=lambda inputs: division.rule(settings, inputs, None),
        )

    return split


def rank_circuits(circuits: list[ChannelCircuits], in_store: ListInStore) -> list[CircuitRanks]:
    """The CircuitRanks of the circuits of some channels, in one pass over the store."""
    if not circuits:
        return []
    units = [rows for of_channel in circuits for rows in of_channel.rows]
    counted = count_rows(torch.cat(units), in_store, words="ranking circuits")
    precisions = iter(counted.highest_first().split(list(map(len, units))))
    ranks = []
    for of_channel in circuits:
        values, *nulls = [next(precisions) for _ in of_channel.rows]
        best = torch.stack([of_unit.amax() for of_unit in nulls]) if nulls else values[:0]
        ranks.append(CircuitRanks(of_channel.channel, of_channel.names, of_channel.sizes, values, best))
    return ranks
