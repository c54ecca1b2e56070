"""The figures of a split, from its result as ``utils.store.results.Results`` stores it."""

from dataclasses import dataclass

import numpy as np
import torch

from utils.defaults import VISUALIZATION_SEEDS, VISUALIZATION_STEPS
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.method.evaluation import density_curves, fractions_of_original
from utils.method.order import largest_first
from utils.method.patches import SHOWN, TOP_IMAGES, default_patch_size
from utils.report.card import Card, card_figure
from utils.report.figure_files import plot_path, write_curves, write_figure
from utils.report.plots import (
    DISENTANGLED,
    EVERYTHING_ELSE,
    ORIGINAL,
    density_figure,
    density_limits,
    pictures_figure,
    symbols,
)
from utils.report.result_tables import result_rows
from utils.report.sheets import SCREEN, Sheet, Titles
from utils.stages.split_measures import ConceptImages, SplitMeasures, measure_peaks, names_of_folders, top_patches
from utils.stages.visualization import describe_visualization, visualize
from utils.store.visualizations import Visualizations

MOST_CONCEPTS = len(DISENTANGLED)


def shown_concepts(result):
    """The concepts (from 0) that figures show: all, or those of most images.

    Image sets are in the order of their training images: the first ones, as on the map.
    """
    sizes = [len(part["paths"]) for part in result["images"]]
    if result["assignment"]:
        return [k for k, size in enumerate(sizes[:MOST_CONCEPTS]) if size]
    order = largest_first(torch.tensor(sizes), MOST_CONCEPTS)
    return sorted(k for k in order.tolist() if sizes[k])


def shown_channels(result):
    """The new channels that figures show, as {number of c'_k, from 1: label}; everything else comes last."""
    names = result["concept_names"]
    labels = {k + 1: f"c'_{k + 1}, for {names[k]}" for k in shown_concepts(result)}
    return {**labels, len(names) + 1: f"c'_{len(names) + 1}, everything else"} if result["background"] else labels


def colours_of(result):
    """The colour and line of each shown channel, the original one first: whatever is shown, alike on all figures."""
    own = DISENTANGLED[: len(shown_concepts(result))]
    return [ORIGINAL, *own, *([EVERYTHING_ELSE] if result["background"] else [])]


def left_out(result):
    """What a figure says of concepts that it does not show."""
    total, shown = len(result["concept_names"]), len(shown_concepts(result))
    return f"; the {shown} largest of {total} concepts" if total > shown else ""


def densities(result, points=256):
    """For the images of each concept, samples by label (the original channel and every disentangled one) and curves.

    ``points`` of the grid, as ``density_curves`` takes them.
    """
    for part in (result["images"][k] for k in shown_concepts(result)):
        samples = {"original channel": np.array(part["original"])}
        samples |= {label: np.array(part["sums"])[:, k - 1] for k, label in shown_channels(result).items()}
        yield samples, density_curves(samples, points)


def densities_figures(output_dir, result, sheet=SCREEN):
    """Draw and store one density plot a concept, on the same axes."""
    pictures, panels = [], list(densities(result))
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
        pictures.append(write_figure(stem, figure, sheet))
        write_curves(stem, grid, curves)
    return pictures


def _images(result, count):
    """How many validation images there are, and of concepts without labels which."""
    if not result["assignment"]:
        return f"{count} validation images"
    all_of_them = sum(len(part["paths"]) for part in result["images"])
    return result["assignment"] if count == all_of_them else f"{count} of {result['assignment']}"


def division(result):
    """How a split's inputs are divided, in words; the paper's way is told by its rho alone."""
    way = DIVISIONS.get(result["split_by"])
    words = [way.words] if way.usual_suffix() or result["rho"] is None else []
    return ", ".join([*words, *([] if result["rho"] is None else [f"rho {result['rho']}"])])


