"""Made-up contents of figures, and checks that a figure can be read."""

import itertools
from dataclasses import replace

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from utils.method.evaluation import density_curves, fractions_of_original, summarise
from utils.method.grouping import ChannelGroups
from utils.method.polysemanticity import ClassPairs, Levels
from utils.report.card import Card
from utils.report.layer_tables import ChannelClasses
from utils.report.plots import DISENTANGLED, ORIGINAL
from utils.report.sheets import Titles
from utils.stages.split_measures import Patch

LONG = (
    "a long name of sixty characters, as some datasets have them.",
    "fifty_nine_characters_without_a_space_as_folders_have_them_too",
)


def make_card(names, images=20, constant=False, included=True, visualizations=False, others=False, residual=True):
    random, num_concepts = np.random.default_rng(0), len(names)

    def picture():
        return random.integers(0, 255, (12, 12, 3), dtype=np.uint8)

    patches = [
        [
            Patch(picture(), -1 if others and place % 2 else place % num_concepts, f"{names[0]} {place}", 2 * place + 1)
            for place in range(min(6, images))
        ]
        for _ in range(num_concepts + 1)
    ]
    samples, summaries, fractions = [], [], []
    for k in range(num_concepts):
        sums = np.full((images, num_concepts + 1), 3.0) if constant else random.normal(0, 1, (images, num_concepts + 1))
        sums[:, k] += 8
        original = sums[:, :-1].sum(1)
        labels = ("original channel", *(f"c'_{j + 1}, for {name}" for j, name in enumerate(names)))
        samples.append(dict(zip(labels, (original, *sums.T), strict=False)))
        counted = included or k > 0
        columns = range(num_concepts + residual)
        summaries.append(summarise(original, sums, np.full(images, counted)).of(columns))
        fractions.append(fractions_of_original(original, sums)[: images * counted, columns])
    pictures = [[(picture(), "12.3"), (picture(), "-4.56e+03")] for _ in range(num_concepts + 1)]
    return Card(
        channel=457,
        subtitle="resnet50, layer last; cosine 0.1",
        names=list(names),
        labels=list(samples[0]),
        colours=[ORIGINAL, *DISENTANGLED[:num_concepts]],
        patches=patches,
        patch_note="most activating first, of 40 validation images of the concepts; numbers: ranks among these",
        visualizations=pictures if visualizations else None,
        densities=[(sample, density_curves(sample)) for sample in samples],
        summaries=summaries,
        fractions=fractions,
        fractions_note="in every image c′₁ + c′₂ − r = 1: one bar follows from the others",
        residual=residual,
    )


CARDS = {
    "two": make_card(("barn", "banana")),
    "three with visualizations": make_card(("barn", "banana", "candle"), visualizations=True),
    "eight": make_card([f"class {k}" for k in range(8)]),
    "long names": make_card(LONG, visualizations=True),
    "wide letters": make_card(("W" * 60, "M" * 60), visualizations=True),
    "wide letters, four": make_card(["W" * 60] * 4),
    "one image": make_card(("barn", "banana"), images=1),
    "constant": make_card(("barn", "banana"), constant=True),
    "nothing included": make_card(("barn", "banana"), included=False),
    "whole images": replace(make_card(("barn", "banana")), patch_note=f"whole images are shown: {LONG[0]}"),
    "whole images, visualizations": replace(
        make_card(("barn", "banana", "candle"), visualizations=True), patch_note=f"whole images: {' '.join(LONG * 4)}"
    ),
    "dollars": make_card(("a$_$b", "$\\frac")),
    "others, no residual": make_card(("barn", "banana"), others=True, residual=False),
}


