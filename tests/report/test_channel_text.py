"""Stage 2's best channels and the page of one channel: numbers against loops, and why it is a candidate or not."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.scripts import printed_pairs
from utils.images.folders import ClassMap
from utils.method.grouping import class_groups
from utils.method.importance import relevant_classes
from utils.method.polysemanticity import Levels, class_pairs, gamma_polysemantic
from utils.report.channel_text import NEAREST, LayerFindings, lowest_pairs, print_best, print_channel, smaller_p
from utils.report.layer_tables import ChannelClasses

NAMES = [f"class {letter}" for letter in "abcdefghijklmnop"]
ASKED = {
    **{"model": "m", "layer": "l", "tau": 0.01, "p": 0.6, "gamma": 0.5, "cosines": [0.0, 0.5]},
    **{"only_correct": False, "min_images": 4, "only_above_mean": False},
}


def layer(counts, arvs, images, **changes):
    """Stage 2's findings of a layer of which channel c has ``arvs`` [T][C_in], and a class ``images`` [T].

    ``counts`` [T, C]; each channel has a part of the inputs of its own, of weight one.
    """
    asked = {**ASKED, **changes}
    counts, images, arvs = torch.tensor(counts), torch.tensor(images), torch.tensor(arvs, dtype=torch.float64)
    num_channels, size = counts.shape[1], arvs.shape[2]
    weight = torch.zeros(num_channels, num_channels * size, 1)
    for channel in range(num_channels):
        weight[channel, channel * size : (channel + 1) * size] = 1
    means = arvs.transpose(0, 1).flatten(1)[..., None]
    sums = torch.einsum("cit,nit->nc", weight.double(), means)
    levels = Levels(sums, (sums * images[:, None]).sum(0) / images.sum())
    relevant = relevant_classes(counts, images, asked["p"], asked["min_images"])
    relevant &= ~levels.below if asked["only_above_mean"] else True
    pairs = class_pairs(weight, means, relevant)
    groups = class_groups(weight, means, relevant, asked["gamma"])
    low, high = asked["cosines"]
    kept = pairs[(pairs.cosine >= low) & gamma_polysemantic(pairs.cosine, high)]
    return LayerFindings(
        settings=asked,
        layer=SimpleNamespace(weight=weight, mean_inputs=means[None], images=images[None]),
        channels=ChannelClasses(relevant, pairs, groups, levels),
        candidates=kept,
        counts=counts,
        classes=ClassMap({NAMES[output]: output for output in range(len(images))}),
    )


def of_one(counts, images, vectors, **changes):
    """A layer of one channel, with a vector for each class."""
    return layer([[count] for count in counts], [vectors], images, **changes)


def page(made, channel, capsys):
    print_channel(channel, made)
    return capsys.readouterr().out.splitlines()


def rows_of(lines):
    """{class: (share, count, images, what)} of a page's table of classes."""
    found = (re.fullmatch(r" *([\d.]+) +(\d+) of (\d+) +(class \w) +\d+  (.*)", line) for line in lines)
    return {row[4]: (float(row[1]), int(row[2]), int(row[3]), row[5]) for row in found if row}


VECTORS = [[5, 0, 1], [4, 1, 1], [0, 5, 1], [1, 0, 5], [1, 1, 1], [0, 0, 0]]