def visualization_figure(output_dir, result, entry, pictures, positions, sheet=SCREEN):
    """Draw and store a visualization: its pictures, and what mean activation each reaches.

    Beside them stands the largest mean of the concepts' validation images, for a layer of so many ``positions``.
    """
    channels, rows = {0: "original channel", **shown_channels(result)}, {}
    parts = [part for part in result["images"] if part["paths"]]
    count = sum(len(part["paths"]) for part in parts)
    sums = np.concatenate([np.column_stack([part["original"], part["sums"]]) for part in parts])
    for (k, label), (colour, _) in zip(channels.items(), colours_of(result), strict=True):
        label += f" (validation images: at most {sums[:, k].max() / positions:.3g})"
        captions = [f"seed {seed}: {value:.3g}" for seed, value in enumerate(entry["reached"][k])]
        rows[label] = [(one, colour, said) for one, said in zip(pictures[k], captions, strict=True)]
    title = f"Channel {result['channel']} and its parts: images made to activate them"
    subtitle = (
        f"{result['run']}, layer {result['layer']}, {division(result)}{left_out(result)}; {entry['steps']} steps; "
        f"below each image the mean activation it reaches, beside them the largest of {count} validation images"
    )
    what = "visualization" + (f"_steps{entry['steps']}" if entry["steps"] != VISUALIZATION_STEPS else "")
    what += f"_seeds{entry['seeds']}" if entry["seeds"] != VISUALIZATION_SEEDS else ""
    figure = pictures_figure(rows, Titles(title, subtitle), sheet)
    return [write_figure(plot_path(output_dir, result, what), figure, sheet)]


def channel_card(output_dir, result, patches, patch_note, visualizations, what="card", sheet=SCREEN):
    """Draw and store the channel card.

    Parameters
    ----------
    output_dir : Path or str
    result : dict
    patches : list of K + 1 lists of Patch
    patch_note : str
        Which patches are shown.
    visualizations : list of K + 1 lists of (picture, what is written below), or None
    what : str
        The end of the file's name.
    sheet : Sheet
    """
    samples, curves = zip(*densities(result), strict=True)
    above_diagonal = np.array(result["cosines"])[np.triu_indices(len(result["cosines"]), 1)]
    cosines = ""
    if len(above_diagonal):
        ends = dict.fromkeys(f"{value:.2f}" for value in (above_diagonal.min(), above_diagonal.max()))
        cosines = f"cosine of the ARVs {' to '.join(ends)},  "
    shown, channels, rows = shown_concepts(result), shown_channels(result), result_rows(result)
    place = {k: number for number, k in enumerate(shown)}
    residual, note = residual_and_note(result)
    columns = [*(k - 1 for k in channels), *([-1] if residual else [])]
    card = Card(
        channel=result["channel"],
        subtitle=f"{result['run']}, layer {result['layer']};  {cosines}{division(result).replace('rho', 'ρ =')};  "
        f"{_images(result, sum(len(part['paths']) for part in result['images']))}, fractions at τ = {result['tau']}"
        f"{left_out(result)}",
        names=[result["concept_names"][k] for k in shown],
        labels=["original channel", *channels.values()],
        colours=colours_of(result),
        patches=[[one._replace(concept=place.get(one.concept, -1)) for one in patches[k]] for k in (0, *channels)],
        patch_note=patch_note,
        visualizations=None if visualizations is None else [visualizations[k] for k in (0, *channels)],
        samples=samples,
        curves=curves,
        summaries=[rows[k].summary.of(columns) for k in shown],
        fractions=[_counted_fractions(result["images"][k])[:, columns] for k in shown],
        fractions_note=note,
        residual=residual,
    )
    return [write_figure(plot_path(output_dir, result, what), card_figure(card, sheet), sheet)]


def _counted_fractions(images):
    """The fractions of the images that a Summary counts, [n, K + 1]."""
    original = np.array(images["original"])
    counted = np.array(images["included"], dtype=bool) & (original > 0)
    return fractions_of_original(original[counted], np.array(images["sums"])[counted])


