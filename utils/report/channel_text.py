"""What stage 2 prints of single channels: a table of the best ones, and everything about one of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.images.folders import ClassMap
from utils.method.grouping import ChannelGroups
from utils.method.importance import relevant_shares
from utils.method.order import largest_first
from utils.method.polysemanticity import (
    ClassPairs,
    averaged_relevance_vectors,
    cosine_similarities,
    gamma_polysemantic,
)
from utils.report.layer_tables import ChannelClasses, counted_text, groups_text, print_below, print_list
from utils.stages.relevance import LayerClasses

NEAREST = 10  # classes that a channel is not relevant for, on its page
MOST_IN_MATRIX = 40  # classes


@dataclass(frozen=True)
class LayerFindings:
    """The results of stage 2 for a layer.

    ``settings`` are all that it was run with, ``layer`` and ``channels`` the classes that channels are relevant for,
    and ``candidates`` the pairs that are kept. ``counts`` [T, C] are the images of a class, of those that count, in
    which a channel is relevant.
    """

    settings: dict[str, Any]
    layer: LayerClasses
    channels: ChannelClasses
    candidates: ClassPairs
    counts: Tensor
    classes: ClassMap

    @property
    def images(self) -> Tensor:
        """Number of images of each class that count, [T]."""
        return self.layer.images[0]

    @cached_property
    def shares(self) -> Tensor:
        """The share of a class's images in which a channel is relevant, [T, C]."""
        return relevant_shares(self.counts, self.images)


# --------------------------------------------------------------------------------------------------------------------
# The best channels


def print_best(findings: LayerFindings, number: int) -> None:
    """Print the ``number`` channels of lowest cosine, the lowest first, and their pairs as the published code does."""
    best = lowest_pairs(findings.candidates)
    shown = best[:number]
    order = "in the order of the lowest cosine between two of their classes"
    print(f"\n{len(shown)} of {len(best)} channels with pairs, {order}")
    names = [_pair_text(class1, class2, findings.classes) for _, class1, class2, _ in shown.rows()]
    width = max(map(len, names), default=0)
    if names:
        print(f"{'lowest cosine between':>27}{'lower of the two':>36}")
        columns = f"{'classes':>8}  {'concepts':>8}  {'relevant for':>12}  {'share':>6}  {'images':>6}"
        print(f"channel  {columns}  {'pair':{width}}  groups of classes")
    channels = findings.channels
    for (channel, class1, class2, cosine), name in zip(shown.rows(), names, strict=True):
        groups = channels.groups_of(channel)
        concepts = f"{groups.lowest_cosine():.3f}" if len(groups.concepts) > 1 else "-"
        share = findings.shares[[class1, class2], channel].min()
        images = findings.images[[class1, class2]].min()
        low = channels.low(channel, channels.classes(channel))
        columns = f"{cosine:8.3f}  {concepts:>8}  {channels.num_classes[channel]:12d}  {share:6.2f}  {images:6d}"
        groups_and_low = groups_text(groups, findings.classes) + (f"  low: {low}" if low else "")
        print(f"{channel:7d}  {columns}  {name:{width}}  {groups_and_low}")
    print_below(channels, findings.settings["cosines"][0], findings.classes)
    print_list(shown)


def lowest_pairs(pairs: ClassPairs) -> ClassPairs:
    """The pair of lowest cosine of each channel that has a pair, the lowest first."""
    _, last = np.unique(pairs.channel.flip(0).numpy(), return_index=True)
    return pairs[torch.from_numpy(len(pairs) - 1 - np.sort(last))]


def _pair_text(class1: int, class2: int, classes: ClassMap) -> str:
    return f"{classes.name(class1)} {class1} / {classes.name(class2)} {class2}"


# --------------------------------------------------------------------------------------------------------------------
# One channel


def print_channel(channel: int, findings: LayerFindings) -> None:
    """Print everything about a channel: why it is a candidate or not, its classes, their cosines and groups."""
    settings = findings.settings
    print(f"\nchannel {channel} of {settings['model']}, layer {settings['layer']}: {_settings_text(settings)}")
    print("\n".join(why(channel, findings)))
    _print_classes(channel, findings)
    outputs = [output for group in findings.channels.groups(channel) for output in group]
    if len(outputs) > 1:
        layer = findings.layer
        arvs = averaged_relevance_vectors(layer.weight[channel], layer.mean_inputs[0, outputs])
        _print_cosines(findings.channels.groups_of(channel), outputs, cosine_similarities(arvs), findings.classes)


def _settings_text(settings: dict[str, Any]) -> str:
    low, high = settings["cosines"]
    text = f"tau {settings['tau']:g}, p {settings['p']:g}, gamma {settings['gamma']:g}, {low:g} <= cosine < {high:g}"
    return text + counted_text(settings["only_correct"], settings["min_images"], settings["only_above_mean"])


