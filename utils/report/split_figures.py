"""The figures of a split, from its result as ``utils.store.results.Results`` stores it."""

import numpy as np

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.evaluation import density_curves
from utils.method.patches import default_patch_size
from utils.report.card import Card, card_figure
from utils.report.files import plot_path, write_curves, write_figure
from utils.report.plots import DISENTANGLED, ORIGINAL, density_figure, pictures_figure
from utils.report.result_tables import result_rows
from utils.stages.evaluation import SplitMeasures, concepts_of_images, measure_peaks, top_patches, visualize


def densities(result):
    """For the images of each concept, samples by label (the original channel and every disentangled one) and curves."""
    for part in result["images"]:
        samples = {"original channel": np.array(part["original"])}
        for k, name in enumerate(result["concept_names"]):
            samples[f"c'_{k + 1}, for {name}"] = np.array(part["sums"])[:, k]
        yield samples, density_curves(samples)


def densities_figures(output_dir, result):
    """Draw and store one density plot a concept."""
    pictures = []
    for number, (samples, (grid, curves)) in enumerate(densities(result), start=1):
        title = f"Images of {result['concept_names'][number - 1]}: channel {result['channel']} and its parts"
        count = len(samples["original channel"])
        subtitle = f"{result['run']}, {result['layer']}, rho {result['rho']}, {count} validation images"
        stem = plot_path(output_dir, result, f"concept{number}_density")
        pictures.append(write_figure(stem, density_figure(samples, grid, curves, title, subtitle)))
        write_curves(stem, grid, curves)
    return pictures


def visualization_figure(output_dir, result, pictures):
    """Draw and store images that were made to activate each channel, [K + 1, seeds, H, W, 3]."""
    labels = ["original channel", *(f"c'_{k}, for {name}" for k, name in enumerate(result["concept_names"], start=1))]
    colours = [colour for colour, _ in (ORIGINAL, *DISENTANGLED)]
    rows = {label: [(one, colours[k]) for one in pictures[k]] for k, label in enumerate(labels)}
    title = f"Channel {result['channel']} and its parts: images made to activate them"
    subtitle = f"{result['run']}, layer {result['layer']}, rho {result['rho']}"
    return [write_figure(plot_path(output_dir, result, "visualization"), pictures_figure(rows, title, subtitle))]


def channel_card(output_dir, result, patches, visualizations):
    """Draw and store the channel card."""
    samples, curves = zip(*densities(result), strict=True)
    above_diagonal = np.array(result["cosines"])[np.triu_indices(len(result["cosines"]), 1)]
    cosines = " to ".join(dict.fromkeys(f"{value:.2f}" for value in (above_diagonal.min(), above_diagonal.max())))
    card = Card(
        channel=result["channel"],
        subtitle=f"{result['run']}, layer {result['layer']};  cosine of the ARVs {cosines},  ρ = {result['rho']:.2f};  "
        f"{sum(len(part['paths']) for part in result['images'])} validation images, fractions at τ = {result['tau']}",
        names=result["concept_names"],
        patches=patches,
        visualizations=visualizations,
        samples=samples,
        curves=curves,
        summaries=[row.summary for row in result_rows(result)],
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
    classes : ClassMap
    transform : Transform
    device : torch.device
    """

    def __init__(self, args, source, opened, classes, transform, device):
        self.args, self.source, self.opened, self.classes = args, source, opened, classes
        self.transform, self.device, self.peaks = transform, device, None
        if args.get_channel_card:
            self.patch_size = _patch_size(args.patch_size, transform.crop_size, source.layer)
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
            concepts = concepts_of_images(one.file.split, self.classes, self.source.images)
            shown = arrays if self.peaks is None else self.peaks[number]
            patches = top_patches(self.source.images, self.transform, shown, concepts, self.patch_size)
            written += channel_card(args.output_dir, result, patches, pictures)
        return written


def _patch_size(asked, crop_size, layer):
    """The side of a patch, in pixels; UserError where it is larger than the image."""
    size = asked or default_patch_size(crop_size, min(layer.map_size))
    if size > crop_size:
        raise UserError(f"--patch_size {size} is larger than the image, {crop_size} pixels")
    return size
