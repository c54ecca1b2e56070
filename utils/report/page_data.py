"""What the report shows of a layer and of each of its polysemantic channels, for the templates of its pages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from markupsafe import Markup

from utils.errors import printable
from utils.images.folders import ClassMap
from utils.method.order import largest_first
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities, gamma_polysemantic
from utils.report import page_svg
from utils.report.gamma_guide import PRINTED, has_anything, lines_of
from utils.report.image_set_text import ScoredSplit, count_in_words, score_in_words
from utils.report.layer_tables import ChannelClasses, settings_text
from utils.report.page_commands import Commands
from utils.report.page_splits import MeasuredSplit, describe_split
from utils.report.page_writer import Pictures, Strip
from utils.report.separation_headline import Headline, headline, mean_separation
from utils.report.verdicts import verdict
from utils.stages.image_set_nulls import ImageSetScores
from utils.stages.relevance import LayerClasses
from utils.store.candidates import CRITERIA
from utils.store.separations import judged_together

NEAREST = 8  # classes that a channel is not relevant for
MOST_IN_MATRIX = 60
MOST_UNLABELLED = 50  # channels that are split without labels alone, up to which each has a page
MOST_STRIPS = 1000  # of new channels without labels


@dataclass(frozen=True)
class ReportedLayer:
    """The stored results of stages 1 to 4 for a layer.

    ``settings`` are those of stage 2, which gave ``layer_classes``. ``counts`` [T, C] is the number of images, of those
    that count, in which a channel is relevant. ``guide`` has the diagnostics for choosing gamma, or is None. ``splits``
    has the KnownSplits of each channel; the first one is the one that is shown. ``accuracy`` is the share of the
    training images that are classified correctly.
    """

    meta: dict
    settings: dict
    classes: ClassMap
    layer_classes: LayerClasses
    counts: torch.Tensor
    guide: dict | None
    splits: dict[int, list[MeasuredSplit]]
    accuracy: float

    @cached_property
    def channels(self) -> ChannelClasses:
        layer = self.layer_classes
        return ChannelClasses(layer.relevant, layer.pairs, layer.groups, layer.levels)

    @cached_property
    def polysemantic(self) -> list[int]:
        """Channels, lowest cosine first."""
        return self.channels.polysemantic(self.settings["gamma"])

    @property
    def shown(self) -> list[int]:
        """The channels that have a page: all polysemantic ones, then others that were split.

        A whole layer that was split without labels would hide these: its other channels are left out.
        """
        others = {channel for channel in self.splits if self.first_split(channel)} - set(self.polysemantic)
        unlabelled = set(self.splits) - others - set(self.polysemantic)
        return [*self.polysemantic, *sorted(others | (unlabelled if len(unlabelled) <= MOST_UNLABELLED else set()))]

    @property
    def unlabelled(self) -> list[MeasuredSplit]:
        """The splits without labels of the channels that have a page, in the order of the pages."""
        return [split for channel in self.shown for split in self.splits.get(channel, ()) if split.kind == "images"]

    def first_split(self, channel: int) -> MeasuredSplit | None:
        """The split of a channel whose new channels are shown, or None: splits without labels are only listed."""
        return next((split for split in self.splits.get(channel, ()) if split.kind in ("groups", "pair")), None)

    def headline(self) -> Headline | None:
        """Of the splits whose new channels are shown; None if none of them was measured."""
        firsts = [self.first_split(channel) for channel in self.shown]
        rows = [row for split in firsts if split is not None for row in split.separation or ()]
        return headline(judged_together(rows))

    def concept_of(self, channel: int) -> dict[int, int]:
        """The concept of each class in the first split, else its group, from 0: {output: k}."""
        split = self.first_split(channel)
        if split is not None:
            return split.concept_of()
        return {output: k for k, group in enumerate(self.channels.groups(channel)) for output in group}

    @cached_property
    def shares(self) -> torch.Tensor:
        """The share of each class's images in which a channel is relevant: [T, C]; NaN for classes without images."""
        images = self.layer_classes.images[0].double()[:, None]
        return torch.where(images > 0, self.counts / images, torch.nan)

    def settings_text(self) -> str:
        return f"{settings_text(**{name: self.settings[name] for name in CRITERIA})}, γ = {self.settings['gamma']:g}"


