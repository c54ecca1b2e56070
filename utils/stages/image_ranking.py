"""Stage 4: which channels, and which of their circuits, rank a user's list of images above all other images.

Everything follows from the stores. The score of an image is the spatial sum of a unit, ``W S``, from the tap sums of
the layer's input; the bias moves all images alike. The null of a channel is its own row of weights permuted over the
inputs. A channel may also answer to the listed images by being *low*: the same is measured with the lowest sum first.
Circuits are ranked of the best channels only; the null of that choice repeats it: each draw ranks its own permuted
channels, and the circuits of the best of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from utils.method.clustering import TooFewImagesError
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
            raise UserError(
                f"{listed.file} lists all images of {store.folder}: no other images are left to rank them against"
            )
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

    def best_units(self, number: int) -> Tensor:
        """The channels of the highest average precision, and in each draw of the null those of the highest there.

        LongTensor [n, 1 + DRAWS] of channels, the highest first; column 0 are the channels themselves.
        """
        precisions = torch.cat([self.values[:, None], self.nulls], 1)
        return precisions.argsort(dim=0, descending=True, stable=True)[:number]

    @property
    def best_of_nulls(self) -> Tensor:
        """The highest average precision among all channels in each draw of the null: [DRAWS].

        It answers for the choice of the best channel of the layer.
        """
        return self.nulls.amax(0)


@dataclass(frozen=True)
class CircuitRanks:
    """Average precisions of the circuits of the best channels for a list of images.

    ``channels`` have the circuits, and ``values`` [K] of each channel are the average precisions of their new channels.
    ``best_of_nulls`` [draws] is that of the best circuit of each draw of the null: of the channels that are best with
    permuted weights, with circuits that are found and split in the same way. So it answers for the choice of the
    channels and for that of the best circuit. Draws in which no channel has circuits are left out.
    """

    channels: list[ChannelCircuits]
    values: list[Tensor]
    best_of_nulls: Tensor


def rank_channels(in_store: ListInStore, kept: Unfinished | None) -> tuple[ChannelRanks, ChannelRanks]:
    """The ChannelRanks of all channels of a layer, the highest sum first, and the lowest sum first.

    One pass over the store, or several where the list is long. Of N images, P of them listed, and C channels a pass
    computes ``(1 + DRAWS) C N`` sums of ``C_in * taps`` products, sorts them in blocks, and counts for P of each.
    ``kept`` keeps what has been counted every few chunks.
    """
    weight, _ = in_store.store.read_layer()
    units = 1 + DRAWS

    def rows_of(part: range) -> Tensor:
        channels = range(part.start // units, part.stop // units)
        return torch.cat([permuted_weights(weight[channel], channel, DRAWS).float() for channel in channels])

    num_rows = len(weight) * units
    by_order = rank_rows(rows_of, num_rows, in_store, words="ranking channels", kept=kept, together=units)
    highest_first, lowest_first = [precisions.view(len(weight), units) for precisions in by_order]
    return (
        ChannelRanks(highest_first[:, 0], highest_first[:, 1:]),
        ChannelRanks(lowest_first[:, 0], lowest_first[:, 1:]),
    )


def rank_rows(
    rows_of: Callable[[range], Tensor],
    num_rows: int,
    in_store: ListInStore,
    *,
    words: str,
    kept: Unfinished | None = None,
    together: int = 1,
) -> tuple[Tensor, Tensor]:
    """Average precisions with which units rank the listed images above all others, and below all others: [B] each.

    Memory is bounded: many units, or a long list, take several passes over the store.

    Parameters
    ----------
    rows_of
        The weights [b, C_in, taps] of a range of the ``num_rows`` units.
    num_rows, in_store
    words
        In front of the progress bar.
    kept
        Where the counts of a stopped pass are kept.
    together
        Number of successive units that are of one pass.
    """
    most = MOST_VALUES // max(in_store.input_sums.shape)
    size = max(1, most // together) * together
    highest, lowest = [], []
    for start in range(0, num_rows, size):
        part = range(start, min(start + size, num_rows))
        number = "" if size >= num_rows else f" ({start // size + 1} of {-(-num_rows // size)})"
        counted = _count_rows(rows_of(part), in_store, words=words + number, kept=kept, key=start)
        highest.append(counted.highest_first())
        lowest.append(counted.lowest_first())
    return torch.cat(highest), torch.cat(lowest)


def _count_rows(
    rows: Tensor, in_store: ListInStore, *, words: str, kept: Unfinished | None, key: int
) -> StreamedPrecision:
    """The counts of one pass over the store, of units [B, C_in, taps]; ``key`` tells it from other passes."""
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
    """The circuits of a channel: ``names`` [K], ``sizes`` [K] (training images), new channels [K, C_in, taps]."""

    channel: int
    names: list[str]
    sizes: list[int]
    rows: Tensor


@dataclass(frozen=True)
class FoundCircuits:
    """The circuits of the best channels, and of the best units of each draw of permuted weights.

    ``nulls`` are the new channels [n, C_in, taps] of the circuits of each draw's units together; n may be 0.
    """

    channels: list[ChannelCircuits]
    nulls: list[Tensor]


def find_circuits(study: Study, units: Tensor) -> FoundCircuits:
    """The circuits of the best channels and of the best permuted ones, found and split as stage 3 does by default.

    They are sets of a unit's strongest training images, which ``study`` has, with the weight of the background. Units
    with too few distinct images for circuits have none.

    Parameters
    ----------
    study
    units : LongTensor [n, 1 + DRAWS]
        As in ``ChannelRanks.best_units``: the channels, and those whose permuted weights are the best of each draw.
    """
    weight, _ = study.weight_and_bias
    source = SOURCES.get(SUGGESTED).from_given({}, study)
    weights = weight.new_empty(*units.shape, *weight.shape[1:], dtype=torch.float64)
    for channel in units.unique().tolist():
        is_unit = units == channel
        weights[is_unit] = permuted_weights(weight[channel], channel, DRAWS)[is_unit.nonzero()[:, 1]]
    clusters_of_units = source.clusters_of_units(source.settings(), study, weights)
    split = _splitting(study)
    nothing = weights.new_empty(0, *weight.shape[1:])
    channels: list[ChannelCircuits] = []
    nulls = [[nothing] for _ in range(DRAWS)]
    for index, row in enumerate(progress(units.tolist(), "circuits of channels", unit=" channels", delay=2)):
        for draw in range(1 + DRAWS):
            try:
                clusters = clusters_of_units.of_number(index, draw, source.number)
            except TooFewImagesError:
                continue
            rows = split(weights[index, draw], clusters)
            if draw:
                nulls[draw - 1].append(rows)
            else:
                channels.append(_named(study, source, row[0], clusters, rows))
    return FoundCircuits(channels, [torch.cat(of_draw) for of_draw in nulls])


def _named(study: Study, source: Any, channel: int, clusters: Clusters, rows: Tensor) -> ChannelCircuits:
    """The ChannelCircuits that are the clusters of a channel, with the names that stage 3 gives them."""
    concepts = ImageSetCandidates(study, source, lambda _: clusters).make(channel, []).own_concepts
    sizes = [len(concept.images or ()) for concept in concepts]
    return ChannelCircuits(channel, [concept.name for concept in concepts], sizes, rows)


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


def rank_circuits(found: FoundCircuits, in_store: ListInStore) -> CircuitRanks:
    """The CircuitRanks of the circuits that were found; there are none where no channel has any."""
    if not found.channels:
        return CircuitRanks([], [], torch.empty(0, dtype=torch.float64))
    of_draws = [rows for rows in found.nulls if len(rows)]
    parts = [*(channel.rows for channel in found.channels), *of_draws]
    rows = torch.cat(parts).float()
    highest, _ = rank_rows(lambda part: rows[part.start : part.stop], len(rows), in_store, words="ranking circuits")
    precisions = highest.split(list(map(len, parts)))
    values, nulls = precisions[: len(found.channels)], precisions[len(found.channels) :]
    best = torch.stack([of_draw.amax() for of_draw in nulls]) if nulls else highest[:0]
    return CircuitRanks(found.channels, list(values), best)
