"""Units of dictionaries of a layer's output (autoencoders, NMF) in a comparison: which are a channel's, their values.

A unit's value in an image is the spatial sum of its code. All dictionaries of a comparison share one pass over the
validation images and one over the training images of its concepts. What the passes find is kept in the store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.concept_sources.circuits import Circuits
from utils.concept_sources.compared_channels import (
    DRAWS,
    UNITS_AT_RANDOM,
    ComparedChannel,
    ComparedUnits,
    Comparison,
    Reconstruction,
    UnitMaker,
    UnitsByNull,
    permutations,
)
from utils.errors import UserError
from utils.images.batches import ImageBatch
from utils.method.dictionary_fit import Dictionary, Fit
from utils.method.order import largest_first
from utils.method.significance import permutation
from utils.networks.coordinates import LayerCoordinates
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import full_precision
from utils.networks.reads import FollowingActivation
from utils.networks.recording import require_finite_values
from utils.networks.tails import RecordedBatch
from utils.store.dictionary_files import NOT_INSERTED, unit_values_file, unit_values_layout
from utils.store.image_passes import pass_in_blocks
from utils.store.importance_store import ImportanceStore
from utils.store.study import Study

if TYPE_CHECKING:
    from utils.store.files import Layout

POSITIONS = 200_000  # that dictionaries are trained on
INSERTED_IMAGES = 5_000  # validation images in which reconstructions are inserted, at most
IMAGES_OF_CLASS = 100  # training images of a class whose values are measured: 1.9 GB of 1,000 classes, not 23 GB of all
# of all dictionaries; without ``positions_of`` they were of the images that count
SETTINGS = {"positions": POSITIONS, "positions_of": "all training images", "images_of_class": IMAGES_OF_CLASS}
MOST_CODES = 2**25  # in memory at once


# --------------------------------------------------------------------------------------------------------------------
# What a dictionary describes: the layer's output, or what the network makes of it


class View(ABC):
    """The values that a dictionary describes, of coordinates of a layer's output.

    ``words`` say what they are.
    """

    words: str

    def __init__(self, coordinates: LayerCoordinates) -> None:
        self.coordinates = coordinates

    @abstractmethod
    def values(self, coordinates: Tensor) -> Tensor:
        """The values [n, V] of coordinates [n, D]."""

    @abstractmethod
    def output(self, values: Tensor, coordinates: Tensor) -> Tensor | None:
        """The layer's output [n, C] at which the network has these ``values`` [n, V] in the place of those of the
        ``coordinates`` [n, D]; None if no output has."""

    @abstractmethod
    def channels(self, atoms: Tensor) -> Tensor:
        """What a code of 1 of each unit adds to each channel: [U, C], of atoms [U, V]."""


class OutputView(View):
    """The layer's output itself, as its coordinates."""

    words = "the layer's output"

    def values(self, coordinates: Tensor) -> Tensor:
        return coordinates

    def output(self, values: Tensor, coordinates: Tensor) -> Tensor:
        return self.coordinates.values(values)

    def channels(self, atoms: Tensor) -> Tensor:
        return atoms @ self.coordinates.basis.T


class ActivatedView(View):
    """The output after the ``activation`` that follows the layer; without one ``max(a, 0)``, which is a part of what
    later modules read and cannot be inserted."""

    def __init__(self, coordinates: LayerCoordinates, activation: FollowingActivation | None) -> None:
        super().__init__(coordinates)
        self.activation = activation
        self.words = "max(a, 0)" if activation is None else f"what follows {activation.words}"

    def values(self, coordinates: Tensor) -> Tensor:
        values = self.coordinates.values(coordinates)
        return values.clamp(min=0) if self.activation is None else self.activation(values)

    def output(self, values: Tensor, coordinates: Tensor) -> Tensor | None:
        if self.activation is None:
            return None
        return self.activation.before(values, self.coordinates.values(coordinates))

    def channels(self, atoms: Tensor) -> Tensor:
        return atoms


@dataclass(frozen=True)
class LayerDictionary:
    """A trained dictionary of a layer's output.

    Parameters
    ----------
    dictionary : Dictionary
        U units, on the network's device.
    view : View
        What it describes.
    mean : Tensor [V]
        Mean of the values it was trained on.
    fit : Fit
        To these values.
    made_from : dict
        Plain values that it depends on.
    """

    dictionary: Dictionary
    view: View
    mean: Tensor
    fit: Fit
    made_from: dict[str, Any]

    @property
    def num_units(self) -> int:
        return len(self.dictionary.atoms)

    @cached_property
    def channels(self) -> Tensor:
        """What a code of 1 of each unit adds to each channel: [U, C], on the CPU."""
        return self.view.channels(self.dictionary.atoms).cpu()