class ShownUnits(NamedTuple):
    """Units whose patches are shown: ``rows`` float32 [U, C_in, taps], ``biases`` [U] or None.

    ``of_channels`` has the units, of 0 ... U - 1, of each channel, ``of_splits`` those of splits without labels, by
    their paths.
    """

    rows: torch.Tensor
    biases: torch.Tensor | None
    of_channels: dict[int, range]
    of_splits: dict[Path, range]


def units_of(layer: ReportedLayer) -> ShownUnits:
    """The units of each channel that is shown: the original channel, then ``c'_1 .. c'_K`` of its first split.

    Of splits without labels those that come first have units, too: ``c'_1 .. c'_K``.
    """
    rows: list[torch.Tensor] = []
    channels: list[int] = []
    units = {}
    for channel in layer.shown:
        first = layer.first_split(channel)
        of_channel = layer.layer_classes.weight[channel][None] if first is None else first.split.shown_rows(first.rho)
        units[channel] = range(len(rows), len(rows) + len(of_channel))
        rows += of_channel.float()
        channels += [channel] * len(of_channel)
    of_splits = {}
    num_strips = 0
    for measured in layer.unlabelled:
        of_split = measured.split.shown_rows(measured.rho)[1:]
        num_strips += len(of_split)
        if num_strips > MOST_STRIPS:
            break
        of_splits[measured.path] = range(len(rows), len(rows) + len(of_split))
        rows += of_split.float()
        channels += [measured.split.channel] * len(of_split)
    if not rows:
        return ShownUnits(torch.empty(0), None, units, of_splits)
    bias = layer.layer_classes.bias
    return ShownUnits(torch.stack(rows), None if bias is None else bias[channels], units, of_splits)


class UnlabelledSplit(NamedTuple):
    """What a page shows of a split without labels: ``strips`` of ``c'_1 .. c'_K``, which may be empty, and its
    ``scores`` beside permuted weights, or None."""

    strips: list[Strip]
    scores: ImageSetScores | None


# --------------------------------------------------------------------------------------------------------------------
# Channels


def describe_channel(
    layer: ReportedLayer,
    channel: int,
    strips: list[Strip],
    *,
    of_splits: dict[Path, UnlabelledSplit],
    output_dir: Path | str,
    commands: Commands,
    pictures: Pictures,
) -> dict:
    """The values that the table and the page of a channel show.

    Parameters
    ----------
    layer
    channel
    strips
        Strips of the original channel, and of the new ones of its first split.
    of_splits
        What is shown of splits without labels, by their paths.
    output_dir, commands, pictures
        As in ``describe_split``.
    """
    groups = layer.channels.groups(channel)
    classes = layer.channels.classes(channel)
    shares = [float(layer.shares[output, channel]) for output in classes]
    pairs = layer.channels.pairs_of(channel)
    lowest = float(pairs.cosine.min()) if len(pairs) else np.nan
    is_polysemantic = bool(gamma_polysemantic(np.nan_to_num(lowest, nan=np.inf), layer.settings["gamma"]))
    first = layer.first_split(channel)
    rows = None if first is None else first.separation
    mean = mean_separation(rows)
    concept_of = layer.concept_of(channel)
    return {
        "channel": channel,
        "file": f"channel_{channel}.html",
        "groups": [
            {"number": k + 1, "style": page_svg.style_of(k), "names": [layer.classes.name(output) for output in group]}
            for k, group in enumerate(groups)
        ],
        "num_classes": len(classes),
        "cosine": lowest,
        "shares": (min(shares), max(shares)) if shares else None,
        "verdict": verdict(len(groups), is_polysemantic, first is not None, rows),
        "separation": mean,
        "bar": None if np.isnan(mean.after) else page_svg.before_after(mean.before, mean.after, mean.null),
        "low": layer.channels.low(channel, classes),
        "units": [
            {**unit, "src": strip.src, "patches": _patches(strip, concept_of, layer.classes)}
            for unit, strip in zip(_units(first), strips, strict=True)
        ],
        "shown_split": None if first is None else first.how_divided,
        "classes": class_rows(layer, channel, concept_of),
        "matrix": _matrix(layer, channel),
        "splits": [
            {
                **describe_split(split, output_dir, commands, pictures, scores=_scores_of(of_splits.get(split.path))),
                **_describe_unlabelled(split, of_splits.get(split.path), layer.classes),
            }
            for split in layer.splits.get(channel, [])
        ],
        "split_command": commands.split_channel(channel, len(groups) > 1),
    }


