"""The study of one layer: its stores, and its network and images, which are opened when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from utils.defaults import MODEL_DIR
from utils.images.batches import ImageSource, Loading
from utils.images.folders import ClassMap, ImageList
from utils.images.transform import Transform
from utils.method.disentangling import Concept
from utils.networks.opened_network import OpenedNetwork
from utils.store.class_statistics import ClassStore
from utils.store.importance_store import ImportanceStore, Labels
from utils.store.tap_sums import ConceptTapSums, StoredTapSums


@dataclass(frozen=True)
class Study:
    """A layer, the stored results of stages 1 and 2, and how images are read.

    ``training`` is the complete ImportanceStore of training images, with its ``meta``; with ``only_correct`` only
    correctly classified images count; ``background`` is the weight of the background concept, or None.
    ``open_network`` returns the OpenedNetwork; ``open_loading`` the Loading, or raises UserError if the device lacks
    something that ``decoding`` needs.
    """

    run: str
    store_dir: Path
    data_dir: Path
    training: ImportanceStore
    only_correct: bool
    background: float | None
    transform: Transform
    open_network: Callable[[], OpenedNetwork]
    open_loading: Callable[[], Loading]
    decoding: str
    batch_size: int
    precision: str

    @property
    def meta(self) -> dict[str, Any]:
        return self.training.meta

    @property
    def model_dir(self) -> Path:
        """Folder of the split files, and of the files that sources of concepts store next to them."""
        return self.store_dir / MODEL_DIR

    @cached_property
    def classes(self) -> ClassMap:
        """Maps class folders to network outputs."""
        return ClassMap(self.meta["classes"])

    @cached_property
    def class_store(self) -> ClassStore:
        return ClassStore(self.store_dir, self.run, self.meta)

    @cached_property
    def labels(self) -> Labels:
        """The Labels of all training images that were used."""
        return self.training.read_labels()

    @cached_property
    def usable(self) -> torch.Tensor:
        """Indices of the training images that count, ascending."""
        return self.labels.indices[self.labels.counting(self.only_correct)]

    @cached_property
    def weight_and_bias(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layer's weight [C, C_in, taps] and bias [C] or None, from the store."""
        return self.training.read_layer()

    @cached_property
    def tap_sums(self) -> StoredTapSums:
        """Tap sums of the training images."""
        return StoredTapSums(self.training, lambda: self.labels, self.only_correct)

    @cached_property
    def mean_input(self) -> torch.Tensor:
        """Mean tap sums of all training images, [C_in, taps] float64: from the class means of stage 2."""
        mean_inputs, images = self.class_store.require_means()
        numbers = images[0, 0].double()
        present = numbers > 0
        return torch.einsum("t,tip->ip", numbers[present] / numbers.sum(), mean_inputs[0, 0][present])

    @cached_property
    def network(self) -> OpenedNetwork:
        return self.open_network()

    @cached_property
    def loading(self) -> Loading:
        return self.open_loading()

    def inputs_of(self, concepts: list[Concept], background: float | None) -> ConceptTapSums:
        """The ConceptInputs of some Concepts, for ways of dividing inputs."""
        return self.tap_sums.of_concepts(concepts, background)

    def images(self, store: ImportanceStore) -> ImageList:
        """The images that a store has measured, with their contents; read once."""
        if store.folder not in self._images:
            labels = self.labels if store is self.training else None
            images, _ = store.measured_images(self.data_dir / store.meta["images"], labels)
            self._images[store.folder] = images
        return self._images[store.folder]

    @cached_property
    def _images(self) -> dict[Path, ImageList]:
        """The images of the stores that were read, by the folder of the store."""
        return {}

    def image_source(self, store: ImportanceStore) -> ImageSource:
        """The images that a store has measured."""
        return ImageSource(self.images(store), self.transform, self.batch_size, self.loading)
