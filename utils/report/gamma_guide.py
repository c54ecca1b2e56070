"""Diagnostics for choosing gamma, as stage 2 shows them: text, a panel of the overview, and a file."""

from pathlib import Path

from matplotlib.axes import Axes

from utils.report.layer_figure_parts import label_axes
from utils.report.numbers import HYPHEN, formatted
from utils.report.plots import DISENTANGLED, ORIGINAL, SUBTLE
from utils.report.sheets import SCREEN, Sheet
from utils.store.files import write_json

GAMMA_FORMAT = 1
PRINTED = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def write_gamma(pairs_path: Path, guide: dict, settings: dict) -> Path:
    """Write a guide of ``stages.gamma_diagnostics.gamma_guide`` next to the table of pairs; returns the path."""
    path = pairs_path.with_name(f"{pairs_path.stem}_gamma.json")
    write_json(path, {"format": GAMMA_FORMAT, "settings": settings, **guide})
    return path


def has_anything(guide: dict) -> bool:
    """Whether anything could be measured."""
    return bool(guide["noise_floor"]["measured"] or guide["modes"]["measured"] or _has_shares(guide))


def _has_shares(guide: dict) -> bool:
    """Whether the share of clean splits could be measured at any gamma."""
    return any(share is not None for shares in lines_of(guide).values() for share in shares)


def lines_of(guide: dict) -> dict[str, list[float | None]]:
    """The shares of clean splits, one for each gamma, by what is split."""
    clean = guide["clean"]
    return {
        "pairs under gamma": clean["pairs"]["splits"],
        "channels split at gamma": clean["groups"]["splits"],
        "their concepts": clean["groups"]["concepts"],
    }


def print_gamma(guide: dict, gamma: float) -> None:
    """Print the diagnostics; nothing where nothing could be measured."""
    noise = guide["noise_floor"]
    modes = guide["modes"]
    if has_anything(guide):
        print(f"\ndiagnostics for choosing gamma ({gamma:g} here):")
    if noise["measured"]:
        print(
            f"noise floor {noise['cosine']:.2f}: the ARVs of two halves of one class's images (median "
            f"{noise['images_per_half']:g} images per half) have a lower cosine than this in 1 % of "
            f"{noise['measured']} (channel, class) pairs, by chance alone; an upper bound for gamma"
        )
    if modes["measured"]:
        low, middle, high = modes["cosines"]
        sample = f"{modes['measured']} of {modes['of']}" if modes["measured"] < modes["of"] else f"{modes['of']}"
        print(
            f"two k-means modes within one class: median cosine {middle:.2f}, 5 % to 95 % {low:.2f} to {high:.2f} "
            f"({sample} (channel, class) pairs); a higher gamma also separates modes within one class"
        )
    if _has_shares(guide):
        clean = guide["clean"]
        printed = [clean["gamma"].index(printed_gamma) for printed_gamma in PRINTED]
        pairs = f"{clean['pairs']['measured'][-1]} of {clean['pairs']['of'][-1]}"
        channels = f"{clean['groups']['measured'][-1]} of {clean['groups']['of'][-1]}"
        print(
            "share of splits that are clean on the other half of the images (own >= 0.8, others <= 0.2 of the "
            "channel's sum), among those where that sum is positive "
            f"(at gamma {clean['gamma'][-1]}: {pairs} pairs, {channels} channels):"
        )
        for name, values in {"gamma": clean["gamma"], **lines_of(guide)}.items():
            print(f"{name:>23}" + "".join(f"{formatted(values[number], missing=HYPHEN):>6}" for number in printed))


def draw_gamma(axes: Axes, guide: dict, gamma: float, sheet: Sheet = SCREEN) -> None:
    """Shares of clean splits by gamma; the noise floor and the modes within a class are marks on gamma's axis."""
    styles = (ORIGINAL, *DISENTANGLED)
    for (name, values), (colour, line) in zip(lines_of(guide).items(), styles, strict=False):
        shown = [(x, y) for x, y in zip(guide["clean"]["gamma"], values, strict=True) if y is not None]
        if shown:
            axes.plot(
                *zip(*shown, strict=True), color=colour, linestyle=line, linewidth=1.5, label=name.replace("gamma", "γ")
            )
    low, middle, high = guide["modes"]["cosines"]
    if middle is not None:
        label = "two modes within a class (median, 5 to 95 %)"
        axes.errorbar(middle, 0.08, xerr=[[middle - low], [high - middle]], fmt="D", color="#009e73", label=label)
    noise = guide["noise_floor"]
    if noise["measured"]:
        label = f"noise floor ({noise['images_per_half']:g} images per half)"
        axes.axvline(noise["cosine"], color="#cc79a7", linewidth=1.5, linestyle=":", label=label)
    axes.axvline(gamma, color=SUBTLE, linewidth=1, linestyle="--", label=f"γ = {gamma:g}")
    marks = [gamma, *(mark for mark in (low, noise["cosine"]) if mark is not None)]
    axes.set(xlim=(min(0, *marks) - 0.03, 1.03), ylim=(0, 1.05))
    label_axes(axes, "γ, or cosine of ARVs", "share of clean splits", sheet)
    if sheet.narrow:
        axes.legend(fontsize=sheet.type(7), frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.3))
    else:
        axes.legend(fontsize=sheet.type(7), frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
