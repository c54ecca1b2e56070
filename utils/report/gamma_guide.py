"""What stage 2 shows of what there is to go by in the choice of gamma: text, a panel of the overview, and a file."""

from utils.report.layer_figure_parts import label_axes
from utils.report.plots import DISENTANGLED, ORIGINAL, SUBTLE
from utils.report.sheets import SCREEN
from utils.store.files import write_json

GAMMA_FORMAT = 1
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
PRINTED = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def write_gamma(pairs_path, guide, settings):
    """Write the guide, as ``stages.gamma.gamma_guide`` returns it, beside the table of pairs; returns the path."""
    path = pairs_path.with_name(f"{pairs_path.stem}_gamma.json")
    write_json(path, {"format": GAMMA_FORMAT, "settings": settings, **guide})
    return path


def has_anything(guide):
    """Whether anything could be measured."""
    shares = (share for shares in lines_of(guide).values() for share in shares)
    return bool(guide["noise_floor"]["measured"] or guide["modes"]["measured"] or any(s is not None for s in shares))


def lines_of(guide):
    """Names and shares by gamma of clean splits."""
    clean = guide["clean"]
    return {
        "pairs under gamma": clean["pairs"]["splits"],
        "channels split at gamma": clean["groups"]["splits"],
        "their concepts": clean["groups"]["concepts"],
    }


def print_gamma(guide, gamma):
    """Print what there is to go by; nothing where nothing could be measured."""
    noise, modes = guide["noise_floor"], guide["modes"]
    if has_anything(guide):
        print(f"\nto go by in the choice of gamma ({gamma:g} here):")
    if noise["measured"]:
        print(
            f"noise floor {noise['cosine']:.2f}: so low is the cosine of the ARVs of two halves of one class's images "
            f"(median {noise['images_per_half']:g} a half) in 1 % of {noise['measured']} (channel, class), by chance "
            "alone; an upper bound for gamma, no choice"
        )
    if modes["measured"]:
        low, middle, high = modes["cosines"]
        sample = f"{modes['measured']} of {modes['of']}" if modes["measured"] < modes["of"] else f"{modes['of']}"
        print(
            f"two k-means modes within one class: median cosine {middle:.2f}, 5 % to 95 % {low:.2f} to {high:.2f} "
            f"({sample} (channel, class)); a higher gamma takes apart what one class has in it"
        )
    lines, clean = lines_of(guide), guide["clean"]
    if any(share is not None for shares in lines.values() for share in shares):
        places = [clean["gamma"].index(one) for one in PRINTED]
        pairs, channels = (f"{clean[what]['measured'][-1]} of {clean[what]['of'][-1]}" for what in ("pairs", "groups"))
        print(
            "share of clean splits on the other half of the images (own >= 0.8, others <= 0.2 of the channel's sum, "
            f"where that is positive: at gamma {clean['gamma'][-1]} in {pairs} pairs and {channels} channels):"
        )
        for name, values in {"gamma": clean["gamma"], **lines}.items():
            print(f"{name:>23}" + "".join(f"{_cell(values[place]):>6}" for place in places))


def _cell(value):
    return "-" if value is None else f"{value:.2f}"


def draw_gamma(axes, guide, gamma, sheet=SCREEN):
    """Shares of clean splits by gamma, with the noise floor and the modes within a class as marks on gamma's axis."""
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
        label = f"noise floor ({noise['images_per_half']:g} images a half)"
        axes.axvline(noise["cosine"], color="#cc79a7", linewidth=1.5, linestyle=":", label=label)
    axes.axvline(gamma, color=SUBTLE, linewidth=1, linestyle="--", label=f"γ = {gamma:g}")
    marks = [gamma, *(one for one in (low, noise["cosine"]) if one is not None)]
    axes.set(xlim=(min(0, *marks) - 0.03, 1.03), ylim=(0, 1.05))
    label_axes(axes, "γ, or cosine of ARVs", "share of clean splits", sheet)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3)} if sheet.narrow else BESIDE
    axes.legend(fontsize=sheet.type(7), frameon=False, **place)