def texts(figure):
    """Every text that is drawn, with its box in pixels."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # all is at its place, in half the time
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [(tick, *sorted(axis.get_view_interval())) for axis in axes for tick in axis.get_major_ticks()]
    hidden = {tick.label1 for tick, low, high in ticks if not low <= tick.get_loc() <= high}
    found = dict.fromkeys(figure.findobj(Text))  # a legend's are found twice
    shown = [text for text in found if text.get_visible() and text.get_text() and text not in hidden]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


TITLES = Titles("some network, layer last", "τ = 0.03, p = 0.75")
GUIDE = {
    "noise_floor": {"quantile": 0.01, "cosine": 0.81, "images_per_half": 18.0, "measured": 505},
    "modes": {"quantiles": [0.05, 0.5, 0.95], "cosines": [0.56, 0.84, 0.93], "measured": 505, "of": 505},
    "clean": {
        "gamma": [0.3, 0.5, 0.7],
        "pairs": {
            "splits": [1.0, 0.95, 0.9],
            "concepts": [1.0, 0.97, 0.95],
            "measured": [3, 30, 300],
            "of": [3, 30, 310],
        },
        "groups": {
            "splits": [None, 0.8, 0.7],
            "concepts": [None, 0.87, 0.66],
            "measured": [0, 30, 70],
            "of": [0, 30, 75],
        },
    },
}
NAMES = {
    "short": "class {}".format,
    "long": lambda output: f"{output} a long name of $ix$ty characters, été, for a class ".ljust(60, "x"),
    "wide": lambda output: "W" * 60,
    "two lines": lambda output: f"{output}\nof two lines",
}


def class_pairs(*rows):
    """ClassPairs of (channel, class1, class2, cosine) each."""
    columns = list(zip(*rows, strict=True)) or [()] * 4
    return ClassPairs(*map(torch.LongTensor, columns[:3]), torch.tensor(columns[3], dtype=torch.float64))


def made_up_pairs(channels, classes_of, seed=0, cosines=lambda random: np.tanh(random.normal(0.65, 0.3))):
    """Pairs of ``classes_of(channel)`` classes, highest cosine first, and which channels are relevant for which."""
    random, pairs = np.random.default_rng(seed), []
    relevant = torch.zeros(60, channels, dtype=torch.bool)
    for channel in range(channels):
        classes = np.sort(random.choice(60, classes_of(channel), replace=False))
        relevant[classes, channel] = True
        for first, second in itertools.combinations(classes.tolist(), 2):
            pairs.append((channel, first, second, float(cosines(random))))
    return relevant, class_pairs(*sorted(pairs, key=lambda pair: -pair[3]))


def channel_classes(relevant, pairs, groups=None, below=()):
    """ChannelClasses of which each class is a group, unless ``groups`` has {channel: concepts}; ``below`` has the
    (class, channel, sum) in which a channel lies below its mean of 1."""
    alone = {channel: [[output] for output in range(len(relevant)) if relevant[output, channel]]
             for channel in range(relevant.shape[1]) if relevant[:, channel].any()}  # fmt: skip
    found = {**alone, **(groups or {})}
    sums = torch.full(relevant.shape, 2.0)
    for output, channel, value in below:
        sums[output, channel] = value
    groups = {channel: ChannelGroups(channel, of, torch.eye(len(of))) for channel, of in found.items()}
    return ChannelClasses(relevant, pairs, groups, Levels(sums, torch.ones(relevant.shape[1])))


def drawn(figure):
    """The figure with everything at its place, and a renderer."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure, canvas.get_renderer()


def assert_readable(figure):
    """No text over another or outside the figure, and no axes without anything in them."""
    figure, renderer = drawn(figure)
    texts = {text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()}
    for axes in figure.axes:
        if axes.axison:
            assert axes.patches or axes.collections
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (axes.axison and low <= tick.get_loc() <= high):
                    texts -= {tick.label1, tick.label2}
        if not axes.axison:
            texts -= {axes.xaxis.label, axes.yaxis.label}
    assert not any(text.get_parse_math() for text in texts if "$ix" in text.get_text())
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (text1, box1), (text2, box2) in itertools.combinations(boxes, 2):
        across = min(box1.x1, box2.x1) - max(box1.x0, box2.x0)
        down = min(box1.y1, box2.y1) - max(box1.y0, box2.y0)
        assert across <= 0.5 or down <= 2, (text1, text2)  # descenders that no letter has may touch


def made_up_similarities(pairs, seed=1):
    """Made-up path similarities, the higher the cosine the higher."""
    random = np.random.default_rng(seed)
    return [1 / int(np.clip(random.normal(14 - 8 * cosine, 4), 2, 24)) for cosine in pairs.cosine.tolist()]