def why(channel: int, findings: LayerFindings) -> list[str]:
    """Why a channel is a candidate or not, in lines: by its classes, their pairs, and their groups."""
    pairs = findings.channels.pairs_of(channel)
    num_kept = int((findings.candidates.channel == channel).sum())
    count = int(findings.channels.num_classes[channel])
    line = f"{'a' if num_kept else 'no'} candidate: relevant for {count or 'no'} class{'' if count == 1 else 'es'}"
    if not len(pairs):
        p = smaller_p(channel, findings)
        return [line + ", but two are needed" + (f"; with --p {p:g} there would be two" if p else "")]
    low, high = findings.settings["cosines"]
    _, class1, class2, lowest = next(pairs[:1].rows())
    lines = [
        line,
        f"pairs with {low:g} <= cosine < {high:g}: {num_kept} of {len(pairs)}; lowest cosine between classes "
        f"{lowest:.3f}, {_pair_text(class1, class2, findings.classes)}",
    ]
    below = int((pairs.cosine < low).sum())
    if below:
        lines.append(f"pairs below {low:g}, which are left out: {below}; add --cos_sim_low -1 to keep them")
    gamma = findings.settings["gamma"]
    groups = findings.channels.groups_of(channel)
    if len(groups.concepts) > 1:
        reason = f"lowest cosine between concepts {groups.lowest_cosine():.3f}"
    elif gamma_polysemantic(lowest, gamma):
        reason = "polysemantic, but other classes connect these two"
    else:
        reason = "it serves its classes by the same inputs"
    return [*lines, f"groups at gamma {gamma:g}: {len(groups.concepts)}; {reason}"]


def smaller_p(channel: int, findings: LayerFindings) -> float | None:
    """The largest p, in hundredths, at which a channel would be relevant for two classes; None if there is none."""
    does_count = findings.images >= findings.settings["min_images"]
    if findings.settings["only_above_mean"]:
        does_count &= ~torch.from_numpy(findings.channels.below(channel))
    shares = torch.where(does_count, findings.shares[:, channel], 0).sort(descending=True).values
    return math.floor(100 * shares[1:2].sum() + 1e-9) / 100 or None


def _print_classes(channel: int, findings: LayerFindings) -> None:
    """Print the classes that a channel is relevant for, by concept, and those that come nearest to it."""
    shares = findings.shares[:, channel]
    images = findings.images
    groups = findings.channels.groups(channel)
    concept_of = {output: k for k, group in enumerate(groups, start=1) for output in group}
    relevant = sorted(concept_of, key=lambda output: (concept_of[output], -shares[output]))
    by_share = largest_first(shares).tolist()
    others = [output for output in by_share if output not in concept_of and shares[output] > 0]
    shown = relevant + others[:NEAREST]
    width = max((len(findings.classes.name(output)) for output in shown), default=0)
    if shown:
        print(f"\nshare of images     {'class':>{width + 5}}")
    for output in shown:
        count = f"{round(float(shares[output] * images[output]))} of {images[output]}"
        note = _class_note(output, channel, findings, concept_of.get(output))
        print(f"{shares[output]:5.2f} {count:>12}  {findings.classes.name(output):>{width}} {output:4d}  {note}")
    if len(others) > NEAREST:
        print(f"{len(others) - NEAREST} more classes: shares of at most {shares[others[NEAREST]]:.2f}")
    empty = sum(not images[output] for output in findings.classes.outputs.values())
    without = f"; {empty} without images that count" if empty else ""
    print(f"{int(((shares == 0) & (images > 0)).sum())} more classes: relevant in none of their images{without}")


def _class_note(output: int, channel: int, findings: LayerFindings, concept: int | None) -> str:
    """The concept of a class, or why the channel is not relevant for it."""
    settings = findings.settings
    is_below = findings.channels.below(channel)[output]
    if concept is not None:
        sign = f", low {findings.channels.low(channel, [output]).split()[1]}" if is_below else ""
        return f"concept {concept}{sign}"
    reasons = []
    if findings.shares[output, channel] < settings["p"]:
        reasons.append(f"share below p {settings['p']:g}")
    if findings.images[output] < settings["min_images"]:
        reasons.append(f"fewer than {settings['min_images']} images")
    if settings["only_above_mean"] and is_below:
        reasons.append("below the channel's mean")
    return f"not relevant: {', '.join(reasons)}"


def _print_cosines(groups: ChannelGroups, outputs: list[int], cosines: Tensor, classes: ClassMap) -> None:
    """Print the cosines between a channel's classes, concept by concept, and those between its concepts."""
    numbers = [f"{k:2d}" for k in range(1, len(groups.concepts) + 1)]
    if len(outputs) > MOST_IN_MATRIX:
        print(f"\n{len(outputs)} classes are too many for a matrix of their cosines here")
    else:
        width = max(len(classes.name(output)) for output in outputs)
        labels = [
            f"{number} {classes.name(output):>{width}} {output:4d}"
            for number, concept in zip(numbers, groups.concepts, strict=True)
            for output in concept
        ]
        _print_matrix("classes", labels, outputs, cosines)
    if len(numbers) > 1:
        _print_matrix("concepts", numbers, numbers, groups.cosines)


def _print_matrix(kind: str, labels: list[str], heads: Sequence[int | str], cosines: Tensor) -> None:
    """Print the cosines below the diagonal."""
    width = len(labels[0])
    print(f"\ncosine between {kind}\n{'':{width}}" + "".join(f"{head:>6}" for head in heads[:-1]))
    for row, label in enumerate(labels):
        print(label + "".join(f"{cosine:6.2f}" for cosine in cosines[row, :row].tolist()))