def test_a_candidate_has_its_classes_cosines_and_groups(capsys):
    made = of_one([9, 7, 8, 4, 2, 0], [10, 10, 9, 4, 5, 3], VECTORS)
    lines = page(made, 0, capsys)
    settings = "channel 0 of m, layer l: tau 0.01, p 0.6, gamma 0.5, 0 <= cosine < 0.5, classes of at least 4 images"
    assert settings in lines

    def cosine(a, b):
        (x, y) = (VECTORS[place] for place in (a, b))
        return sum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)

    all_pairs = {(a, b): cosine(a, b) for a in range(4) for b in range(a)}
    lowest = min(all_pairs, key=all_pairs.get)
    under = sum(0 <= value < 0.5 for value in all_pairs.values())
    assert "a candidate: relevant for 4 classes" in lines
    assert (
        f"pairs with 0 <= cosine < 0.5: {under} of 6; lowest cosine between classes {all_pairs[lowest]:.3f}, "
        f"{NAMES[lowest[1]]} {lowest[1]} / {NAMES[lowest[0]]} {lowest[0]}"
    ) in lines
    means = [[4.5, 0.5, 1], VECTORS[2], VECTORS[3]]
    concepts = [sum(p * q for p, q in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
                for x, y in ((means[0], means[1]), (means[0], means[2]), (means[1], means[2]))]  # fmt: skip
    assert f"groups at gamma 0.5: 3; lowest cosine between concepts {min(concepts):.3f}" in lines
    assert rows_of(lines) == {
        "class a": (0.9, 9, 10, "concept 1"),
        "class b": (0.7, 7, 10, "concept 1"),
        "class c": (0.89, 8, 9, "concept 2"),
        "class d": (1.0, 4, 4, "concept 3"),
        "class e": (0.4, 2, 5, "not relevant: share below p 0.6"),
    }
    matrix = [line for line in lines if re.match(r" \d class ", line)]
    for row, line in enumerate(matrix):
        numbers = [float(text) for text in re.findall(r"-?\d+\.\d+", line)]
        assert numbers == pytest.approx([all_pairs[row, column] for column in range(row)], abs=0.0051)
    assert len(matrix) == 4
    table = ["cosine between concepts", "       1     2", " 1"]
    table += [f" 2{concepts[0]:6.2f}", f" 3{concepts[1]:6.2f}{concepts[2]:6.2f}"]
    assert "\n".join(table) in "\n".join(lines)


def test_why_a_class_is_not_relevant(capsys):
    """Too few images, a share below p, a channel that lies below its mean: each alone, and together."""
    vectors = [[5, 1, 0], [0, 1, 0], [5, 0, 0], [0, 0.5, 0], [4, 0, 0]]
    made = of_one([9, 9, 3, 1, 8], [10, 10, 3, 3, 10], vectors, only_above_mean=True)
    what = {name: row[3] for name, row in rows_of(page(made, 0, capsys)).items()}
    assert what == {
        "class a": "concept 1",
        "class b": "not relevant: below the channel's mean",
        "class c": "not relevant: fewer than 4 images",
        "class d": "not relevant: share below p 0.6, fewer than 4 images, below the channel's mean",
        "class e": "concept 1",
    }
    made = of_one([9, 9, 3, 1, 8], [10, 10, 3, 3, 10], vectors)
    assert rows_of(page(made, 0, capsys))["class b"] == (0.9, 9, 10, "concept 2, low (+)")


ALIKE = [[1, 0.1], [1, 0.2], [1, 0.1]]
NONE = "no candidate: relevant for no classes, but two are needed"
ONE = "no candidate: relevant for 1 class, but two are needed"


@pytest.mark.parametrize(
    ("counts", "vectors", "changes", "expected"),
    [
        ([0, 0, 0], ALIKE, {}, [NONE]),
        ([5, 4, 0], ALIKE, {}, [f"{NONE}; with --p 0.4 there would be two"]),
        ([9, 3, 0], ALIKE, {}, [f"{ONE}; with --p 0.3 there would be two"]),
        ([9, 0, 0], ALIKE, {}, [ONE]),
        (
            [9, 9, 0],
            ALIKE,
            {},
            [
                "no candidate: relevant for 2 classes",
                "pairs with 0 <= cosine < 0.5: 0 of 1; lowest cosine between classes 0.995, class a 0 / class b 1",
                "groups at gamma 0.5: 1; it serves its classes by the same inputs",
            ],
        ),
        (
            [9, 9, 0],
            [[1, 0], [-1, 0.1], [1, 1]],
            {},
            [
                "no candidate: relevant for 2 classes",
                "pairs with 0 <= cosine < 0.5: 0 of 1; lowest cosine between classes -0.995, class a 0 / class b 1",
                "pairs below 0, which are left out: 1; add --cos_sim_low -1 to keep them",
                "groups at gamma 0.5: 2; lowest cosine between concepts -0.995",
            ],
        ),
        (
            [9, 9, 9],
            [[1, 0], [1, 0.9], [0.5, 1.5]],
            {},
            [
                "a candidate: relevant for 3 classes",
                "pairs with 0 <= cosine < 0.5: 1 of 3; lowest cosine between classes 0.316, class a 0 / class c 2",
                "groups at gamma 0.5: 1; polysemantic, but other classes connect these two",
            ],
        ),
        (
            [9, 9, 0],
            ALIKE,
            {"cosines": [0.0, 1.0]},
            [
                "a candidate: relevant for 2 classes",
                "pairs with 0 <= cosine < 1: 1 of 1; lowest cosine between classes 0.995, class a 0 / class b 1",
                "groups at gamma 0.5: 1; it serves its classes by the same inputs",
            ],
        ),
    ],
)
def test_why_a_channel_is_a_candidate_or_not(counts, vectors, changes, expected, capsys):
    lines = page(of_one(counts, [10, 10, 10], vectors, **changes), 0, capsys)
    assert "\n".join(expected) in "\n".join(lines)


def test_only_the_nearest_classes_are_shown_and_the_others_are_counted(capsys):
    counts = [*range(1, 15), 0, 0]
    made = of_one(counts, [40] * 15 + [0], [[1.0, 0]] * 16)
    lines = page(made, 0, capsys)
    assert list(rows_of(lines)) == [NAMES[output] for output in range(13, 13 - NEAREST, -1)]
    assert [line for line in lines if " more classes: " in line] == [
        "4 more classes: shares of at most 0.10",
        "1 more classes: relevant in none of their images; 1 without images that count",
    ]


def test_the_smaller_p_is_one_that_finds_two_classes():
    images = torch.tensor([30, 30, 3, 29])
    counts = torch.tensor([[14], [11], [3], [10]])
    made = of_one(counts[:, 0].tolist(), images.tolist(), [[1.0, 0]] * 4)
    p = smaller_p(0, made)
    assert p == 0.36
    assert relevant_classes(counts, images, p, 4).sum() == 2
    assert relevant_classes(counts, images, p + 0.01, 4).sum() == 1


def several():
    """Channels 0 to 3: two pairs, none, one that is lower, one that is not relevant for a second class."""
    counts = [[9, 9, 9, 9], [9, 9, 9, 0], [9, 0, 0, 0]]
    arvs = [
        [[1, 0.0], [0.4, 1], [0.3, 1]],
        [[1, 0.0], [1, 0.1], [1, 1]],
        [[1, 0.0], [0.1, 1], [1, 1]],
        [[1, 0.0], [1, 1], [1, 1]],
    ]
    return layer(counts, arvs, [10, 12, 13], min_images=1)


def test_the_best_channels_come_first_each_with_its_lowest_pair(capsys):
    made = several()
    found = list(lowest_pairs(made.candidates).rows())
    assert [row[:3] for row in found] == [(2, 0, 1), (0, 0, 2)]
    for number in (1, 2, 9):
        print_best(made, number)
        out = capsys.readouterr().out
        shown = found[:number]
        assert (
            f"\n{len(shown)} of 2 channels with pairs, in the order of the lowest cosine between two of their classes\n"
            in out
        )
        assert [tuple(pair.values())[:3] for pair in printed_pairs(out)] == [row[:3] for row in shown]
        rows = [line.split() for line in out.splitlines() if re.match(r" +\d ", line)]
        for row, (channel, *pair, cosine) in zip(rows, shown, strict=True):
            most = max(pair)  # the class of most images, with 9 of them: that of the smallest share
            least = f"{9 / (10, 12, 13)[most]:.2f}", str((10, 12, 13)[min(pair)])
            assert row[:2] == [str(channel), f"{cosine:.3f}"]
            assert row[3:6] == [str(made.channels.num_classes[channel]), *least]
        assert "{class a}, {class b, class c}" in out or number == 1


def test_without_a_pair_there_is_no_best_channel(capsys):
    made = several()
    print_best(replace(made, candidates=made.candidates[:0]), 3)
    out = capsys.readouterr().out
    assert out == "\n0 of 0 channels with pairs, in the order of the lowest cosine between two of their classes\n"
