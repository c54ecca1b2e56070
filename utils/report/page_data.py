"""What the report says of a layer and of each of its polysemantic channels, for the templates of its pages."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from utils.errors import printable
from utils.images.folders import ClassMap
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities, gamma_polysemantic
from utils.report import page_svg
from utils.report.gamma_guide import PRINTED, has_anything, lines_of
from utils.report.layer_tables import ChannelClasses, settings_text
from utils.report.page_splits import describe_split
from utils.report.verdicts import mean_separation, verdict
from utils.stages.relevance import LayerClasses

NEAREST = 8  # classes that a channel is not relevant for
MOST_IN_MATRIX = 60


@dataclass
class KnownLayer:
    """What stages 1 to 4 have left of a layer.

    ``settings`` are those of stage 2 whose ``found`` channels are shown; ``counts`` [T, C] says in how many images
    that count a channel is relevant; ``guide`` is what there is to go by for gamma, or None; ``splits`` has the
    KnownSplits of each channel, the one first that is shown.
    """

    meta: dict
    settings: dict
    classes: ClassMap
    found: LayerClasses
    counts: torch.Tensor
    guide: dict | None
    splits: dict

    @cached_property
    def channels(self):
        return ChannelClasses(self.found.relevant, self.found.pairs, self.found.groups, self.found.levels)

    @cached_property
    def polysemantic(self):
        """Channels, lowest cosine first."""
        return self.channels.polysemantic(self.settings["gamma"])

    @property
    def shown(self):
        """The channels that have a page: all polysemantic ones, and others that somebody has split by their classes."""
        others = {channel for channel in self.splits if self.first_split(channel)} - set(self.polysemantic)
        return [*self.polysemantic, *sorted(others)]

    def first_split(self, channel):
        """The split of a channel whose new channels are shown, or None: those without labels are only listed."""
        return next((one for one in self.splits.get(channel, ()) if one.kind in ("groups", "pair")), None)

    def concept_of(self, channel):
        """Which concept of its first split, or else which group, a class is of, from 0: {output: k}."""
        split = self.first_split(channel)
        if split is not None:
            return split.concept_of()
        return {output: k for k, group in enumerate(self.channels.groups(channel)) for output in group}

    @cached_property
    def shares(self):
        """In what share of each class's images a channel is relevant: [T, C]; NaN for classes without images."""
        images = self.found.images[0].double()[:, None]
        return torch.where(images > 0, self.counts / images, torch.nan)

    def settings_text(self):
        names = ("tau", "p", "only_correct", "min_images", "only_above_mean")
        return f"{settings_text(**{name: self.settings[name] for name in names})}, γ = {self.settings['gamma']:g}"


def units_of(known):
    """The units that patches are shown of: ``rows`` [U, C_in, taps], ``biases`` [U] or None, and {channel: places}.

    Of each channel the original one comes first, then ``c'_1 .. c'_K`` of its first split.
    """
    rows, places = [], {}
    for channel in known.shown:
        first = known.first_split(channel)
        own = known.found.weight[channel][None] if first is None else first.split.shown_rows(first.rho)
        places[channel] = range(len(rows), len(rows) + len(own))
        rows += own.float()
    if not rows:
        return torch.empty(0), None, places
    biases = None
    if known.found.bias is not None:
        biases = torch.cat([known.found.bias[channel].expand(len(own)) for channel, own in places.items()])
    return torch.stack(rows), biases, places


# --------------------------------------------------------------------------------------------------------------------
# Channels


def describe_channel(known, channel, strips, output_dir, commands, pictures):
    """What the table and the page of a channel say.

    Parameters
    ----------
    known : KnownLayer
    channel : int
    strips : list of Strip
        Of the original channel, and of the new ones of its first split.
    output_dir : Path
    commands : Commands
    pictures : Pictures
    """
    splits, groups = known.splits.get(channel, []), known.channels.groups(channel)
    first = known.first_split(channel)
    rows = None if first is None else first.separation
    mean = mean_separation(rows)
    pairs = known.channels.pairs_of(channel)
    lowest = float(pairs.cosine.min()) if len(pairs) else np.nan
    own = known.channels.classes(channel)
    shares = [float(known.shares[output, channel]) for output in own]
    is_polysemantic = bool(gamma_polysemantic(np.nan_to_num(lowest, nan=np.inf), known.settings["gamma"]))
    concept_of = known.concept_of(channel)
    units = [{"label": "original channel", "style": "original", "symbol": "c"}]
    if first is not None:
        units += [
            {"label": label, "style": style, "symbol": f"c'{k}"}
            for k, (label, style) in enumerate(zip(first.labels(), first.styles(), strict=True), start=1)
        ]
    return {
        "channel": channel,
        "file": f"channel_{channel}.html",
        "groups": [
            {"number": k + 1, "style": page_svg.style_of(k), "names": [known.classes.name(output) for output in group]}
            for k, group in enumerate(groups)
        ],
        "num_classes": len(own),
        "cosine": lowest,
        "shares": (min(shares), max(shares)) if shares else None,
        "verdict": verdict(len(groups), is_polysemantic, first is not None, rows),
        "separation": mean,
        "bar": None if np.isnan(mean.after) else page_svg.before_after(mean.before, mean.after, mean.null),
        "low": known.channels.low(channel, own),
        "units": [
            {**unit, "src": strip.src, "patches": _patches(strip, concept_of, known.classes)}
            for unit, strip in zip(units, strips, strict=True)
        ],
        "shown_split": None if first is None else first.how,
        "classes": class_rows(known, channel, concept_of),
        "matrix": _matrix(known, channel),
        "splits": [describe_split(one, output_dir, commands, pictures) for one in splits],
        "split_command": commands.split_channel(channel, len(groups) > 1),
    }