def _scores_of(shown: UnlabelledSplit | None) -> ImageSetScores | None:
    return None if shown is None else shown.scores


def _describe_unlabelled(split: MeasuredSplit, shown: UnlabelledSplit | None, classes: ClassMap) -> dict:
    """What a page shows of a split without labels besides: patches, and concepts beside permuted weights."""
    strips = [] if shown is None else shown.strips
    styles = split.styles()
    return {
        "count": count_in_words([ScoredSplit.of(split.opened.file, _scores_of(shown))]),
        "units": [
            {
                "label": label,
                "style": styles[k],
                "symbol": f"c'{k + 1}",
                "src": strip.src,
                "patches": _patches(strip, {}, classes),
            }
            for k, (label, strip) in enumerate(zip(split.labels(_scores_of(shown)), strips, strict=False))
        ],
        "scores": None
        if shown is None or shown.scores is None
        else [score_in_words(shown.scores, k) for k in range(len(shown.scores.classes))],
    }


def _units(first: MeasuredSplit | None) -> list[dict[str, str]]:
    """The label, style and symbol of a channel, and of the new channels of its first split."""
    units = [{"label": "original channel", "style": "original", "symbol": "c"}]
    if first is not None:
        units += [
            {"label": label, "style": style, "symbol": f"c'{k}"}
            for k, (label, style) in enumerate(zip(first.labels(), first.styles(), strict=True), start=1)
        ]
    return units


def _patches(strip: Strip, concept_of: dict[int, int], classes: ClassMap) -> list[dict]:
    """A dictionary for each patch: its position in the strip, its concept's style and number, and what it shows."""
    patches = []
    for position, (output, value, path) in enumerate(strip.images):
        k = concept_of.get(output)
        words = f"rank {position + 1}: {classes.name(output)}, activation {value:.3g}"
        patches.append(
            {
                "place": position,
                "style": "other" if k is None else page_svg.style_of(k),
                "number": None if k is None else k + 1,
                "alt": words if k is None else f"{words}, concept {k + 1}",
                "path": printable(path),
            }
        )
    return patches


def class_rows(layer: ReportedLayer, channel: int, concept_of: dict[int, int]) -> list[dict]:
    """A row for each class that a channel is relevant for, then for those that come nearest: highest share first."""
    shares = layer.shares[:, channel]
    relevant = set(layer.channels.classes(channel))
    order = largest_first(torch.nan_to_num(shares, nan=-1)).tolist()
    nearest = [output for output in order if output not in relevant and shares[output] > 0][:NEAREST]
    low = {int(output) for output in torch.nonzero(layer.layer_classes.levels.below[:, channel]).flatten()}
    rows = []
    for output in [*(output for output in order if output in relevant), *nearest]:
        k = concept_of.get(output)
        share = float(shares[output])
        style = "other" if k is None else page_svg.style_of(k)
        rows.append(
            {
                "output": output,
                "folder": printable(layer.classes.folder(output)),
                "name": layer.classes.name(output),
                "number": None if k is None else k + 1,
                "style": style,
                "relevant": output in relevant,
                "why": _why_not(layer, output, share, output in low) if output not in relevant else "",
                "low": output in low,
                "share": share,
                "images": int(layer.layer_classes.images[0][output]),
                "bar": page_svg.share_bar(share, layer.settings["p"], style if output in relevant else "faint"),
            }
        )
    return rows


