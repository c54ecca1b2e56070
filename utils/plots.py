"""Figures: one colour for one thing everywhere, told apart in grey print by their lines."""

import textwrap

from matplotlib.figure import Figure

ORIGINAL = ("#222222", "-")
DISENTANGLED = (
    ("#0072b2", "--"),
    ("#d55e00", "-."),
    ("#009e73", (0, (1, 1))),
    ("#cc79a7", (0, (5, 1, 1, 1, 1, 1))),
    ("#e69f00", (0, (8, 2))),
    ("#56b4e9", (0, (3, 3))),
    ("#7b5ea7", (0, (6, 1, 1, 1))),
    ("#8c6d31", (0, (2, 2))),
)


def density_figure(samples, grid, curves, title, subtitle):
    """Density of the spatial sums of the original channel and of each disentangled one.

    Parameters
    ----------
    samples : dict of label -> array [n]
        The original channel first, then ``c'_1 .. c'_K``.
    grid, curves
        Of ``evaluation.density_curves``. A sample without a density is drawn as ticks, with a note.
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    axes = figure.subplots()
    for (label, sample), (colour, line) in zip(samples.items(), (ORIGINAL, *DISENTANGLED), strict=False):
        if curves[label] is None:
            note = f"{label}: {sample[0]:.3g} in every image, no density"
            axes.plot(sample, [0] * len(sample), "|", color=colour, markersize=18, markeredgewidth=2, label=note)
        else:
            axes.plot(grid, curves[label], color=colour, linestyle=line, linewidth=1.8, label=label)
            axes.fill_between(grid, curves[label], color=colour, alpha=0.08, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(grid[0], grid[-1])
    axes.set_xlabel("activation, summed over space")
    axes.set_ylabel("density")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.suptitle(textwrap.fill(title, 60), fontsize=11)
    axes.set_title(textwrap.fill(subtitle, 90), fontsize=8, color="#555555")
    return figure