# --------------------------------------------------------------------------------------------------------------------
# Values of the units in images of a store


class UnitValues:
    """The stored arrays of the units of dictionaries in images of a store.

    ``indices`` LongTensor [n], ascending, ``arrays`` as ``unit_values_layout`` has them.
    """

    def __init__(self, indices: Tensor, arrays: Mapping[str, np.ndarray]) -> None:
        self.indices = indices
        self._arrays = arrays

    def of(self, name: str) -> Tensor:
        """Values [n, U] of the units of a dictionary."""
        return torch.from_numpy(self._arrays[f"values_{name}"])

    def explained(self, name: str) -> float:
        """The share of the squared distances from the training mean that the reconstruction explains."""
        return 1 - float(self._arrays[f"errors_{name}"].sum() / self._arrays[f"totals_{name}"].sum())

    def predictions(self, name: str | None = None) -> Tensor:
        """LongTensor [n]: of the network as it is, or with the reconstruction of a dictionary; else NOT_INSERTED."""
        return torch.from_numpy(self._arrays["predictions" if name is None else f"predictions_{name}"])


def measured_units(
    store: ImportanceStore,
    study: Study,
    indices: Tensor,
    inserted: Tensor,
    dictionaries: Mapping[str, LayerDictionary],
) -> UnitValues:
    """The UnitValues of dictionaries in images of a store: from their file if it exists, else from one pass.

    Parameters
    ----------
    store
    study
        Determines the network, and how images are read.
    indices
        LongTensor [n], ascending.
    inserted
        LongTensor [m], those of the images in which the reconstructions are inserted.
    dictionaries

    Raises
    ------
    UserError
        An image cannot be read any more, or the network gives values for an image that are not finite.
    """
    units = {name: dictionary.num_units for name, dictionary in dictionaries.items()}
    made_from = {name: dictionary.made_from for name, dictionary in dictionaries.items()}
    file = unit_values_file(study, store, indices, inserted, made_from=made_from, units=units)
    arrays = file.read()
    if arrays is None:
        source = study.image_source(store)

        def measure(block: Tensor, batches: Iterator[ImageBatch]) -> dict[str, np.ndarray]:
            parts: list[dict[str, Tensor]] = []
            num_read = 0
            for batch in batches:
                num_read += len(batch.indices)
                if len(batch.indices):
                    parts.append(_values_of_batch(study.network, batch, inserted, dictionaries))
                    require_finite_values(list(parts[-1].values()), batch.indices, source.images)
            if num_read < len(block):
                raise UserError(f"{len(block) - num_read} images cannot be read any more")
            return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}

        def layout(block: Tensor) -> Layout:
            return unit_values_layout(units, len(block))

        blocks = pass_in_blocks(file.unfinished, layout, source, indices, "units of dictionaries", measure=measure)
        # blocks let go of each array, so that not all of them are in memory twice
        arrays = {name: np.concatenate([block.pop(name) for block in blocks]) for name in layout(indices)}
        file.write(arrays)
    return UnitValues(indices, arrays)


def _values_of_batch(
    network: OpenedNetwork, batch: ImageBatch, inserted: Tensor, dictionaries: Mapping[str, LayerDictionary]
) -> dict[str, Tensor]:
    """The arrays of ``unit_values_layout`` of a batch, on the CPU."""
    rows = torch.isin(batch.indices, inserted).nonzero().flatten()
    recorded = None
    if len(rows):
        pixels = batch.pixels if len(rows) == len(batch.indices) else batch.pixels[rows.to(batch.pixels.device)]
        recorded = RecordedBatch(network, pixels, batch.indices[rows], torch.zeros_like(rows))
    whole = recorded is not None and len(rows) == len(batch.indices)
    x = recorded.input() if recorded is not None and whole else network.input_of(batch.pixels)
    some_view = next(iter(dictionaries.values())).view
    coordinates = some_view.coordinates.of_input(x)
    arrays = {"predictions": torch.full((len(batch.indices),), NOT_INSERTED)}
    output = None
    if recorded is not None:
        output = recorded.output()
        arrays["predictions"][rows] = recorded.logits.argmax(1).cpu()
    for name, dictionary in dictionaries.items():
        of_images = _described(dictionary, coordinates)
        arrays[f"values_{name}"] = of_images.sums.cpu()
        arrays[f"errors_{name}"] = of_images.errors.double().cpu()
        arrays[f"totals_{name}"] = of_images.totals.double().cpu()
        predictions = torch.full((len(batch.indices),), NOT_INSERTED)
        if recorded is not None and output is not None and of_images.output is not None:
            replaced = of_images.output[rows.to(of_images.output.device)].movedim(2, 1)
            logits = recorded.logits_with(network.layer.with_positions(output, replaced))
            predictions[rows] = logits.argmax(1).cpu()
        arrays[f"predictions_{name}"] = predictions
    return arrays


