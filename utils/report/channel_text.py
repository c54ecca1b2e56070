"""What stage 2 says of channels one by one: which are the best ones, and everything about one of them."""

import math

import numpy as np
import torch

from utils.method.importance import relevant_shares
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities, gamma_polysemantic
from utils.report.layer_tables import counted_text, groups_text, print_list

NEAREST = 10  # classes that a channel is not relevant for, on its page
MOST_IN_MATRIX = 40  # classes


def print_best(pairs, channels, classes, number, shares, images):
    """Print the channels of lowest cosine, the lowest first, and their pairs as the published code does.

    Parameters
    ----------
    pairs : ClassPairs
        Those that were asked for.
    channels : ChannelClasses
    classes : ClassMap
    number : int
        How many channels.
    shares : Tensor [T, C]
        Of a class's images in which a channel is relevant.
    images : Tensor [T]
    """
    best = lowest_pairs(pairs)
    shown = best[:number]
    print(f"\n{len(shown)} of {len(best)} channels with pairs, by the lowest cosine between two of their classes")
    names = [_pair_text(pair, classes) for _, *pair, _ in shown.rows()]
    width = max(map(len, names), default=0)
    if names:
        print(f"{'lowest cosine between':>27}{'of that pair, at least':>39}")
        columns = f"{'classes':>8}  {'concepts':>8}  {'relevant for':>12}  {'share':>6}  {'images':>6}"
        print(f"channel  {columns}  {'pair':{width}}  groups of classes")
    for (channel, *pair, cosine), name in zip(shown.rows(), names, strict=True):
        groups, low = channels.groups_of(channel), channels.low(channel, channels.classes(channel))
        concepts = f"{groups.lowest_cosine():.3f}" if len(groups.concepts) > 1 else "-"
        columns = f"{cosine:8.3f}  {concepts:>8}  {channels.num_classes[channel]:12d}"
        columns += f"  {shares[pair, channel].min():6.2f}  {images[pair].min():6d}  {name:{width}}"
        print(f"{channel:7d}  {columns}  {groups_text(groups, classes)}{f'  low: {low}' if low else ''}")
    print_list(shown)


def lowest_pairs(pairs):
    """The pair of lowest cosine of each channel that has one, the lowest first: ClassPairs."""
    _, last = np.unique(pairs.channel.flip(0).numpy(), return_index=True)
    return pairs[len(pairs) - 1 - np.sort(last)]


def _pair_text(pair, classes):
    return " / ".join(f"{classes.name(output)} {output}" for output in pair)


# --------------------------------------------------------------------------------------------------------------------
# One channel


def print_channel(channel, asked, found, channels, kept, counts, classes):
    """Print everything about a channel: why it is a candidate or not, its classes, their cosines and groups.

    Parameters
    ----------
    channel : int
    asked : dict
        All that stage 2 was asked.
    found : LayerClasses
    channels : ChannelClasses
    kept : ClassPairs
        The candidates.
    counts : LongTensor [T, C]
        Images of a class, of those that count, in which a channel is relevant.
    classes : ClassMap
    """
    images = found.images[0]
    shares = relevant_shares(counts, images)[:, channel]
    print(f"\nchannel {channel} of {asked['model']}, layer {asked['layer']}: {_settings_text(asked)}")
    print("\n".join(why(channel, asked, channels, kept, shares, images, classes)))
    _print_classes(channel, asked, channels, shares, images, classes)
    own = [output for group in channels.groups(channel) for output in group]
    if len(own) > 1:
        arvs = averaged_relevance_vectors(found.weight[channel], found.mean_inputs[0, own])
        _print_cosines(channels.groups_of(channel), own, cosine_similarities(arvs), classes)


def _settings_text(asked):
    low, high = asked["cosines"]
    text = f"tau {asked['tau']:g}, p {asked['p']:g}, gamma {asked['gamma']:g}, {low:g} <= cosine < {high:g}"
    return text + counted_text(asked["only_correct"], asked["min_images"], asked["only_above_mean"])


