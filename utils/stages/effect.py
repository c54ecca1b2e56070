"""Stage 4: the effects of the new channels of a split on the logit of an image's own class."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.concept_sources.source_registry import SOURCES
from utils.images.batches import ImageBatch
from utils.images.folders import ImageList
from utils.method.disentangling import GroupKey, Split
from utils.method.shapley import coalitions, shapley_values
from utils.method.significance import permutation
from utils.networks.ablation import held
from utils.networks.layers import Layer
from utils.networks.opened_network import OpenedNetwork
from utils.networks.replay import Replay
from utils.networks.splitting import DisentangledLayer, in_place_of
from utils.stages.validation import ImagePass, contents_digest
from utils.store.opened_splits import OpenedSplit


class ChannelParts:
    """The parts of a split channel: the exclusive part of each concept, ``c'_k - r``, and ``r``.

    They sum to ``a_c``. Each can be replaced by its mean over all positions of the training images, or by zero. A part
    without input is the same in every image, and is never replaced.

    Parameters
    ----------
    layer : Layer
    split : Split
    rho : float or None
    to : str
        ``mean`` or ``zero``.
    """

    def __init__(self, layer: Layer, split: Split, rho: float | None, to: str) -> None:
        self.layer = layer
        self.module = DisentangledLayer(layer, [split], [rho])
        shares = split.shares(rho)
        mean_of_residual = (shares[-1] * split.mean_arv).sum() / split.positions
        mean_of_residual += 0 if split.bias is None else split.bias.double()
        means = [*self.module.means_of[0], float(mean_of_residual)]
        self.constants = means if to == "mean" else [0.0] * len(means)
        self.with_input = [part for part, of_part in enumerate(shares) if (of_part != 0).any()]
        self.seed = split.channel
        self.coalitions = coalitions(len(self.with_input), self.seed)

    def effects(self, network: torch.nn.Module, replay: Replay, targets: torch.Tensor) -> torch.Tensor:
        """The Shapley value of each part for the logit of an image's own class, and for its margin.

        The margin is the logit minus the mean of all others.

        Parameters
        ----------
        network : nn.Module
        replay : Replay
            Replay of B images.
        targets : LongTensor [B]

        Returns
        -------
        Tensor [2, B, K + 1], float64, on the CPU
            Effects on the logit, and on the margin, of ``c'_1 - r .. c'_K - r`` and ``r``; their sum is the effect of
            ``a_c`` against its mean (or zero).
        """
        values = {}
        with in_place_of(network, self.layer, self.module):
            for present in self.coalitions:
                replaced = {
                    part: self.constants[part] for player, part in enumerate(self.with_input) if player not in present
                }
                with held(self.module, 0, replaced), torch.no_grad():
                    values[present] = logit_and_margin(replay().double().cpu(), targets)
        effects = torch.zeros(2, len(targets), len(self.constants), dtype=torch.float64)
        effects[..., self.with_input] = shapley_values(values, len(self.with_input), self.seed).movedim(0, -1)
        return effects


def logit_and_margin(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The logit of each image's own class, and this minus the mean of all others: [B, outputs] -> [2, B]."""
    logit = logits.gather(1, targets[:, None])[:, 0]
    sum_of_others = logits.sum(1) - logit
    return torch.stack([logit, logit - sum_of_others / max(1, logits.shape[1] - 1)])


def describe_effect(opened: OpenedSplit, run: str, validation: ImagePass, to: str) -> dict[str, Any]:
    """All fields of an effect that are known before anything is measured."""
    file = opened.file
    split = file.split
    return {
        **validation.describe(opened, run),
        "channel": split.channel,
        "concepts": split.classes,
        "concept_names": [concept.name for concept in split.own_concepts],
        "background": file.background,
        "split_by": split.division.name,
        "rho": opened.rho,
        "to": to,
        "concepts_from": file.source["name"],
        "found_by": file.found_by(),
        "assignment": SOURCES.get(file.source["name"]).assignment(file.source["state"]),
        "files_sha256": validation.files_digest(opened.keys),
    }