def residual_and_note(result):
    """Whether the residual has a bar, and which bars of the fractions follow from the others.

    ``c = sum_k c'_k - (K-1) r`` holds in every image. Where no input that is ever active is shared, the residual is the
    bias alone, nothing or a number; of two channels the fractions are then each other's mirror image. Where not all are
    drawn nothing is said.
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
    mirror = "one bar mirrors the other" if number == 2 else "one bar follows from the others"
    return False, f"r = 0 and {both} in every image: {mirror}"


@dataclass(frozen=True)
class FigureWishes:
    """Which figures of each split are wanted, how, and where: what stage 4's flags of these names say.

    ``patches`` is the rule by which patches are chosen, ``patch_size`` their side in pixels or None; ``all_classes``
    takes them from all of ``val/``. ``steps`` and ``seeds`` are those of feature visualizations.
    """

    output_dir: str
    qualitative: bool
    channel_card: bool
    feature_visualization: bool
    all_classes: bool
    patches: str
    patch_size: int | None
    steps: int
    seeds: int
    sheet: Sheet


class FigureMaker:
    """Draws what was asked for of each split.

    Parameters
    ----------
    wishes : FigureWishes
    source : ImagePass or StoredValidation
    opened : list of OpenedSplit
    transform : Transform
    """

    def __init__(self, wishes, source, opened, transform):
        self.wishes, self.source, self.opened = wishes, source, opened
        self.transform, self.peaks = transform, None
        self.visualizations = Visualizations(wishes.output_dir, None)
        if wishes.channel_card:
            self.patch_size = patch_size_of(wishes.patch_size, transform.crop_size, source.layer)
            self.names = names_of_folders(source.images, source.classes)
        if wishes.all_classes:
            loader = source.image_source.in_order(range(len(source.images)), "images of all classes")
            measures = [SplitMeasures(one, source.layer) for one in opened]
            self.peaks = measure_peaks(loader, source.network, measures)
            self.ranked = len(source.images) - loader.skipped

    def draw(self, number, result, arrays):
        """Draw the figures of split ``number``, from its result and what was measured (or None): their paths."""
        wishes, where = self.wishes, self.wishes.output_dir
        written = densities_figures(where, result, wishes.sheet) if wishes.qualitative else []
        captioned = None
        if wishes.feature_visualization:
            entry = self._visualization(number, result)
            pictures, positions = self.visualizations.pictures(entry), self.opened[number].file.split.positions
            written += visualization_figure(where, result, entry, pictures, positions, wishes.sheet)
            captioned = [
                [(one, f"{value:.3g}") for one, value in zip(*row, strict=True)]
                for row in zip(pictures, entry["reached"], strict=True)
            ]
        if wishes.channel_card:
            written += self._card(number, result, arrays, captioned)
        return written

    def _visualization(self, number, result):
        """The visualization of a split: the one that is there, if it is equal."""
        one = self.opened[number]
        known = describe_visualization(result, self.wishes.steps, self.wishes.seeds)
        found = self.visualizations.find(known)
        if found is None:
            found = visualize(self.source.network, one.file.split, one.rho, self.transform, known)
            self.visualizations.write(found)
        return found

    def _card(self, number, result, arrays, captioned):
        wishes, images = self.wishes, self.source.images
        concepts = self.source.concepts_of(self.opened[number])
        shown = arrays if self.peaks is None else self.peaks[number]
        rule = wishes.patches
        concept_images = ConceptImages(images, self.transform, concepts, self.names)
        patches = top_patches(concept_images, shown, self.patch_size, rule)
        whole = patch_note_of(self.source.layer)
        where = f"{len(shown['indices'])} validation images of the concepts"
        if wishes.all_classes:
            where = f"all {self.ranked} validation images, {len(images.folders)} classes"
        notes = [f"{_rule_in_words(rule)} {where}", "numbers are ranks among these", *([whole] if whole else [])]
        notes += ["below: images made to activate each channel, and the mean that each reaches"] if captioned else []
        what = f"{'paper_patches_' * (rule == 'paper')}{'all_classes_' * wishes.all_classes}card"
        return channel_card(wishes.output_dir, result, patches, "; ".join(notes), captioned, what, wishes.sheet)


def _rule_in_words(rule):
    if rule == "ranked":
        return "most activating first, of"
    return f"by the paper's rule, {SHOWN} of the {TOP_IMAGES} most activating, concepts as equally as they occur, of"


def patch_size_of(asked, crop_size, layer):
    """The side of a patch, in pixels: the image's where positions lie nowhere. UserError where it cannot be."""
    if layer.map_size is None and asked not in (None, crop_size):
        raise UserError(f"--patch_size {asked}: {patch_note_of(layer)}: leave it out")
    size = asked or (crop_size if layer.map_size is None else default_patch_size(crop_size, min(layer.map_size)))
    if size > crop_size:
        raise UserError(f"--patch_size {size} is larger than the image, {crop_size} pixels")
    return size


def patch_note_of(layer):
    """What is shown in place of patches, and why; None where there are patches."""
    if layer.map_size is not None:
        return None
    if layer.num_positions == 1:
        return f"whole images are shown: {layer.name} sees one vector an image, which lies nowhere in it"
    return f"whole images are shown: where in an image the tokens of {layer.name} lie is not known"
