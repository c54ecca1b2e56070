"""The figures of a split, from its result as ``utils.store.results.Results`` stores it."""

import numpy as np

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.evaluation import density_curves
from utils.method.patches import default_patch_size
from utils.report.card import Card, card_figure
from utils.report.files import plot_path, write_curves, write_figure
from utils.report.plots import DISENTANGLED, EVERYTHING_ELSE, ORIGINAL, density_figure, pictures_figure
from utils.report.result_tables import result_rows
from utils.stages.evaluation import SplitMeasures, measure_peaks, top_patches, visualize

MOST_CONCEPTS = len(DISENTANGLED)


def shown_concepts(result):
    """The concepts (from 0) that figures show: all, or those of most images."""
    sizes = [len(part["paths"]) for part in result["images"]]
    order = np.argsort([-size for size in sizes], kind="stable")[:MOST_CONCEPTS]
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


def densities_figures(output_dir, result):
    """Draw and store one density plot a concept."""
    pictures = []
    for k, (samples, (grid, curves)) in zip(shown_concepts(result), densities(result), strict=True):
        title = f"Images of {result['concept_names'][k]}: channel {result['channel']} and its parts"
        count = len(samples["original channel"])
        subtitle = f"{result['run']}, {result['layer']}, {division(result)}, {_images(result, count)}{left_out(result)}"
        stem = plot_path(output_dir, result, f"concept{k + 1}_density")
        figure = density_figure(samples, grid, curves, colours_of(result), title, subtitle)
        pictures.append(write_figure(stem, figure))
        write_curves(stem, grid, curves)
    return pictures


def _images(result, count):
    """How many validation images there are, and of concepts without labels which."""
    return f"{count} validation images" + (f" of {result['assignment']}" if result["assignment"] else "")


def division(result):
    """How a split's inputs are divided, in words."""
    return "least squares" if result["rho"] is None else f"rho {result['rho']}"


def visualization_figure(output_dir, result, pictures):
    """Draw and store images that were made to activate each channel, [K + 1, seeds, H, W, 3]."""
    channels = {0: "original channel", **shown_channels(result)}
    rows = {
        label: [(one, colour) for one in pictures[k]]
        for (k, label), (colour, _) in zip(channels.items(), colours_of(result), strict=True)
    }
    title = f"Channel {result['channel']} and its parts: images made to activate them"
    subtitle = f"{result['run']}, layer {result['layer']}, {division(result)}{left_out(result)}"
    return [write_figure(plot_path(output_dir, result, "visualization"), pictures_figure(rows, title, subtitle))]


def channel_card(output_dir, result, patches, visualizations, patch_note=None):
    """Draw and store the channel card; ``patch_note`` says what the patches are where they are no usual ones."""
    samples, curves = zip(*densities(result), strict=True)
    above_diagonal = np.array(result["cosines"])[np.triu_indices(len(result["cosines"]), 1)]
    cosines = ""
    if len(above_diagonal):
        ends = dict.fromkeys(f"{value:.2f}" for value in (above_diagonal.min(), above_diagonal.max()))
        cosines = f"cosine of the ARVs {' to '.join(ends)},  "
    shown, channels, rows = shown_concepts(result), shown_channels(result), result_rows(result)
    place = {k: number for number, k in enumerate(shown)}
    own = [[(one, place.get(concept, -1)) for one, concept in patches[k]] for k in (0, *channels)]
    card = Card(
        channel=result["channel"],
        subtitle=f"{result['run']}, layer {result['layer']};  {cosines}{division(result).replace('rho', 'ρ =')};  "
        f"{_images(result, sum(len(part['paths']) for part in result['images']))}, fractions at τ = {result['tau']}"
        f"{left_out(result)}",
        names=[result["concept_names"][k] for k in shown],
        labels=["original channel", *channels.values()],
        colours=colours_of(result),
        patches=own,
        patch_note=patch_note,
        visualizations=None if visualizations is None else [visualizations[k] for k in (0, *channels)],
        samples=samples,
        curves=curves,
        summaries=[rows[k].summary.of([*(k - 1 for k in channels), -1]) for k in shown],
    )
    return [write_figure(plot_path(output_dir, result, "card"), card_figure(card))]


class FigureMaker:
    """Draws what was asked for of each split.

    Parameters
    ----------
    args : argparse.Namespace
        Of stage 4.
    source : ImagePass or StoredValidation
    opened : list of OpenedSplit
    transform : Transform
    device : torch.device
    """

    def __init__(self, args, source, opened, transform, device):
        self.args, self.source, self.opened = args, source, opened
        self.transform, self.device, self.peaks = transform, device, None
        if args.get_channel_card:
            self.patch_size = patch_size_of(args.patch_size, transform.crop_size, source.layer)
            self.patch_note = patch_note_of(source.layer)
        if args.all_classes:
            loader = source.load(batches_of(range(len(source.images)), args.batch_size), "images of all classes")
            measures = [SplitMeasures(one, source.layer) for one in opened]
            self.peaks = measure_peaks(loader, source.network, source.layer, measures, args.precision)

    def draw(self, number, result, arrays):
        """Draw the figures of split ``number``, from its result and what was measured (or None): their paths."""
        args, one = self.args, self.opened[number]
        written = densities_figures(args.output_dir, result) if args.get_qualitative else []
        pictures = None
        if args.get_feature_visualization:
            source = self.source
            pictures = visualize(source.network, source.layer, one.file.split, one.rho, self.transform, self.device)
            written += visualization_figure(args.output_dir, result, pictures)
        if args.get_channel_card:
            concepts = self.source.concepts_of(one)
            shown = arrays if self.peaks is None else self.peaks[number]
            patches = top_patches(self.source.images, self.transform, shown, concepts, self.patch_size)
            written += channel_card(args.output_dir, result, patches, pictures, self.patch_note)
        return written


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