def measure_effects(opened: list[OpenedSplit], validation: ImagePass, to: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Effects of splits on validation images of their concepts, group by group; each is ready after its last one.

    The computation before the layer is done once for each image, for all splits and replacements.

    Parameters
    ----------
    opened : list of OpenedSplit
    validation : ImagePass
    to : str
        ``mean`` or ``zero``: what the parts are replaced by.

    Yields
    ------
    number : int
        Index in ``opened``.
    measured : dict
        ``images``, for each concept ``paths``, ``effects`` on the logit, ``margins`` (effects on it minus the mean of
        all others) and ``effects_permuted`` ([n, K + 1] as lists): the latter of a split with as many inputs for each
        concept, drawn at random. ``validation``, a digest of the images of each group.
    """
    network = validation.network
    keys, last = validation.with_images(opened)
    users = {key: [number for number, split in enumerate(opened) if key in split.keys] for key in keys}
    measuring: dict[int, SplitEffects] = {}
    plan = validation.plan(keys)
    loader = validation.image_source.batches([planned.indices for planned in plan], "effects")
    for planned, batch in zip(plan, loader, strict=True):
        key = planned.group
        for number in users[key]:
            if number not in measuring:
                measuring[number] = SplitEffects(network, opened[number], to)
        if len(batch.indices):
            targets = validation.targets[batch.indices]
            with network.arithmetic():
                replay = Replay(network.module, network.layer.module, batch.pixels)
                for number in users[key]:
                    measuring[number].add(key, batch, replay, targets)
        for number in users[key] if planned.is_last else ():
            if last[number] == key:
                yield number, measuring.pop(number).result(validation)


class EffectBatch(NamedTuple):
    """Effects on B images of one group.

    ``indices`` int64 [B] in the ImageList, ``contents`` uint64 [B]; ``effects`` on the logit, ``margins`` and
    ``effects_permuted`` [B, K + 1] float64.
    """

    key: GroupKey
    indices: np.ndarray
    contents: np.ndarray
    effects: torch.Tensor
    margins: torch.Tensor
    effects_permuted: torch.Tensor


class SplitEffects:
    """Collects the effects of one split, and of the same split with its inputs assigned at random.

    In the latter, each concept has the same number of inputs as in the split.
    """

    def __init__(self, network: OpenedNetwork, opened: OpenedSplit, to: str) -> None:
        split = opened.file.split
        order = permutation(len(split.weight), "effect", split.channel, split.classes)
        permuted = replace(split, division=split.division.permuted(order))
        self.network = network.module
        self.opened = opened
        self.parts = ChannelParts(network.layer, split, opened.rho, to)
        self.permuted_parts = ChannelParts(network.layer, permuted, opened.rho, to)
        self.batches: list[EffectBatch] = []

    def add(self, key: GroupKey, batch: ImageBatch, replay: Replay, targets: torch.Tensor) -> None:
        """Measure a batch of a group; ``targets`` [B] are the outputs that are the images' own classes."""
        effects, margins = self.parts.effects(self.network, replay, targets)
        effects_permuted, _ = self.permuted_parts.effects(self.network, replay, targets)
        indices = batch.indices.numpy()
        self.batches.append(EffectBatch(key, indices, batch.contents, effects, margins, effects_permuted))

    def result(self, validation: ImagePass) -> dict[str, Any]:
        """The dictionary that ``measure_effects`` yields."""
        images = validation.images
        digests = {validation.name(key): self._digest(images, key) for key in self.opened.keys}
        return {"validation": digests, "images": [self._of_concept(images, keys) for keys in self.opened.groups]}

    def _of_concept(self, images: ImageList, keys: list[GroupKey]) -> dict[str, list]:
        batches = [batch for key in self.opened.keys if key in keys for batch in self.batches if batch.key == key]
        nothing = torch.empty(0, len(self.opened.file.split.concepts) + 1)
        return {
            "paths": [str(images.path(index).relative_to(images.root)) for index in _indices(batches)],
            "effects": torch.cat([nothing, *(batch.effects for batch in batches)]).tolist(),
            "margins": torch.cat([nothing, *(batch.margins for batch in batches)]).tolist(),
            "effects_permuted": torch.cat([nothing, *(batch.effects_permuted for batch in batches)]).tolist(),
        }

    def _digest(self, images: ImageList, key: GroupKey) -> str:
        """Digest of all images of a group that were measured."""
        batches = [batch for batch in self.batches if batch.key == key]
        contents = np.concatenate([np.empty(0, np.uint64), *(batch.contents for batch in batches)])
        return contents_digest(images, _indices(batches), contents)


def _indices(batches: list[EffectBatch]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int64), *(batch.indices for batch in batches)])
