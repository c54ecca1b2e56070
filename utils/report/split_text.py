"""What stage 3 prints of a split: its concepts, how rho was chosen, and that the output of the network is unchanged."""

import sys

import torch

from utils.defaults import GAMMA
from utils.divisions.division import Divider
from utils.divisions.division_registry import DIVISIONS
from utils.method.disentangling import Concept, GroupKey, Split
from utils.method.equality import LARGEST_ERRORS, EqualityCheck
from utils.method.polysemanticity import cosine_similarities
from utils.networks.opened_network import OpenedNetwork
from utils.report.numbers import HYPHEN, formatted
from utils.stages.concept_images import ReadingPlan
from utils.store.splits import SplitFile

MOST_PAIRS = 28  # whose cosines are all printed: of eight concepts


def print_how(divided: str, only_correct: bool, background: float | None) -> None:
    """Print how all splits of a run are made; ``divided`` describes how their inputs are divided."""
    note = "" if background is None else f"; everything else is a concept of weight {background:g}"
    print(f"{'only correctly classified' if only_correct else 'all'} images; {divided}{note}")


def print_reading(plan: ReadingPlan, divider: Divider, num_at_once: int) -> None:
    """Print how many images a run will read, before it reads any; ``num_at_once`` for all splits at once."""
    if not plan.candidates:
        return
    number = f"{plan.num_images:,} image{'' if plan.num_images == 1 else 's'}"
    purpose = "to verify that outputs do not change"
    words = f"{number} {purpose}"
    if divider.sees_images:
        words = f"{number} for {divider.progress}, {plan.num_shown:,} of them also {purpose}"
    keys = {key for candidate in plan.candidates for key in candidate.keys}
    groups = ("image set", "image sets") if any(isinstance(key, tuple) for key in keys) else ("class", "classes")
    shown = [len(plan.shown[key]) for key in keys if key in plan.shown]
    of_groups = f"each of {len(shown):,} {groups[1]}" if len(shown) > 1 else f"one {groups[0]}"
    each = f"{'' if min(shown) == max(shown) else 'up to '}{max(shown)} of {of_groups}"
    if len(shown) < len(keys):
        each += f" of {len(keys):,}"
    at_once = f"; then {num_at_once:,} with all splits at once" if num_at_once else ""
    print(f"{len(plan.candidates):,} of {plan.total:,} splits to make: reads {words} ({each}){at_once}")


def print_split(
    split: Split, members: dict[GroupKey, torch.Tensor], network: OpenedNetwork, *, finds_concepts: bool
) -> None:
    """Print the concepts of a split, and how its inputs are divided.

    ``members`` has the indices of the training images of each network output; ``finds_concepts`` is whether the
    concepts were found in the channel's reference images, and not named.
    """
    print(f"\nchannel {split.channel} of {network.layer.name} (weights {network.weights})")
    sets = [concept.images or () for concept in split.concepts if concept.kind == "images"]
    if sets and finds_concepts:
        print(f"{sum(map(len, sets))} reference images, in {len(sets)} sets:")
    for k, concept in enumerate(split.concepts, start=1):
        print(f"concept {k}: {concept.name}{_images_text(concept, members, split.division.background_note)}")
    print(_cosines_text(split))
    print(split.division.text())


def _images_text(concept: Concept, members: dict[GroupKey, torch.Tensor], background_note: str) -> str:
    """How many training images a concept has, to follow its name."""
    if concept.kind == "images":
        return f", {len(concept.images or ())} training images"
    if concept.kind == "background":
        return f", all training images{background_note}"
    count = sum(len(members[output]) for output in concept.classes)
    return f" {concept.classes}, {count} training images"


def _cosines_text(split: Split) -> str:
    """The cosines between the ARVs of the concepts; of many concepts, the lowest and the highest."""
    cosines = cosine_similarities(split.arvs)
    number = len(split.concepts)
    pairs = {(j, k): float(cosines[j, k]) for j in range(number) for k in range(j + 1, number)}
    shown = list(pairs)
    note = ""
    if len(pairs) > MOST_PAIRS:
        shown = [min(pairs, key=pairs.__getitem__), max(pairs, key=pairs.__getitem__)]
        note = f", the lowest and the highest of {len(pairs)},"
    return f"cosine of the concepts' ARVs{note} {', '.join(f'{j + 1}-{k + 1}: {pairs[j, k]:.3f}' for j, k in shown)}"