def _why_not(layer: ReportedLayer, output: int, share: float, is_low: bool) -> str:
    if layer.layer_classes.images[0, output] < layer.settings["min_images"]:
        return f"fewer than {layer.settings['min_images']} images"
    if share < layer.settings["p"]:
        return "below p"
    return "below the channel's mean" if is_low and layer.settings["only_above_mean"] else ""


def _matrix(layer: ReportedLayer, channel: int) -> Markup | None:
    """The drawing of the cosines of a channel's classes; None with fewer than two; of many those of highest share."""
    classes = layer.channels.classes(channel)
    if len(classes) < 2:
        return None
    if len(classes) > MOST_IN_MATRIX:
        by_share = sorted(classes, key=lambda output: -layer.shares[output, channel])
        classes = sorted(by_share[:MOST_IN_MATRIX])
    arvs = averaged_relevance_vectors(layer.layer_classes.weight[channel], layer.layer_classes.mean_inputs[0][classes])
    group_of = {output: k for k, group in enumerate(layer.channels.groups(channel)) for output in group}
    names = [layer.classes.name(output) for output in classes]
    groups = [group_of[output] for output in classes]
    return page_svg.cosine_matrix(cosine_similarities(arvs), groups, names, layer.settings["gamma"])


def best_first(channels: list[dict]) -> list[dict]:
    """Descriptions of channels, sorted by the rank of their verdicts.

    Channels of the same rank are sorted by their gain over the null, then by their lowest cosine.
    """

    def key(channel: dict) -> tuple:
        gain = np.nan_to_num(channel["separation"].gain, nan=-1)
        cosine = np.nan_to_num(channel["cosine"], nan=1)
        return channel["verdict"].rank, -gain, cosine, channel["channel"]

    return sorted(channels, key=key)


def table_data(channels: list[dict]) -> list[dict]:
    """Values by which a browser sorts and filters: a dictionary for each channel, None for a missing value."""

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else round(value, 4)

    return [
        {
            "channel": channel["channel"],
            "best": position,
            "text": " ".join(
                [str(channel["channel"]), *(name for group in channel["groups"] for name in group["names"])]
            ).lower(),
            "cosine": plain(channel["cosine"]),
            "share": None if channel["shares"] is None else plain(channel["shares"][0]),
            "before": plain(channel["separation"].before),
            "after": plain(channel["separation"].after),
            "gain": plain(channel["separation"].gain),
            "groups": len(channel["groups"]),
        }
        for position, channel in enumerate(channels)
    ]


# --------------------------------------------------------------------------------------------------------------------
# The layer


def describe_layer(layer: ReportedLayer) -> dict:
    """Counts of the layer at a glance, and diagnostics for choosing gamma."""
    channels = layer.channels
    counts = np.bincount(np.minimum(channels.num_classes, 3), minlength=4)
    pairs = layer.layer_classes.pairs
    under = gamma_polysemantic(pairs.cosine, layer.settings["gamma"])
    one_group = sum(len(channels.groups(channel)) == 1 for channel in layer.polysemantic)
    return {
        "counts": counts.tolist(),
        "total": len(channels),
        "pairs": len(pairs),
        "pairs_under": int(under.sum()),
        "polysemantic": len(layer.polysemantic),
        "several": len(channels.several_groups()),
        "one_group": one_group,
        "split": sum(layer.first_split(channel) is not None for channel in layer.polysemantic),
        "low": channels.num_low(),
        "relevant": int(channels.relevant.sum()),
        "gamma": _gamma(layer),
    }


def _gamma(layer: ReportedLayer) -> dict | None:
    guide = layer.guide
    if guide is None or not has_anything(guide):
        return None
    printed = [guide["clean"]["gamma"].index(gamma) for gamma in PRINTED]
    lines = {name: [values[position] for position in printed] for name, values in lines_of(guide).items()}
    return {"noise": guide["noise_floor"], "modes": guide["modes"], "gammas": PRINTED, "lines": lines}