def why(channel, asked, channels, kept, shares, images, classes):
    """Why a channel is a candidate or not, in lines: by its classes, their pairs, and their groups.

    ``shares`` [T] are of a class's ``images`` [T] in which the channel is relevant; the rest as in ``print_channel``.
    """
    pairs, its = channels.pairs_of(channel), int((kept.channel == channel).sum())
    count, (low, high) = int(channels.num_classes[channel]), asked["cosines"]
    lines = [f"{'a' if its else 'no'} candidate: relevant for {count or 'no'} class{'' if count == 1 else 'es'}"]
    if not len(pairs):
        p = smaller_p(channel, asked, channels, shares, images)
        lines[0] += ", where two are needed" + (f"; with --p {p:g} there would be two" if p else "")
        return lines
    ((_, *pair, cosine),) = pairs[:1].rows()
    lines.append(f"pairs with {low:g} <= cosine < {high:g}: {its} of {len(pairs)}; lowest cosine between classes ")
    lines[-1] += f"{cosine:.3f}, {_pair_text(pair, classes)}"
    below = int((pairs.cosine < low).sum())
    if below:
        lines.append(f"pairs below {low:g}, which are left out: {below}; add --cos_sim_low -1 to keep them")
    groups = channels.groups_of(channel)
    lines.append(f"groups at gamma {asked['gamma']:g}: {len(groups.concepts)}; ")
    if len(groups.concepts) > 1:
        lines[-1] += f"lowest cosine between concepts {groups.lowest_cosine():.3f}"
    elif gamma_polysemantic(cosine, asked["gamma"]):
        lines[-1] += "polysemantic all the same, other classes lie between these two"
    else:
        lines[-1] += "it serves its classes by the same inputs"
    return lines


def smaller_p(channel, asked, channels, shares, images):
    """The largest p, in hundredths, with which a channel would be relevant for two classes; None where none is."""
    counts = images >= asked["min_images"]
    if asked["only_above_mean"]:
        counts &= ~torch.from_numpy(channels.below(channel))
    second = torch.where(counts, shares, 0).sort(descending=True).values[1:2].sum()
    return math.floor(100 * second + 1e-9) / 100 or None


def _print_classes(channel, asked, channels, shares, images, classes):
    """The classes that a channel is relevant for, by concept, and those that came near it."""
    concept_of = {output: k for k, group in enumerate(channels.groups(channel), start=1) for output in group}
    own = sorted(concept_of, key=lambda output: (concept_of[output], -shares[output]))
    by_share = shares.argsort(descending=True, stable=True).tolist()
    others = [output for output in by_share if output not in concept_of and shares[output] > 0]
    shown = own + others[:NEAREST]
    width = max((len(classes.name(output)) for output in shown), default=0)
    if shown:
        print(f"\nshare of images     {'class':>{width + 5}}")
    for output in shown:
        count = f"{round(float(shares[output] * images[output]))} of {images[output]}"
        what = _what_of(output, channel, asked, channels, shares, images, concept_of.get(output))
        print(f"{shares[output]:5.2f} {count:>12}  {classes.name(output):>{width}} {output:4d}  {what}")
    if len(others) > NEAREST:
        print(f"{len(others) - NEAREST} more: shares of at most {shares[others[NEAREST]]:.2f}")
    empty = sum(not images[output] for output in classes.outputs.values())
    without = f"; {empty} without images that count" if empty else ""
    print(f"{int(((shares == 0) & (images > 0)).sum())} more: in none of their images{without}")


def _what_of(output, channel, asked, channels, shares, images, concept):
    """The concept of a class, or why the channel is not relevant for it."""
    below = channels.below(channel)[output]
    if concept is not None:
        return f"concept {concept}" + (f", low {channels.low(channel, [output]).split()[1]}" if below else "")
    reasons = {
        f"share below p {asked['p']:g}": shares[output] < asked["p"],
        f"fewer than {asked['min_images']} images": images[output] < asked["min_images"],
        "below the channel's mean": asked["only_above_mean"] and below,
    }
    return "not relevant: " + ", ".join(reason for reason, holds in reasons.items() if holds)


def _print_cosines(groups, own, cosines, classes):
    """The cosines between a channel's classes, concept by concept, and those between its concepts."""
    numbers = [f"{k:2d}" for k in range(1, len(groups.concepts) + 1)]
    if len(own) > MOST_IN_MATRIX:
        print(f"\n{len(own)} classes are too many for a matrix of their cosines here")
    else:
        width = max(len(classes.name(output)) for output in own)
        concept_of = {output: number for number, concept in zip(numbers, groups.concepts, strict=True)
                      for output in concept}  # fmt: skip
        labels = [f"{concept_of[output]} {classes.name(output):>{width}} {output:4d}" for output in own]
        _print_matrix("classes", labels, own, cosines)
    if len(numbers) > 1:
        _print_matrix("concepts", numbers, numbers, groups.cosines)


def _print_matrix(what, labels, heads, cosines):
    """Cosines below the diagonal."""
    width = len(labels[0])
    print(f"\ncosine between {what}\n{'':{width}}" + "".join(f"{head:>6}" for head in heads[:-1]))
    for row, label in enumerate(labels):
        print(label + "".join(f"{cosine:6.2f}" for cosine in cosines[row, :row].tolist()))
