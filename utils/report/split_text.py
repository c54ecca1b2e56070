"""What stage 3 says of a split: what it is made of, how rho was chosen, and that the output stays what it was."""

import sys
from itertools import chain

import torch

from utils.defaults import GAMMA
from utils.divisions.division_registry import DIVISIONS
from utils.method.equality import LARGEST_ERRORS
from utils.method.polysemanticity import cosine_similarities

MOST_PAIRS = 28  # whose cosines are all printed: of eight concepts


def print_how(divided, only_correct, background):
    """Print how all splits of a run are made; ``divided`` says how their inputs are divided."""
    beside = "" if background is None else f"; everything else is a concept of weight {background:g}"
    print(f"{'only correctly classified' if only_correct else 'all'} images; {divided}{beside}")


def print_split(split, members, network, layer):
    """Print what a split is made of, and how its inputs are divided.

    Parameters
    ----------
    split : Split
    members : dict of output -> its training images' indices
    network : LoadedNetwork
    layer : Layer
    """
    print(f"\nchannel {split.channel} of {layer.name} (weights {network.weights})")
    for k, concept in enumerate(split.concepts, start=1):
        count = sum(len(members[output]) for output in concept.classes)
        what = f" {concept.classes}, {count} training images"
        if concept.kind == "images":
            what = f", {len(concept.images)} training images"
        elif concept.kind == "background":
            what = f", all training images{split.division.background_note}"
        print(f"concept {k}: {concept.name}{what}")
    cosines, num_concepts = cosine_similarities(split.arvs), len(split.concepts)
    pairs = {(j, k): float(cosines[j, k]) for j in range(num_concepts) for k in range(j + 1, num_concepts)}
    shown = pairs if len(pairs) <= MOST_PAIRS else sorted({min(pairs, key=pairs.get), max(pairs, key=pairs.get)})
    what = "" if len(pairs) <= MOST_PAIRS else f", the lowest and the highest of {len(pairs)},"
    print(f"cosine of the concepts' ARVs{what} {', '.join(f'{j + 1}-{k + 1}: {pairs[j, k]:.3f}' for j, k in shown)}")
    print(split.division.text())


def print_equality(check):
    """Print how far a split network is from the original."""
    decides, limit = check.precision, LARGEST_ERRORS[check.precision]
    (channel, logits), (channel_fp32, logits_fp32) = check.errors(), check.fp32_errors()
    beside = (f" (fp32: {channel_fp32:.1e})", f" (fp32: {logits_fp32:.1e})") if decides == "fp64" else ("", "")
    print(f"\nmerged channel against the original, c = sum c'_k - (K-1) r, in {decides} (limit {limit:.0e}):")
    print(f"  largest difference {channel:.1e} of its largest value{beside[0]}")
    print(f"logits of the split network against the original's: {logits:.1e} of their range{beside[1]}")
    print(f"predictions that change: {check.changed_predictions} of {check.images} images")


def highest_cosine(split):
    """The highest cosine of the ARVs of two of the concepts that have images of their own; NaN with one alone."""
    cosines = cosine_similarities(split.arvs[: len(split.own_concepts)])
    above = cosines[torch.triu(torch.ones_like(cosines), 1).bool()]
    return float(above.max()) if len(above) else float("nan")


def warn_above_gamma(split, cosine, gamma):
    """Say where two concepts are too alike for the channel to be gamma-polysemantic.

    ``cosine``: the mean one between the classes of the two closest concepts; ``gamma`` may be None.
    """
    gamma = GAMMA if gamma is None else gamma
    if cosine >= gamma:
        print(
            f"warning: channel {split.channel}: two concepts have a mean cosine of {cosine:.3f} between the ARVs of "
            f"their classes, not below gamma {gamma:g}: it may serve both by the same inputs",
            file=sys.stderr,
        )


def print_closing_table(files):
    """Print a line for each of several splits.

    Parameters
    ----------
    files : list of SplitFile
    """
    objectives = list(chain.from_iterable(division.objective_names for division in DIVISIONS.all()))
    header = f"{'channel':>7}  {'cosine':>6}  {'  '.join(f'{name:>8} ' for name in objectives)} {'quality':>7}"
    print(f"\n{f'{len(files)} splits':17}rho by\n{header}  {'changed':>9}  concepts")
    for file in files:
        split, cosine = file.split, f"{highest_cosine(file.split):.3f}".replace("nan", "-")
        best, used = split.division.rhos_by_objective()
        rhos = [
            f"{best[name]:8.2f}{'*' if name == used else ' '}" if name in best else f"{'-':>8} " for name in objectives
        ]
        quality = "-" if split.division.quality() is None else f"{split.division.quality():.4f}"
        changed = f"{file.proof['changed_predictions']} of {file.proof['images']}"
        names = " / ".join(concept.name for concept in split.concepts)
        print(f"{split.channel:7d}  {cosine:>6}  {'  '.join(rhos)} {quality:>7}  {changed:>9}  {names}")
    print(
        "rho by each objective, * the one that was used; quality: the contrast at that rho, at best the number of "
        "concepts;\nchanged: predictions, of the images on which equality was shown"
    )