def print_equality(check: EqualityCheck) -> None:
    """Print how much a split network differs from the original."""
    channel, logits = check.errors()
    of_channel = of_logits = ""
    if check.precision == "fp64":
        of_channel, of_logits = (f" (fp32: {error:.1e})" for error in check.fp32_errors())
    limit = LARGEST_ERRORS[check.precision]
    print(f"\nmerged channel against the original, c = sum c'_k - (K-1) r, in {check.precision} (limit {limit:.0e}):")
    print(f"  largest difference {channel:.1e} of its largest value{of_channel}")
    print(f"logits of the split network against the original's: {logits:.1e} of their range{of_logits}")
    print(f"predictions that change: {check.changed_predictions} of {check.images} images")


def highest_cosine(split: Split) -> float:
    """The highest cosine between the ARVs of two concepts with images of their own; NaN if there is only one."""
    cosines = cosine_similarities(split.arvs[: len(split.own_concepts)])
    above = cosines[torch.triu(torch.ones_like(cosines), 1).bool()]
    return float(above.max()) if len(above) else float("nan")


def warn_above_gamma(split: Split, cosine: float, gamma: float | None) -> None:
    """Warn if two concepts are too similar for the channel to be gamma-polysemantic.

    ``cosine`` is the mean cosine between the classes of the two closest concepts. Without ``gamma`` the default counts.
    """
    gamma = GAMMA if gamma is None else gamma
    if cosine >= gamma:
        print(
            f"warning: channel {split.channel}: two concepts have a mean cosine of {cosine:.3f} between the ARVs of "
            f"their classes, not below gamma {gamma:g}: it may serve both by the same inputs",
            file=sys.stderr,
        )


def print_closing_table(files: list[SplitFile]) -> None:
    """Print one line for each of several splits; columns in which no split has a value are left out."""
    splits = [file.split for file in files]
    chosen = [split.division.rhos_by_objective() for split in splits]
    names = [name for division in DIVISIONS.all() for name in division.objective_names]
    objectives = [name for name in names if any(name in best for best, _ in chosen)]
    rhos = {name: [_rho_text(best.get(name), name == used) for best, used in chosen] for name in objectives}
    columns = {
        "channel": [f"{split.channel:7d}" for split in splits],
        "cosine": [formatted(highest_cosine(split), ".3f", missing=HYPHEN) for split in splits],
        **{f"{name:>8} ": texts for name, texts in rhos.items()},
        "quality": [formatted(split.division.quality(), ".4f", missing=HYPHEN) for split in splits],
        "changed": [f"{file.proof['changed_predictions']} of {file.proof['images']}" for file in files],
    }
    shown = {heading: cells for heading, cells in columns.items() if any(cell != HYPHEN for cell in cells)}
    widths = [max(map(len, [heading, *cells])) for heading, cells in shown.items()]
    print(f"\n{f'{len(files)} splits':17}{'rho by' if objectives else ''}".rstrip())
    for cells, last in (
        (shown, "concepts"),
        *zip(zip(*shown.values(), strict=True), map(_concept_names, splits), strict=True),
    ):
        print("  ".join([*(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)), last]))
    notes = ["rho by each objective, * the one that was used"] if objectives else []
    notes += (
        ["quality: the contrast at that rho; its largest possible value is the number of concepts"]
        if "quality" in shown
        else []
    )
    notes += ["cosine: the highest between the ARVs of two concepts"] if "cosine" in shown else []
    print("; ".join([*notes, "changed: predictions that change, of the images on which equality was checked"]))


def _rho_text(rho: float | None, is_used: bool) -> str:
    """The rho that an objective would choose; a star marks the objective that was used."""
    return f"{formatted(rho, '.2f', missing=HYPHEN)}{'*' if is_used else ' '}"


def _concept_names(split: Split) -> str:
    return " / ".join(concept.name for concept in split.concepts)
