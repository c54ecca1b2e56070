"""The idea in one picture: the weights of one channel, whose inputs they belong to, and the channels it becomes.

    python -m examples.idea docs/idea.png

The numbers are made up; owners, rows and sums are computed with the functions that the stages use.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from utils.method.disentangling import disentangled_rows, merge, shares_of_owners, split_sources
from utils.method.polysemanticity import averaged_relevance_vectors
from utils.report.plots import DISENTANGLED, GREY, SUBTLE

CONCEPTS = ("digital clock", "cauliflower")
COLOURS = (GREY, DISENTANGLED[0][0], DISENTANGLED[1][0])  # of shared inputs, and of those of the two concepts
WEIGHTS = torch.tensor([0.8, 0.5, 0.3, 0.6, 0.7, 0.4, 0.3, 0.2])  # one for each input of the channel
MEAN_INPUTS = torch.tensor(  # of each concept's images, one row a concept
    [[4.0, 3.0, 2.0, 0.1, 0.2, 0.25, 1.2, 1.2], [0.25, 0.2, 0.0, 3.0, 3.0, 2.5, 1.2, 1.2]]
)
RHO = 0.7
TITLES = ("weights of $c$", "of $c'_1$", "of $c'_2$", "of residual $r$", "of $c'_1 + c'_2 - r$")


def idea_figure() -> Figure:
    """The figure: a row of weights for each channel, and beside it the channel's mean activation on both concepts."""
    arvs = averaged_relevance_vectors(WEIGHTS[:, None], MEAN_INPUTS[:, :, None])
    owners = split_sources(arvs, RHO)
    new_rows = disentangled_rows(WEIGHTS[:, None], shares_of_owners(owners, len(CONCEPTS)))[..., 0]
    rows = torch.cat([WEIGHTS[None], new_rows, merge(new_rows, dim=0)[None]])
    activations = rows @ MEAN_INPUTS.T

    figure = Figure(figsize=(9.6, 4.6))
    weights = figure.add_axes((0.135, 0.02, 0.5, 0.96))
    bars = figure.add_axes((0.655, 0.02, 0.335, 0.96))
    heights = [0.0, 1.7, 2.75, 3.8, 5.5]
    for row, activation, title, height in zip(rows, activations, TITLES, heights, strict=True):
        _draw_weights(weights, row, owners, height)
        weights.text(-0.25, height + 0.4, title, ha="right", va="center", fontsize=11)
        _draw_activations(bars, activation, height)
    _draw_words(weights, bars, owners)
    return figure


def _draw_weights(axes: Axes, row: Tensor, owners: Tensor, height: float) -> None:
    """One cell for each input: coloured if the channel reads it, and empty if its weight was set to zero."""
    for number, (weight, owner) in enumerate(zip(row.tolist(), owners.tolist(), strict=True)):
        reads = weight != 0
        colour = COLOURS[owner]
        cell = Rectangle((number + 0.04, height), 0.92, 0.8, facecolor=colour if reads else "white", edgecolor=colour)
        axes.add_patch(cell)
        text = f"{weight:.1f}".replace("-", "−") if reads else "0"
        axes.text(number + 0.5, height + 0.41, text, ha="center", va="center", color="white" if reads else colour)


def _draw_activations(axes: Axes, activation: Tensor, height: float) -> None:
    """A bar for each concept: the mean activation of the channel on its images."""
    for concept, value in enumerate(activation.tolist()):
        bottom = height + 0.06 + 0.38 * concept
        axes.add_patch(Rectangle((0, bottom), value, 0.32, facecolor=COLOURS[concept + 1]))
        axes.text(max(value, 0) + 0.1, bottom + 0.17, f"{value:.1f}".replace("-", "−"), va="center", fontsize=9)


def _draw_words(weights: Axes, bars: Axes, owners: Tensor) -> None:
    words = ("shared inputs", *(f"inputs for {concept}" for concept in CONCEPTS))
    for owner, (label, colour) in enumerate(zip(words, COLOURS, strict=True)):
        columns = (owners == owner).nonzero().flatten().tolist()
        middle = (columns[0] + columns[-1] + 1) / 2
        weights.text(middle, -0.18, label, ha="center", color=colour if owner else SUBTLE, fontsize=9)
    middle = len(WEIGHTS) / 2
    split = "split: each new channel drops the inputs of the other concept"
    merged = "merge: the same weights again, so the output stays the same"
    weights.text(middle, 1.28, split, ha="center", va="center")
    weights.text(middle, 5.08, merged, ha="center", va="center")
    bars.text(0, -0.62, "mean value on images of", fontsize=9, color=SUBTLE)
    bars.text(0, -0.18, CONCEPTS[0], fontsize=9, color=COLOURS[1])
    bars.text(2, -0.18, CONCEPTS[1], fontsize=9, color=COLOURS[2])
    weights.set_xlim(0, len(WEIGHTS))
    bars.set_xlim(-0.1, 7)
    for axes in (weights, bars):
        axes.set_ylim(6.4, -1)
        axes.axis("off")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where the picture goes, a PNG or PDF file")
    idea_figure().savefig(parser.parse_args().file, dpi=150)