def _patches(strip, concept_of, classes):
    """A picture each: its place in the strip, its concept's style and number, and what it shows in words."""
    shown = []
    for place, (output, value, path) in enumerate(strip.images):
        k = concept_of.get(output)
        words = f"rank {place + 1}: {classes.name(output)}, activation {value:.3g}"
        style, number = ("other", None) if k is None else (page_svg.style_of(k), k + 1)
        words += "" if number is None else f", concept {number}"
        shown.append({"place": place, "style": style, "number": number, "alt": words, "path": printable(path)})
    return shown


def class_rows(known, channel, concept_of):
    """A row for each class that a channel is relevant for, and for those that come nearest: highest share first."""
    shares, images = known.shares[:, channel], known.found.images[0]
    own = set(known.channels.classes(channel))
    order = torch.argsort(torch.nan_to_num(shares, nan=-1), descending=True, stable=True).tolist()
    nearest = [output for output in order if output not in own and shares[output] > 0][:NEAREST]
    low = {int(output) for output in torch.nonzero(known.found.levels.below[:, channel]).flatten()}
    rows, p = [], known.settings["p"]
    for output in [*(output for output in order if output in own), *nearest]:
        k, share = concept_of.get(output), float(shares[output])
        style = "other" if k is None else page_svg.style_of(k)
        rows.append(
            {
                "output": output,
                "folder": printable(known.classes.folder(output)),
                "name": known.classes.name(output),
                "number": None if k is None else k + 1,
                "style": style,
                "relevant": output in own,
                "why": _why_not(known, output, share, output in low) if output not in own else "",
                "low": output in low,
                "share": share,
                "images": int(images[output]),
                "bar": page_svg.share_bar(share, p, style if output in own else "faint"),
            }
        )
    return rows


def _why_not(known, output, share, is_low):
    if known.found.images[0, output] < known.settings["min_images"]:
        return f"fewer than {known.settings['min_images']} images"
    if share < known.settings["p"]:
        return "below p"
    return "below the channel's mean" if is_low and known.settings["only_above_mean"] else ""


def _matrix(known, channel):
    """The drawing of the cosines of a channel's classes; None with fewer than two; of many those of highest share."""
    classes = known.channels.classes(channel)
    if len(classes) < 2:
        return None
    if len(classes) > MOST_IN_MATRIX:
        by_share = sorted(classes, key=lambda output: -known.shares[output, channel])
        classes = sorted(by_share[:MOST_IN_MATRIX])
    arvs = averaged_relevance_vectors(known.found.weight[channel], known.found.mean_inputs[0][classes])
    group_of = {output: k for k, group in enumerate(known.channels.groups(channel)) for output in group}
    names = [known.classes.name(output) for output in classes]
    groups = [group_of[output] for output in classes]
    return page_svg.cosine_matrix(cosine_similarities(arvs), groups, names, known.settings["gamma"])


def best_first(channels):
    """Descriptions of channels in the order in which they are worth looking at.

    Those whose splits are better founded first, then what is most above permuted weights, then the lowest cosine.
    """

    def key(one):
        gain, cosine = one["separation"].gain, one["cosine"]
        return one["verdict"].rank, -np.nan_to_num(gain, nan=-1), np.nan_to_num(cosine, nan=1), one["channel"]

    return sorted(channels, key=key)


def table_data(channels):
    """What sorting and filtering in a browser needs: a dictionary for each channel, null where there is no value."""

    def plain(value):
        return None if np.isnan(value) else round(value, 4)

    return [
        {
            "channel": one["channel"],
            "best": place,
            "text": " ".join(
                [str(one["channel"]), *(name for group in one["groups"] for name in group["names"])]
            ).lower(),
            "cosine": plain(one["cosine"]),
            "share": None if one["shares"] is None else plain(one["shares"][0]),
            "before": plain(one["separation"].before),
            "after": plain(one["separation"].after),
            "gain": plain(one["separation"].gain),
            "groups": len(one["groups"]),
        }
        for place, one in enumerate(channels)
    ]


# --------------------------------------------------------------------------------------------------------------------
# The layer


def describe_layer(known):
    """Counts of the layer at a glance, and what there is to go by for gamma."""
    channels, counts = known.channels, np.bincount(np.minimum(known.channels.num_classes, 3), minlength=4)
    pairs = known.found.pairs
    under = gamma_polysemantic(pairs.cosine, known.settings["gamma"])
    one_group = sum(len(channels.groups(channel)) == 1 for channel in known.polysemantic)
    return {
        "counts": counts.tolist(),
        "total": len(channels),
        "pairs": len(pairs),
        "pairs_under": int(under.sum()),
        "polysemantic": len(known.polysemantic),
        "several": len(channels.several_groups()),
        "one_group": one_group,
        "split": sum(known.first_split(channel) is not None for channel in known.polysemantic),
        "low": channels.num_low(),
        "relevant": int(channels.relevant.sum()),
        "gamma": _gamma(known),
    }


def _gamma(known):
    guide = known.guide
    if guide is None or not has_anything(guide):
        return None
    places = [guide["clean"]["gamma"].index(one) for one in PRINTED]
    lines = {name: [values[place] for place in places] for name, values in lines_of(guide).items()}
    return {"noise": guide["noise_floor"], "modes": guide["modes"], "gammas": PRINTED, "lines": lines}
