"""Stage 4: what the new channels of a split do behind the layer, to the logit of an image's own class."""

from dataclasses import replace

import numpy as np
import torch

from utils.concept_sources.source_registry import SOURCES
from utils.method.shapley import coalitions, shapley_values
from utils.method.significance import permutation
from utils.networks.ablation import held
from utils.networks.precision import network_arithmetic
from utils.networks.replay import Replay
from utils.networks.splitting import DisentangledLayer, in_place_of
from utils.stages.validation import contents_digest


class Players:
    """What is a concept's alone in a split channel, ``c'_k - r``, for every concept, and ``r``: they sum to ``a_c``.

    Each can be replaced by its mean over all positions of the training images, or by zero. One that has no input is
    what it is in every image, and plays no part.

    Parameters
    ----------
    layer : Layer
    split : Split
    rho : float or None
    to : str
        ``mean`` or ``zero``.
    """

    def __init__(self, layer, split, rho, to):
        self.module = DisentangledLayer(layer, [split], [rho])
        shares = split.shares(rho)
        residual = (shares[-1] * split.mean_arv).sum() / split.positions
        residual += 0 if split.bias is None else split.bias.double()
        means = [*self.module.means_of[0], float(residual)]
        self.constants = means if to == "mean" else [0.0] * len(means)
        self.playing = [k for k in range(len(shares)) if (shares[k] != 0).any()]
        self.seed = split.channel
        self.coalitions = coalitions(len(self.playing), self.seed)

    def effects(self, network, layer, behind, targets):
        """What each part adds to the logit of images' own class and to its margin, on average over who is there.

        The margin is the logit minus the mean of all others.

        Parameters
        ----------
        network : nn.Module
        layer : Layer
        behind : Replay
            Of the images, B of them.
        targets : LongTensor [B]

        Returns
        -------
        effects, margins : Tensor [B, K + 1], float64, on the CPU
            Of ``c'_1 - r .. c'_K - r`` and ``r``; their sum is the effect of ``a_c`` against its mean (or zero).
        """
        values = {}
        with in_place_of(network, layer, self.module):
            for present in self.coalitions:
                absent = [one for place, one in enumerate(self.playing) if place not in present]
                with held(self.module, 0, {one: self.constants[one] for one in absent}), torch.no_grad():
                    values[present] = logit_and_margin(behind().double().cpu(), targets)
        found = torch.zeros(*values[self.coalitions[0]].shape, len(self.constants), dtype=torch.float64)
        found[..., self.playing] = shapley_values(values, len(self.playing), self.seed).movedim(0, -1)
        return tuple(found)


def logit_and_margin(logits, targets):
    """Of the logits [B, outputs] each image's own, and by how much it is above the mean of all others: [2, B]."""
    own = logits.gather(1, targets[:, None])[:, 0]
    others = logits.sum(1) - own
    return torch.stack([own, own - others / max(1, logits.shape[1] - 1)])


def describe_effect(opened, run, source, to):
    """All of an effect that is known before anything is measured."""
    split, file = opened.file.split, opened.file
    return {
        "run": run,
        "split": opened.path.stem,
        "split_sha256": file.sha256,
        **{key: file.context[key] for key in ("weights_sha256", "layer", "transform")},
        **source.how,
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
        "files_sha256": source.files_digest(opened.keys),
    }


def measure_effects(opened, source, to):
    """Effects of splits on validation images of their concepts, group by group; each is ready after its last one.

    What the network does before the layer is done once for each image, whatever is replaced in whichever split.

    Parameters
    ----------
    opened : list of OpenedSplit
    source : ImagePass
    to : str
        ``mean`` or ``zero``: what the parts are replaced by.

    Yields
    ------
    number : int
        Which of ``opened``.
    measured : dict
        ``images``, for each concept ``paths``, ``effects`` on the logit, ``margins`` (effects on it minus the mean of
        all others) and ``effects_permuted`` ([n, K + 1] as lists): the latter of a split with as many inputs for each
        concept, drawn at random. ``validation``, a digest of the images of each group.
    """
    network, layer = source.network, source.layer
    keys, last = source.with_images(opened)
    plan = source.plan(keys)
    ends = {key: number for number, (key, _) in enumerate(plan)}
    users = {key: [n for n, one in enumerate(opened) if key in one.keys] for key in keys}
    playing, found = {}, {number: [] for number in range(len(opened))}
    loader = source.load([batch for _, batch in plan], "effects")
    for place, ((key, _), (indices, pixels, contents)) in enumerate(zip(plan, loader, strict=True)):
        if len(indices):
            targets = source.targets(indices)
            with network_arithmetic(source.how["precision"], pixels.device):
                behind = Replay(network, layer.module, pixels)
                for number in users[key]:
                    if number not in playing:
                        playing[number] = both_players(layer, opened[number], to)
                    split, permuted = (one.effects(network, layer, behind, targets) for one in playing[number])
                    found[number].append((key, indices, contents, *split, permuted[0]))
        if place == ends[key]:
            for number in (n for n in users[key] if last[n] == key):
                one, batches = opened[number], found.pop(number)
                validation = {source.name(own): _digest(source.images, batches, own) for own in one.keys}
                parts = by_concept(one, batches, source.images)
                yield number, {"validation": validation, "images": parts}
                playing.pop(number, None)


def both_players(layer, opened, to):
    """The Players of a split, and of the same with its inputs given out at random, as many to each concept."""
    split = opened.file.split
    order = permutation(len(split.weight), "effect", split.channel, split.classes)
    permuted = replace(split, division=split.division.permuted(order))
    return [Players(layer, one, opened.rho, to) for one in (split, permuted)]


def by_concept(opened, batches, images):
    """Batches of a split, gathered for each concept: (key, indices, contents, effects, margins, effects permuted)."""
    parts, split = [], opened.file.split
    for keys in opened.groups:
        own = [batch for batch in batches if batch[0] in keys]
        indices = np.concatenate([np.empty(0, int), *(batch[1] for batch in own)]).astype(int)
        nothing, names = torch.empty(0, len(split.concepts) + 1), ("effects", "margins", "effects_permuted")
        values = (torch.cat([nothing, *(batch[which] for batch in own)]).tolist() for which in (3, 4, 5))
        paths = [str(images.path(index).relative_to(images.root)) for index in indices]
        parts.append({"paths": paths, **dict(zip(names, values, strict=True))})
    return parts


def _digest(images, batches, key):
    """Of all images of a group that were measured."""
    own = [batch for batch in batches if batch[0] == key]
    indices = np.concatenate([np.empty(0, int), *(batch[1] for batch in own)]).astype(int)
    return contents_digest(images, indices, np.concatenate([np.empty(0, np.uint64), *(batch[2] for batch in own)]))
