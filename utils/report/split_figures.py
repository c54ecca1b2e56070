"""The figures of a pair, from what ``results.PairResults`` stores of it."""

import numpy as np

from utils.method.evaluation import density_curves
from utils.report import summary
from utils.report.card import Card, card_figure
from utils.report.files import plot_path, write_curves, write_figure
from utils.report.plots import DISENTANGLED, ORIGINAL, density_figure, pictures_figure


def densities(pair):
    """For the images of each concept, samples by label (the original channel and every disentangled one) and curves."""
    for part in pair["images"]:
        samples = {"original channel": np.array(part["original"])}
        for k, name in enumerate(pair["concept_names"]):
            samples[f"c'_{k + 1}, for {name}"] = np.array(part["sums"])[:, k]
        yield samples, density_curves(samples)


def qualitative(output_dir, pair):
    """Draw and store one density plot a concept."""
    pictures = []
    for number, (samples, (grid, curves)) in enumerate(densities(pair), start=1):
        title = f"Images of {pair['concept_names'][number - 1]}: channel {pair['channel']} and its parts"
        count = len(samples["original channel"])
        subtitle = f"{pair['run']}, {pair['layer']}, rho {pair['rho']}, {count} validation images"
        stem = plot_path(output_dir, pair, f"concept{number}_density")
        pictures.append(write_figure(stem, density_figure(samples, grid, curves, title, subtitle)))
        write_curves(stem, grid, curves)
    return pictures


def visualization(output_dir, pair, pictures):
    """Draw and store images that were made to activate each channel, [K + 1, seeds, H, W, 3]."""
    labels = ["original channel", *(f"c'_{k}, for {name}" for k, name in enumerate(pair["concept_names"], start=1))]
    colours = [colour for colour, _ in (ORIGINAL, *DISENTANGLED)]
    rows = {label: [(one, colours[k]) for one in pictures[k]] for k, label in enumerate(labels)}
    title = f"Channel {pair['channel']} and its parts: images made to activate them"
    subtitle = f"{pair['run']}, layer {pair['layer']}, rho {pair['rho']}"
    return [write_figure(plot_path(output_dir, pair, "visualization"), pictures_figure(rows, title, subtitle))]


def channel_card(output_dir, pair, patches, visualizations):
    """Draw and store the channel card."""
    samples, curves = zip(*densities(pair), strict=True)
    above_diagonal = np.array(pair["cosines"])[np.triu_indices(len(pair["cosines"]), 1)]
    cosines = " to ".join(dict.fromkeys(f"{value:.2f}" for value in (above_diagonal.min(), above_diagonal.max())))
    card = Card(
        channel=pair["channel"],
        subtitle=f"{pair['run']}, layer {pair['layer']};  cosine of the ARVs {cosines},  ρ = {pair['rho']:.2f};  "
        f"{sum(len(part['paths']) for part in pair['images'])} validation images, fractions at τ = {pair['tau']}",
        names=pair["concept_names"],
        patches=patches,
        visualizations=visualizations,
        samples=samples,
        curves=curves,
        summaries=[row.summary for row in summary.pair_rows(pair)],
    )
    return [write_figure(plot_path(output_dir, pair, "card"), card_figure(card))]
