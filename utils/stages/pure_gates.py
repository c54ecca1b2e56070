"""PURE's clusters as gates of labelled concepts: the images whose circuit is nearest to the cluster of a concept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils.concept_sources.pure import pure_clusters
from utils.method.matching import match
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.study import Study
from utils.store.virtual_neuron_files import VirtualNeurons


@dataclass(frozen=True)
class PureGate:
    """True where the nearest of PURE's centroids is that of a concept: ``training`` and ``validation``, BoolTensors
    [K, N], with N the images of the store. False for training images of other classes, which are not measured."""

    training: Tensor
    validation: Tensor


def pure_gates(opened: Sequence[OpenedSplit], study: Study, store: ImportanceStore) -> dict[Path, PureGate]:
    """The PureGate of each of some splits with labels, by its path.

    A concept has the cluster whose virtual neuron ranks its training images best above those of the channel's other
    concepts (area under the ROC curve); two concepts may have the same.

    Parameters
    ----------
    opened
        Splits of one network and layer; they have at least one class for each concept.
    study
        Has the training images. Reference images come from a pass over them, unless they are kept.
    store
        A complete store of validation images.
    """
    classes = [split.outputs for split in opened]
    neurons = pure_clusters([split.file.split.channel for split in opened], classes, study, store)
    targets = torch.full((study.meta["num_images"],), -1)
    targets[study.labels.indices] = study.labels.targets
    gates = {}
    for split, (number, training, validation) in zip(opened, neurons, strict=True):
        concepts = split.file.split.classes
        of_images = targets[training.indices]
        is_own = torch.stack([torch.isin(of_images, torch.tensor(concept)) for concept in concepts])
        clusters = match(training.values(number), is_own)
        gates[split.path] = PureGate(
            _is_nearest(training, clusters, study.meta["num_images"]),
            _is_nearest(validation, clusters, store.meta["num_images"]),
        )
    return gates


def _is_nearest(neurons: VirtualNeurons, clusters: Tensor, num_images: int) -> Tensor:
    """True for the images that are nearest to the cluster of each concept, LongTensor [K]: BoolTensor [K, N]."""
    nearest = torch.full((num_images,), -1)
    nearest[neurons.indices] = neurons.nearest[:, 0].long()
    return nearest == clusters[:, None]