class _Described(NamedTuple):
    """What a dictionary makes of B images: ``sums`` [B, U] of codes over positions, ``errors`` and ``totals`` [B], and
    the layer's ``output`` with the reconstruction in it, [B, positions, C] or None."""

    sums: Tensor
    errors: Tensor
    totals: Tensor
    output: Tensor | None


def _described(layer_dictionary: LayerDictionary, coordinates: Tensor) -> _Described:
    """What a dictionary makes of images with ``coordinates`` [B, positions, D]."""
    dictionary = layer_dictionary.dictionary
    view = layer_dictionary.view
    positions = coordinates.shape[1]
    parts = []
    with torch.no_grad(), full_precision(coordinates.device):
        for images in coordinates.split(max(1, MOST_CODES // (positions * layer_dictionary.num_units))):
            flat = images.flatten(0, 1)
            values = view.values(flat)
            codes = dictionary.codes(values)
            reconstruction = dictionary.reconstruct(codes)
            output = view.output(reconstruction, flat)
            squares = ((values - reconstruction).square().sum(1), (values - layer_dictionary.mean).square().sum(1))
            errors, totals = (of_positions.unflatten(0, (-1, positions)).sum(1) for of_positions in squares)
            sums = codes.unflatten(0, (-1, positions)).sum(1)
            parts.append(
                _Described(sums, errors, totals, None if output is None else output.unflatten(0, (-1, positions)))
            )
    outputs = [part.output for part in parts if part.output is not None]
    return _Described(
        sums=torch.cat([part.sums for part in parts]),
        errors=torch.cat([part.errors for part in parts]),
        totals=torch.cat([part.totals for part in parts]),
        output=torch.cat(outputs) if outputs else None,
    )


# --------------------------------------------------------------------------------------------------------------------
# In a comparison


class SharedPasses:
    """The dictionaries of all sources of a comparison, and the values of their units from one pass over images."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._dictionaries: dict[str, LayerDictionary] = {}

    def add(self, name: str, dictionary: LayerDictionary) -> None:
        """Add a dictionary, before any pass."""
        self._dictionaries[name] = dictionary

    def __getitem__(self, name: str) -> LayerDictionary:
        return self._dictionaries[name]

    @cached_property
    def training(self) -> UnitValues:
        """Values in training images of the concepts of all channels: of each class a sample."""
        comparison = self._comparison
        usable = comparison.usable
        outputs = sorted({output for _, concepts in comparison.channels for output in chain.from_iterable(concepts)})
        images = torch.cat([sample_of_class(usable.indices[usable.targets == output], output) for output in outputs])
        return self._measured(comparison.study.training, images.sort().values, torch.empty(0).long())

    @cached_property
    def validation(self) -> UnitValues:
        """Values in all validation images, and predictions with reconstructions in at most INSERTED_IMAGES."""
        store = self._comparison.store
        indices = store.read_labels().indices
        drawn = permutation(len(indices), "images of insertions")[:INSERTED_IMAGES]
        return self._measured(store, indices, indices[drawn.sort().values])

    def _measured(self, store: ImportanceStore, indices: Tensor, inserted: Tensor) -> UnitValues:
        return measured_units(store, self._comparison.study, indices, inserted, self._dictionaries)

    @cached_property
    def _targets(self) -> Tensor:
        return self._comparison.store.read_labels().targets

    def reconstruction(self, name: str) -> Reconstruction:
        """How well a dictionary reconstructs validation images, and what inserting that does to predictions."""
        dictionary = self[name]
        values = self.validation
        before, after = values.predictions(), values.predictions(name)
        measured = after != NOT_INSERTED
        targets = self._targets[measured]

        def share(is_true: Tensor) -> float:
            return float(is_true.double().mean()) if len(is_true) else np.nan

        return Reconstruction(
            dictionary=name,
            of=dictionary.view.words,
            units=dictionary.num_units,
            active_units=int(dictionary.fit.active.sum()),
            units_at_position=dictionary.fit.units_at_position,
            explained_training=dictionary.fit.explained,
            explained=values.explained(name),
            images=int(measured.sum()),
            changed=share(before[measured] != after[measured]),
            top1=share(before[measured] == targets),
            top1_inserted=share(after[measured] == targets),
        )


def sample_of_class(images: Tensor, output: int) -> Tensor:
    """At most IMAGES_OF_CLASS of a class's images, LongTensor [n]: the same ones whatever channels are compared."""
    return images[permutation(len(images), "images of units", output)[:IMAGES_OF_CLASS]]


class DictionaryFinder:
    """The dictionaries of a source in a comparison, and the number of units of each channel, which is circuits'.

    Parameters
    ----------
    comparison : Comparison
    dictionaries : dict of str -> LayerDictionary
    """

    def __init__(self, comparison: Comparison, dictionaries: Mapping[str, LayerDictionary]) -> None:
        self.passes = comparison.shared(SharedPasses)
        self._comparison = comparison
        for name, dictionary in dictionaries.items():
            self.passes.add(name, dictionary)

    def number(self, channel: ComparedChannel) -> int:
        """How many units a channel has: as many as it has circuits."""
        return len(self._comparison.finder(Circuits).clusters(channel.index, 0).centroids)

    def units(self, name: str, channel: ComparedChannel, numbers: Tensor) -> ComparedUnits:
        """Some units of a dictionary, LongTensor [k]."""
        training = self.passes.training
        is_sampled = torch.isin(channel.images, training.indices)
        rows = torch.searchsorted(training.indices, channel.images[is_sampled])
        validation = self.passes.validation.of(name)
        return ComparedUnits(
            training=training.of(name)[rows[:, None], numbers].T.contiguous(),
            validation=validation[:, numbers].T.contiguous(),
            is_sampled=is_sampled,
        )


class _UnitsOfDictionary(UnitMaker):
    """Units of a dictionary."""

    def __init__(self, finder: DictionaryFinder, name: str) -> None:
        self.finder = finder
        self.name = name

    def prepare(self) -> Reconstruction:
        self.finder.passes.training  # noqa: B018  # a pass, once for all
        return self.finder.passes.reconstruction(self.name)


class LargestUnits(_UnitsOfDictionary):
    """The k units of largest weight at the channel, among those that are active at any position.

    Of the null, k of these units are drawn at random.
    """

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        dictionary = self.finder.passes[self.name]
        active = dictionary.fit.active.cpu().nonzero().flatten()
        weights = dictionary.channels[active, channel.channel]
        number = min(self.finder.number(channel), len(active))
        if not number:
            raise UserError("no unit is active")
        orders = permutations("units", channel.channel, len(active), DRAWS)
        return {
            "": [self.finder.units(self.name, channel, active[largest_first(weights, number)])],
            UNITS_AT_RANDOM: [self.finder.units(self.name, channel, active[order[:number]]) for order in orders],
        }


class AllUnits(_UnitsOfDictionary):
    """All units: which of them is matched with a concept does not depend on the channel."""

    is_of_channel = False

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        numbers = torch.arange(self.finder.passes[self.name].num_units)
        return {"": [self.finder.units(self.name, channel, numbers)]}


def own_units_of(dictionaries: Mapping[str, str]) -> dict[str, tuple[str, Callable[[DictionaryFinder], UnitMaker]]]:
    """The rows of a comparison for dictionaries, from {name: words}: units of largest weight, and the best of all."""
    rows: dict[str, tuple[str, Callable[[DictionaryFinder], UnitMaker]]] = {}
    for name, words in dictionaries.items():
        rows[name] = (f"{words}, units of largest weight", _maker(LargestUnits, name))
        rows[f"{name}_all"] = (f"{words}, best of all units", _maker(AllUnits, name))
    return rows


def _maker(kind: type[_UnitsOfDictionary], name: str) -> Callable[[DictionaryFinder], UnitMaker]:
    return lambda finder: kind(finder, name)
