"""The figures of a split, from its result as ``utils.store.results.Results`` stores it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.concept_sources.source_registry import SOURCES
from utils.defaults import PATCHES, VISUALIZATION_SEEDS, VISUALIZATION_STEPS
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.images.transform import Transform
from utils.method.evaluation import density_curves, fractions_of_original
from utils.method.order import largest_first
from utils.method.patches import SHOWN, TOP_IMAGES, default_patch_size
from utils.networks.layers import Layer
from utils.report.card import Captioned, Card, card_figure
from utils.report.figure_files import plot_path, write_curves, write_figure
from utils.report.image_set_text import NAMES, NOTE, ScoredSplit, count_in_words, score_in_words
from utils.report.name_text import shown_names, texts_of
from utils.report.plots import (
    DISENTANGLED,
    EVERYTHING_ELSE,
    ORIGINAL,
    Line,
    Panel,
    density_figure,
    density_limits,
    pictures_figure,
    symbols,
)
from utils.report.result_tables import result_rows
from utils.report.sheets import SCREEN, Sheet, Titles
from utils.stages.image_set_nulls import ImageSetScores
from utils.stages.split_measures import (
    ChannelPeaks,
    ConceptImages,
    Patch,
    names_of_folders,
    peaks_of_all,
    peaks_of_concepts,
    top_patches,
)
from utils.stages.strongest_patches import KeptPatches
from utils.stages.validation import ImagePass, StoredValidation
from utils.stages.visualization import describe_visualization, visualize
from utils.store.opened_splits import OpenedSplit
from utils.store.visualizations import Visualizations

MOST_CONCEPTS = len(DISENTANGLED)
FRAMES = "a frame has the colour of the image's concept, grey: none of these"


def shown_concepts(result: dict[str, Any]) -> list[int]:
    """The concepts (from 0) that figures show: all, or those with the most images.

    Image sets are ordered by their numbers of training images: the first ones are shown, as on the map.
    """
    sizes = [len(part["paths"]) for part in result["images"]]
    if result["assignment"]:
        return [k for k, size in enumerate(sizes[:MOST_CONCEPTS]) if size]
    order = largest_first(torch.tensor(sizes), MOST_CONCEPTS)
    return sorted(k for k in order.tolist() if sizes[k])


def shown_channels(result: dict[str, Any]) -> dict[int, str]:
    """The new channels that figures show, as {number of c'_k, from 1: label}; that of the background is the last."""
    names = result["concept_names"]
    labels = {k + 1: f"c'_{k + 1}, for {names[k]}" for k in shown_concepts(result)}
    return {**labels, len(names) + 1: f"c'_{len(names) + 1}, everything else"} if result["background"] else labels


def colours_of(result: dict[str, Any]) -> list[Line]:
    """The colour and line of each shown channel, the original one first; the same on all figures of a split."""
    shown = shown_concepts(result)
    numbers = shown if result["assignment"] else range(len(shown))  # image sets have their colours of the map
    of_concepts = [DISENTANGLED[number] for number in numbers]
    return [ORIGINAL, *of_concepts, *([EVERYTHING_ELSE] if result["background"] else [])]


def left_out(result: dict[str, Any]) -> str:
    """A note on concepts that a figure does not show, to be appended; empty if it shows all."""
    names = result["concept_names"]
    shown = shown_concepts(result)
    number = MOST_CONCEPTS if result["assignment"] else len(names)
    parts = list(zip(names, result["images"], strict=True))[:number]
    empty = [name for name, part in parts if not part["paths"]]
    largest = f"; the {len(shown)} largest of {len(names)} concepts" if len(names) > len(shown) + len(empty) else ""
    return largest + (f"; without a validation image: {', '.join(empty)}" if empty else "")


def densities(result: dict[str, Any], points: int = 256) -> Iterator[Panel]:
    """For the images of each concept, samples by label (the original channel and every disentangled one) and curves.

    ``points`` is the number of points of the curves' grid.
    """
    for part in (result["images"][k] for k in shown_concepts(result)):
        samples = {"original channel": np.array(part["original"])}
        samples |= {label: np.array(part["sums"])[:, k - 1] for k, label in shown_channels(result).items()}
        yield samples, density_curves(samples, points)


def densities_figures(output_dir: Path | str, result: dict[str, Any], sheet: Sheet = SCREEN) -> list[Path]:
    """Draw and store one density plot for each concept, with the same limits of the axes."""
    written = []
    panels = list(densities(result))
    limits = density_limits(panels)
    for k, (samples, (grid, curves)) in zip(shown_concepts(result), panels, strict=True):
        title = f"Images of {result['concept_names'][k]}: channel {result['channel']} and its parts"
        count = len(samples["original channel"])
        subtitle = f"{result['run']}, {result['layer']}, {division(result)}, n = {_images(result, count)}"
        stem = plot_path(output_dir, result, f"concept{k + 1}_density")
        figure = density_figure(
            samples,
            grid,
            curves,
            colours=colours_of(result),
            limits=limits,
            titles=Titles(title, subtitle + left_out(result)),
            sheet=sheet,
        )
        written.append(write_figure(stem, figure, sheet))
        write_curves(stem, grid, curves)
    return written


def _images(result: dict[str, Any], count: int) -> str:
    """A number of validation images in words; for concepts without labels, how they were assigned."""
    if not result["assignment"]:
        return f"{count} validation images"
    total = sum(len(part["paths"]) for part in result["images"])
    return result["assignment"] if count == total else f"{count} of {result['assignment']}"


def division(result: dict[str, Any]) -> str:
    """How a split's inputs are divided, in words; for the paper's rule only the rho."""
    rule = DIVISIONS.get(result["split_by"])
    words = [rule.words] if rule.usual_suffix() or result["rho"] is None else []
    return ", ".join([*words, *([] if result["rho"] is None else [f"rho {result['rho']}"])])


def visualization_figure(
    output_dir: Path | str,
    result: dict[str, Any],
    entry: dict[str, Any],
    pictures: np.ndarray,
    *,
    positions: int,
    sheet: Sheet = SCREEN,
) -> list[Path]:
    """Draw and store a visualization: its pictures [K + 1, seeds, H, W, 3], and the mean activation of each.

    Beside them is the largest mean activation of the concepts' validation images; ``positions`` is the
    layer's number of positions.
    """
    channels = {0: "original channel", **shown_channels(result)}
    rows = {}
    parts = [part for part in result["images"] if part["paths"]]
    count = sum(len(part["paths"]) for part in parts)
    sums = np.concatenate([np.column_stack([part["original"], part["sums"]]) for part in parts])
    for (k, label), (colour, _) in zip(channels.items(), colours_of(result), strict=True):
        label += f" (validation images: at most {sums[:, k].max() / positions:.3g})"
        captions = [f"seed {seed}: {value:.3g}" for seed, value in enumerate(entry["reached"][k])]
        rows[label] = [(picture, colour, caption) for picture, caption in zip(pictures[k], captions, strict=True)]
    title = f"Channel {result['channel']} and its parts: images made to activate them"
    subtitle = (
        f"{result['run']}, layer {result['layer']}, {division(result)}{left_out(result)}; {entry['steps']} steps; "
        f"below each image the mean activation that it reaches, beside them the largest of {count} validation images"
    )
    name = "visualization" + (f"_steps{entry['steps']}" if entry["steps"] != VISUALIZATION_STEPS else "")
    name += f"_seeds{entry['seeds']}" if entry["seeds"] != VISUALIZATION_SEEDS else ""
    figure = pictures_figure(rows, Titles(title, subtitle), sheet)
    return [write_figure(plot_path(output_dir, result, name), figure, sheet)]


def channel_card(
    output_dir: Path | str,
    result: dict[str, Any],
    patches: list[list[Patch]],
    *,
    patch_note: str,
    visualizations: list[list[Captioned]] | None = None,
    scores: ImageSetScores | None = None,
    name: str = "card",
    sheet: Sheet = SCREEN,
) -> list[Path]:
    """Draw and store the channel card.

    Parameters
    ----------
    output_dir
    result
    patches
        K + 1 lists: of the original channel and of each new one.
    patch_note
        A note on which patches are shown.
    visualizations
        K + 1 lists of captioned pictures.
    scores
        Of concepts without labels beside permuted weights.
    name
        The end of the file's name.
    sheet
    """
    stored_names = result["concept_names"]
    names = shown_names(stored_names, scores)
    channels = shown_channels({**result, "concept_names": [name.text for name in names]})
    result = {**result, "concept_names": [name.short for name in names]}
    shown = shown_concepts(result)
    rows = result_rows(result)
    number_of = {k: number for number, k in enumerate(shown)}
    residual, note = residual_and_note(result)
    columns = [*(k - 1 for k in channels), *([-1] if residual else [])]
    card = Card(
        channel=result["channel"],
        subtitle=_card_subtitle(result),
        names=[result["concept_names"][k] for k in shown],
        labels=["original channel", *channels.values()],
        colours=colours_of(result),
        patches=[
            [patch._replace(concept=number_of.get(patch.concept, -1)) for patch in patches[k]] for k in (0, *channels)
        ],
        patch_note=patch_note,
        visualizations=None if visualizations is None else [visualizations[k] for k in (0, *channels)],
        densities=list(densities(result)),
        summaries=[rows[k].summary.of(columns) for k in shown],
        fractions=[_counted_fractions(result["images"][k])[:, columns] for k in shown],
        fractions_note=note,
        residual=residual,
        score_note=NOTE,
        count=count_in_words([ScoredSplit(result["concepts_from"], result["channel"], stored_names, scores)]),
        stands_out=None if scores is None else [_stands_out(scores, k - 1) for k in (0, *channels)],
    )
    return [write_figure(plot_path(output_dir, result, name), card_figure(card, sheet), sheet)]


def _stands_out(scores: ImageSetScores, k: int) -> str:
    """How well concept ``k`` does, from 0; empty for the original channel and that of the background."""
    return score_in_words(scores, k) if 0 <= k < len(scores.classes) else ""


def _card_subtitle(result: dict[str, Any]) -> str:
    above_diagonal = np.array(result["cosines"])[np.triu_indices(len(result["cosines"]), 1)]
    cosines = ""
    if len(above_diagonal):
        ends = dict.fromkeys(f"{value:.2f}" for value in (above_diagonal.min(), above_diagonal.max()))
        cosines = f"cosine of the ARVs {' to '.join(ends)},  "
    num_images = sum(len(part["paths"]) for part in result["images"])
    return (
        f"{result['run']}, layer {result['layer']};  {cosines}{division(result).replace('rho', 'ρ =')};  "
        f"{_images(result, num_images)}, fractions at τ = {result['tau']}{left_out(result)}"
    )


def _counted_fractions(images: dict[str, Any]) -> np.ndarray:
    """The fractions of the images that a Summary counts, [n, K + 1]."""
    original = np.array(images["original"])
    counted = np.array(images["included"], dtype=bool) & (original > 0)
    return fractions_of_original(original[counted], np.array(images["sums"])[counted])


def residual_and_note(result: dict[str, Any]) -> tuple[bool, str]:
    """Whether the residual has a bar, and a note on which bars of the fractions follow from the others.

    ``c = sum_k c'_k - (K-1) r`` holds in every image. If no active input is shared, the residual is the bias alone,
    that is 0 or a constant; with two channels and r = 0 the fractions mirror each other. There is no note if a channel
    is not drawn.
    """
    residual = np.concatenate([np.array(result["images"][k]["sums"])[:, -1] for k in shown_concepts(result)])
    number = len(result["concept_names"]) + (1 if result["background"] else 0)
    if len(shown_channels(result)) < number:
        return bool(residual.any()), ""
    if number == 2:
        both = "c'_1 + c'_2 = 1" if not residual.any() else "c'_1 + c'_2 - r = 1"
    else:
        both = f"c'_1 + ... + c'_{number} = 1"
        both = both if not residual.any() else both.replace("=", f"- {number - 1} r =")
    both = symbols(both.replace("...", "…").replace(" - ", " − "))
    if residual.any():
        constant = " (r is the bias alone)" if np.ptp(residual) == 0 else ""
        return True, f"in every image {both}{constant}: one bar follows from the others"
    mirror = "above 1 for one is below 0 for the other" if number == 2 else "one bar follows from the others"
    return False, f"r = 0 and {both} in every image: {mirror}"


@dataclass(frozen=True)
class FigureWishes:
    """Which figures of each split are drawn, how, and where: the values of stage 4's flags of these names.

    ``patches`` is the rule that selects patches, ``patch_size`` their side in pixels or None. ``steps`` and ``seeds``
    are those of feature visualizations.
    """

    output_dir: str
    qualitative: bool
    channel_card: bool
    feature_visualization: bool
    patches: str
    patch_size: int | None
    steps: int
    seeds: int
    sheet: Sheet


class FigureMaker:
    """Draws the requested figures of each split.

    Parameters
    ----------
    wishes : FigureWishes
    source : ImagePass or StoredValidation
    opened : list of OpenedSplit
    transform : Transform
    kept_patches : KeptPatches, optional
        Of the images of ``source``, of which cards show all; default: cards show the images of their concepts.
    scores : dict of Path -> ImageSetScores or None, optional
        Of the splits without labels beside permuted weights, by the paths of the splits: for cards, and for names.
    """

    def __init__(
        self,
        wishes: FigureWishes,
        source: ImagePass | StoredValidation,
        opened: list[OpenedSplit],
        transform: Transform,
        *,
        kept_patches: KeptPatches | None = None,
        scores: Mapping[Path, ImageSetScores | None] | None = None,
    ) -> None:
        self.wishes = wishes
        self.source = source
        self.opened = opened
        self.transform = transform
        self.scores = scores or {}
        self.peaks: list[list[ChannelPeaks]] | None = None
        self.visualizations = Visualizations(wishes.output_dir, None)
        if wishes.channel_card:
            self.patch_size = patch_size_of(wishes.patch_size, transform.crop_size, self.image_pass.layer)
            self.names = names_of_folders(source.images, source.classes)
        if kept_patches is not None:
            image_source = self.image_pass.image_source
            units = units_of_splits(opened)
            strongest = peaks_of_all(
                kept_patches.patches(units.rows, units.biases, image_source, self.image_pass.network)
            )
            self.peaks = [[strongest.pop(0) for _ in split.file.split.shown_rows(split.rho)] for split in opened]

    @property
    def image_pass(self) -> ImagePass:
        """The source as a pass of the network, which all figures except density plots need."""
        assert isinstance(self.source, ImagePass)
        return self.source

    def draw(self, number: int, stored: dict[str, Any], arrays: dict[str, Any] | None) -> list[Path]:
        """Draw the figures of split ``number`` from its ``stored`` result and its arrays (or None): their paths."""
        wishes = self.wishes
        scores = self.scores.get(self.opened[number].path)
        result = {**stored, "concept_names": texts_of(stored["concept_names"], scores)}
        written = densities_figures(wishes.output_dir, result, wishes.sheet) if wishes.qualitative else []
        captioned = None
        if wishes.feature_visualization:
            entry = self._visualization(number, stored)
            pictures = self.visualizations.pictures(entry)
            positions = self.opened[number].file.split.positions
            written += visualization_figure(
                wishes.output_dir, result, entry, pictures, positions=positions, sheet=wishes.sheet
            )
            captioned = [
                [(picture, f"{value:.3g}") for picture, value in zip(of_channel, reached, strict=True)]
                for of_channel, reached in zip(pictures, entry["reached"], strict=True)
            ]
        if wishes.channel_card:
            written += self._draw_card(number, stored, arrays, captioned)
        return written

    def _visualization(self, number: int, result: dict[str, Any]) -> dict[str, Any]:
        """The visualization of a split: the stored one if it is equal, else a new one."""
        opened = self.opened[number]
        description = describe_visualization(result, self.wishes.steps, self.wishes.seeds)
        visualization = self.visualizations.find(description)
        if visualization is None:
            visualization = visualize(
                self.image_pass.network, opened.file.split, opened.rho, self.transform, description
            )
            self.visualizations.write(visualization)
        return visualization

    def _draw_card(
        self,
        number: int,
        result: dict[str, Any],
        arrays: dict[str, Any] | None,
        visualizations: list[list[Captioned]] | None,
    ) -> list[Path]:
        wishes = self.wishes
        assert arrays is not None  # splits are measured again if their cards are drawn
        images = self.source.images
        channels = peaks_of_concepts(arrays) if self.peaks is None else self.peaks[number]
        concept_images = ConceptImages(images, self.transform, self.source.concepts_of(self.opened[number]), self.names)
        patches = top_patches(concept_images, channels, self.patch_size, wishes.patches)
        searched = f"the {len(arrays['indices'])} validation images of the concepts"
        if self.peaks is not None:
            searched = f"all {len(images)} validation images, {len(images.folders)} classes"
        notes = [f"{_rule_in_words(wishes.patches)} {searched}", "numbers: ranks among these", FRAMES]
        finds_concepts = not SOURCES.get(result["concepts_from"]).is_named()
        notes += [NAMES] if finds_concepts and not wishes.sheet.narrow else []
        notes += [note] if (note := patch_note_of(self.image_pass.layer)) else []
        if visualizations and not wishes.sheet.narrow:
            notes.append(
                "pictures without a rank: made to activate each channel, with the mean activation that they reach"
            )
        return channel_card(
            wishes.output_dir,
            result,
            patches,
            patch_note="; ".join(notes),
            visualizations=visualizations,
            scores=self.scores.get(self.opened[number].path),
            name=card_name(wishes.patches, of_all=self.peaks is not None),
            sheet=wishes.sheet,
        )


def card_name(rule: str = PATCHES, *, of_all: bool) -> str:
    """The end of the name of a card's file, by the rule of its patches and the images they are from."""
    return f"{'paper_patches_' * (rule == 'paper')}{'' if of_all else 'classes_'}card"


class SplitUnits(NamedTuple):
    """The original channels and the new ones: ``rows`` float32 [U, C_in, taps], ``biases`` [U] or None."""

    rows: torch.Tensor
    biases: torch.Tensor | None


def units_of_splits(opened: Sequence[OpenedSplit]) -> SplitUnits:
    """The units of which cards of splits of one layer show patches: of each the original channel, then ``c'_k``."""
    rows = [split.file.split.shown_rows(split.rho).float() for split in opened]
    biases = [split.file.split.bias for split in opened]
    if any(bias is None for bias in biases):
        return SplitUnits(torch.cat(rows), None)
    expanded = [bias.expand(len(of_split)) for bias, of_split in zip(biases, rows, strict=True) if bias is not None]
    return SplitUnits(torch.cat(rows), torch.cat(expanded))


def _rule_in_words(rule: str) -> str:
    if rule == "ranked":
        return "most activating first, of"
    return f"by the paper's rule, {SHOWN} of the {TOP_IMAGES} most activating, if possible as many of each concept, of"


def patch_size_of(requested: int | None, crop_size: int, layer: Layer) -> int:
    """The side of a patch, in pixels; that of the image if the layer's positions are not places in the image.

    Raises
    ------
    UserError
        A requested size that is impossible.
    """
    if layer.map_size is None and requested not in (None, crop_size):
        raise UserError(f"--patch_size {requested}: {patch_note_of(layer)}: leave it out")
    size = requested or (crop_size if layer.map_size is None else default_patch_size(crop_size, min(layer.map_size)))
    if size > crop_size:
        raise UserError(f"--patch_size {size} is larger than the image, {crop_size} pixels")
    return size


def patch_note_of(layer: Layer) -> str | None:
    """A note on what is shown instead of patches, and why; None if patches are shown."""
    if layer.map_size is not None:
        return None
    if layer.num_positions == 1:
        return f"whole images are shown: {layer.name} sees one vector per image, without a position"
    return f"whole images are shown: the positions of {layer.name}'s tokens in an image are not known"
