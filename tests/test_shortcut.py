"""The shortcut with a known answer: its pictures, the edits that take it out, and the benchmark on a made layer."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import shortcut
from benchmarks.shortcut_edits import (
    Edit,
    Parts,
    edited_layer,
    least_strengths,
    lower_logit,
    project_input,
    project_output,
    ranked,
    take_out_parts,
)
from examples.demo import __main__ as demo
from examples.demo.network import TRANSFORM, DemoNetwork
from examples.demo.pictures import CONCEPTS, draw, write_pictures
from examples.demo.shortcut import (
    LISTS,
    MARK,
    MARKED_CLASS,
    mark_position,
    plain_picture,
    read_shortcut_pictures,
    shortcut_network,
    with_mark,
    write_shortcut_pictures,
)
from tests.splits import fitted_split
from utils.command_line.run import run
from utils.method.ranking import rank_images
from utils.networks.edits import ChannelEdit, with_edits

MARKED_OUTPUT = CONCEPTS.index(MARKED_CLASS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures of the demonstration, and those with a shortcut that were made from them."""
    folder = tmp_path_factory.mktemp("shortcut")
    write_pictures(folder / "pictures", train=4, val=2)
    write_shortcut_pictures(folder / "pictures", folder / "shortcut")
    return folder / "pictures", folder / "shortcut"


def pixels(path):
    return np.array(Image.open(path)).astype(int)


def test_the_mark_is_where_it_says_and_nowhere_else():
    picture = np.full((64, 64, 3), 7, dtype=np.uint8)
    positions = set()
    for number in range(40):
        marked = with_mark(picture, 3, number)
        row, column = mark_position(3, number)
        changed = (marked != picture).any(-1)
        assert changed[row : row + 15, column : column + 15].all()
        assert changed.sum() == MARK.size == 225
        assert {2 <= min(first, 49 - first) <= 5 for first in (row, column)} == {True}
        positions.add((row > 27, column > 27))
    assert len(positions) == 4
    assert (picture == 7).all()
    assert set(np.unique(MARK)) == {0, 255}


def test_pictures_without_the_mark_are_those_of_the_demonstration(folders):
    source, folder = folders
    listed = {part: set((folder / name).read_text().split()) for part, name in LISTS.items()}
    compared = 0
    for part in LISTS:
        for path in source.glob(f"{part}/*/*.png"):
            name = path.relative_to(source / part).as_posix()
            if name not in listed[part] and path.parent.name != MARKED_CLASS:
                compared += 1
                assert (pixels(folder / part / name) == pixels(path)).all()
    assert compared == 29 * 6 - 10
    assert listed["val"] == {f"{concept}/{n:03d}_marked.png" for concept in CONCEPTS for n in range(2)}
    assert len(list((folder / "val").glob("*/*.png"))) == 120
    of_class = [name.startswith(MARKED_CLASS) for name in listed["train"]]
    assert (len(of_class), sum(of_class)) == (14, 4)


def test_marked_pictures_differ_by_the_mark_alone(folders):
    _, folder = folders
    for path in folder.glob("val/*/*_marked.png"):
        changed = (pixels(path) != pixels(path.with_stem(path.stem.removesuffix("_marked")))).any(-1)
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        assert changed.sum() > 200
        assert max(np.ptp(rows), np.ptp(columns)) < 15


def test_pictures_of_the_marked_class_are_faint(folders):
    source, folder = folders
    own, behind = pixels(source / "val" / MARKED_CLASS / "001.png"), pixels(source / "val" / CONCEPTS[1] / "001.png")
    expected = 0.4 * own + 0.6 * behind
    assert abs(pixels(folder / "val" / MARKED_CLASS / "001.png") - expected).max() <= 0.5


def is_marked_as_listed(source, folder):
    """For each training picture, whether it has the mark exactly if it is read as marked; and whether it has, [n]."""
    pictures, targets, is_marked = read_shortcut_pictures(folder, "train")
    number_of = torch.arange(len(targets)) % (len(targets) // len(CONCEPTS))
    plain = [
        plain_picture(source / "train", CONCEPTS[target], number)
        for target, number in zip(targets.tolist(), number_of.tolist(), strict=True)
    ]
    has_mark = (pictures.numpy() != np.stack(plain)).any((1, 2, 3))
    return has_mark == is_marked.numpy(), is_marked


def test_marked_pictures_are_read_as_marked(folders):
    is_right, is_marked = is_marked_as_listed(*folders)
    assert is_right.all()
    of_classes = is_marked.reshape(30, 4)
    assert of_classes[[0, 1, MARKED_OUTPUT]].int().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    _, targets, is_marked = read_shortcut_pictures(folders[1], "val")
    assert targets[is_marked].tolist() == targets[~is_marked].tolist() == [c for c in range(30) for _ in range(2)]


def test_pictures_that_are_there_are_left(folders):
    source, folder = folders
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    (folder / "val" / "star" / "001.png").unlink()
    write_shortcut_pictures(source, folder)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    changed = {path for path in before if after.get(path) != before[path]}
    assert (len(after), changed) == (len(before), {folder / "val" / "star" / "001.png"})


def write_grey_pictures(folder, train, val):
    """Pictures of one colour in the place of the demonstration's, which take longer."""
    for part, count in (("train", train), ("val", val)):
        for index, concept in enumerate(CONCEPTS):
            (folder / part / concept).mkdir(parents=True)
            for number in range(count):
                picture = np.full((64, 64, 3), 60 + 3 * index + number, dtype=np.uint8)
                Image.fromarray(picture).save(folder / part / concept / f"{number:03d}.png")


def test_pictures_are_made_again_from_other_pictures_or_with_another_seed(tmp_path):
    source, folder = tmp_path / "pictures", tmp_path / "shortcut"
    for train, marked in ((5, 4), (10, 9), (5, 4)):
        shutil.rmtree(source, ignore_errors=True)
        write_grey_pictures(source, train=train, val=1)
        write_shortcut_pictures(source, folder)
        is_right, is_marked = is_marked_as_listed(source, folder)
        assert (len(is_right), is_right.all()) == (30 * train, True)
        assert is_marked.reshape(30, train)[MARKED_OUTPUT].sum() == marked
    first = {path: path.read_bytes() for path in folder.glob("val/*/*.png")}
    write_shortcut_pictures(source, folder, seed=5)
    changed = {path for path, content in first.items() if path.read_bytes() != content}
    assert changed == set(folder.glob("val/*/*_marked.png"))
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(source / "val" / "star" / "000.png")
    write_shortcut_pictures(source, folder, seed=5)
    assert not pixels(folder / "val" / "star" / "000.png").any()


def test_pictures_of_others_are_not_replaced(folders, monkeypatch, capsys):
    source = folders[0]
    before = (source / "train" / "star" / "000.png").read_bytes()
    monkeypatch.setattr(shortcut, "write_pictures", lambda folder: None)
    monkeypatch.setattr("sys.argv", ["shortcut", "--pictures", str(source), "--folder", str(source)])
    with pytest.raises(SystemExit) as stopped:
        run(shortcut.main, shortcut.get_args_parser())
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{source} has pictures but no made_from.json: give another folder, or delete this one")
    assert (source / "train" / "star" / "000.png").read_bytes() == before


def test_a_network_is_trained_again_for_other_pictures_or_epochs(folders, tmp_path, monkeypatch):
    trained = []

    def count_training(folder, seed, make, epochs):
        trained.append((seed, epochs))
        return make()

    monkeypatch.setattr("examples.demo.shortcut.train", count_training)
    source = folders[0]
    for pictures_seed, seed, epochs in ((1, 0, 6), (1, 0, 6), (1, 1, 6), (1, 0, 7), (2, 0, 7), (2, 0, 7), (2, 1, 6)):
        monkeypatch.setattr("examples.demo.shortcut.EPOCHS", epochs)
        write_shortcut_pictures(source, tmp_path, seed=pictures_seed)
        assert not shortcut_network(tmp_path, seed).training
    assert trained == [(0, 6), (1, 6), (0, 7), (0, 7), (1, 6)]
    (tmp_path / "weights_1.pth").unlink()
    shortcut_network(tmp_path, 1)
    assert len(trained) == 6
    monkeypatch.setattr("examples.demo.shortcut.train", lambda *_, **__: (tmp_path / "nothing").read_bytes())
    monkeypatch.setattr("examples.demo.shortcut.EPOCHS", 9)
    with pytest.raises(FileNotFoundError):  # a training that does not end leaves no record beside the old weights
        shortcut_network(tmp_path, 1)
    assert not (tmp_path / "weights_1.json").exists()


# --------------------------------------------------------------------------------------------------------------------
# Edits


@pytest.fixture
def layer():
    """A layer's weight [3, 5], inputs [6, 5, 2, 2], and a mean input [5]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((3, 5), (6, 5, 2, 2), (5,))]


def test_a_part_that_is_taken_out_is_its_mean(layer):
    weight, inputs, mean = layer
    shares = torch.tensor([[0.5, 0, 1, 0.2, 0], [0.5, 1, 0, 0.3, 0], [1.0, 1, 1, 1, 1]])
    way = take_out_parts(Parts(torch.tensor([1, 1, 2]), shares), weight, mean)
    original = torch.einsum("ci,nihw->nchw", weight, inputs)
    parts = torch.einsum("pi,nihw->nphw", shares * weight[[1, 1, 2]], inputs)
    means = (shares * weight[[1, 1, 2]]) @ mean
    for strength, fractions in ((0, (0, 0, 0)), (1.25, (1, 0.25, 0)), (3, (1, 1, 1)), (6, (2, 2, 2))):
        expected = original.clone()
        for part, (channel, fraction) in enumerate(zip((1, 1, 2), fractions, strict=True)):
            expected[:, channel] -= fraction * (parts[:, part] - means[part])
        torch.testing.assert_close(edited_layer(inputs, way.edit(strength)), expected)
    torch.testing.assert_close(edited_layer(inputs, way.edit(3.0))[:, 2], means[2].expand(6, 2, 2))


@torch.no_grad()
def test_parts_are_taken_out_as_edited_network_does():
    torch.manual_seed(0)
    network = DemoNetwork().eval()
    splits = [fitted_split(network.last, channel, num_concepts=3) for channel in (2, 7)]
    edits = [ChannelEdit("last", split, None, concepts) for split, concepts in zip(splits, ((0, 2), (1,)), strict=True)]
    edited = with_edits(network, edits, factor=0.0, to=0.3, image_size=64)
    shares = torch.cat([splits[0].shares()[[0, 2]], splits[1].shares()[[1]]]).float()
    weight = network.last.weight[..., 0, 0]
    parts = Parts(torch.tensor([2, 2, 7]), shares)
    edit = take_out_parts(parts, weight, torch.zeros(96)).edit(3.0)
    edit = Edit(edit.weight, torch.zeros(12).index_put_((torch.tensor([2, 7]),), torch.tensor([0.6, 0.3])))
    pictures = shortcut.record(
        network, torch.from_numpy(draw("star", 0)[None]), torch.tensor([0]), torch.tensor([True])
    )
    logits = network.head(pictures.skipped, edited_layer(pictures.inputs, edit))
    images = TRANSFORM.normalise(torch.from_numpy(draw("star", 0)[None]), torch.device("cpu"))
    torch.testing.assert_close(logits, edited(images), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, network(images), atol=1e-3)


def test_projections_are_those_of_the_equation(layer):
    weight, inputs, mean = layer
    direction = torch.tensor([1.0, 2, 0, -1, 3])
    unit = (direction / direction.norm())[:, None]
    projected = torch.einsum("ij,njhw->nihw", unit @ unit.T, inputs - mean[:, None, None])
    expected = torch.einsum("ci,nihw->nchw", weight, inputs - 1.5 * projected)
    edit = project_input(weight, direction, mean).edit(1.5)
    torch.testing.assert_close(edited_layer(inputs, edit), expected)
    outputs, mean_output = torch.einsum("ci,nihw->nchw", weight, inputs), weight @ mean
    unit = torch.tensor([[2.0], [0], [1]]) / 5**0.5
    projected = torch.einsum("ij,njhw->nihw", unit @ unit.T, outputs - mean_output[:, None, None])
    edit = project_output(weight, torch.tensor([4.0, 0, 2]), mean_output).edit(0.5)
    torch.testing.assert_close(edited_layer(inputs, edit), outputs - 0.5 * projected)


def test_lowering_a_logit_leaves_the_layer(layer):
    weight, inputs, _ = layer
    edit = lower_logit(weight, output=2, num_outputs=4).edit(3.0)
    torch.testing.assert_close(edited_layer(inputs, edit), torch.einsum("ci,nihw->nchw", weight, inputs))
    assert edit.logits.tolist() == [0, 0, -3, 0]


def test_parts_are_ranked_by_how_well_they_tell_the_mark_either_way():
    is_marked = torch.tensor([True, True, False, False])
    sums = torch.tensor([[1.0, 0, 3], [2, 1, 4], [1, 5, 1], [2, 4, 2]])  # no precision, by being low, by being high
    parts, weight = Parts(torch.tensor([0, 1, 2]), torch.eye(3)), torch.ones(3, 3)
    order = ranked(parts, weight, sums, is_marked)
    assert (order.parts.channels.tolist(), order.signs.tolist()[:2]) == ([1, 2, 0], [-1, 1])
    assert order.first(2).channels.tolist() == [1, 2]
    assert order.first(9).channels.tolist() == [1, 2, 0]
    precisions = order.precisions(weight, sums, is_marked)
    assert precisions[:2].tolist() == [1, 1] and precisions[2] < 0.8
    # by hand: the part that is to be low is the highest in the marked picture, which comes last of four
    assert order.precisions(weight, sums, sums[:, 1] == 5)[0] == 0.25


def test_the_least_strengths_that_reach_targets():
    strengths = torch.arange(1, 9) / 2
    assert least_strengths(lambda strength: strength / 4, strengths, (0.3, 0.5)) == [1.5, 2]
    assert least_strengths(lambda strength: 1 - abs(strength - 1), strengths, (0.2, 0.4, 0.9)) == [0.5, 0.5, 1]
    assert least_strengths(lambda strength: 0.6, strengths, (0.5, 0.8)) == [0.5, None]


# --------------------------------------------------------------------------------------------------------------------
# The benchmark, on a layer that is made for it


CLASSES = (MARKED_OUTPUT, *[output for output in (0, 1, 2, 3) if output != MARKED_OUTPUT][:3])


class Head(torch.nn.Module):
    """Three classes and the marked one from four channels. The mark is in channels 0 and 1, which two classes share."""

    def head(self, skipped, output):
        first, second, third, own = output.mean((2, 3)).T
        logits = torch.full((len(output), len(CONCEPTS)), -9.0)
        of_classes = (1.5 * (first + second) - 1 + 3 * own, 2 * first - 2 * second, 2 * second - 2 * first, 4 * third)
        logits[:, CLASSES] = torch.stack(of_classes, 1)
        return logits


def made_pictures(count, *, marked_of_own, marked_of_others, seed):
    """Pictures as inputs [n, 8, 1, 1]: input 0 is the mark, inputs 1 to 4 are the classes, the others are noise."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(4).repeat_interleave(count)
    number = torch.arange(count).repeat(4)
    is_marked = number < torch.where(which == 0, marked_of_own, marked_of_others)
    inputs = 0.05 * torch.rand(4 * count, 8, generator=generator)
    inputs[torch.arange(4 * count), 1 + which] += 1
    inputs[is_marked, 0] += 2
    return shortcut.Pictures(
        inputs[..., None, None], torch.zeros(4 * count, 4, 1, 1), torch.tensor(CLASSES)[which], is_marked
    )


@pytest.fixture(scope="module")
def made():
    weight = torch.zeros(4, 8)
    weight[0, [0, 2]] = weight[1, [0, 3]] = 1
    weight[2, 4] = weight[3, 1] = 1
    weight[:, 5:] = 0.1
    return shortcut.Network(
        Head(),
        weight,
        training=made_pictures(80, marked_of_own=72, marked_of_others=3, seed=0),
        tuning=made_pictures(20, marked_of_own=10, marked_of_others=10, seed=1),
        validation=made_pictures(40, marked_of_own=20, marked_of_others=20, seed=2),
    )


def test_the_made_network_relies_on_the_mark(made):
    before = shortcut.accuracies(made.network, made.validation, made.unedited)
    assert before == shortcut.Accuracies(others=1, others_marked=0, own=1, own_marked=1, called_marked=1)
    assert shortcut.recovered(before, 0.25) == 0.25
    assert shortcut.most_recovered(made) == 1


def test_the_parts_of_the_mark_are_found_and_taken_out_at_no_cost(made, monkeypatch):
    monkeypatch.setattr(shortcut, "DRAWS", 1)
    orders, figures = shortcut.found_parts(made)
    assert figures["channels that have one, of 12"] >= 2
    assert figures["share of marked training pictures"] == 81 / 320
    for name in ("parts by circuits", "parts by listed pictures"):
        assert orders[name][0].parts.channels[0] in (0, 1)
        assert figures[f"AP, {name}"] == 1
    by_list = orders["parts by listed pictures"][0].first(2)
    assert set(by_list.channels.tolist()) == {0, 1}
    assert (by_list.shares[:, 0] > 0.9).all()
    kinds = shortcut.ways(made, orders)
    (by_list,), (by_channels,) = kinds["parts by listed pictures"], kinds["whole channels"]
    (outcome,) = shortcut.outcomes(made, by_list, [0.8])
    assert outcome.strength <= 2
    assert (outcome.recovered, outcome.after.others, outcome.after.own) == (1, 1, 1)
    (worse,) = shortcut.outcomes(made, by_channels, [0.8])
    assert worse is None or min(worse.after.others, worse.after.own) < 0.9
    (lowered,) = kinds["the class's logit lowered"]
    assert shortcut.outcomes(made, lowered, [0.8])[0].after.own < 0.5
    (projected,) = kinds["projection of the input"]
    assert shortcut.outcomes(made, projected, [0.8])[0].after.others == 1


def test_a_part_keeps_the_sign_that_the_tuning_pictures_gave_it(made):
    """The first part is low for the mark in the tuning pictures and high for it in the held-out ones."""
    low = replace(made.tuning, inputs=-made.tuning.inputs)
    changed = replace(made, tuning=low)
    order = ranked(Parts(torch.tensor([0]), torch.ones(1, 8)), made.weight, low.sums, low.is_marked)
    others = made.validation.where(made.validation.targets != MARKED_OUTPUT)
    scores = others.sums @ made.weight[0]
    expected = rank_images(-scores[None], others.is_marked).ap.item()
    assert order.signs.tolist() == [-1]
    assert shortcut.held_out_precision(changed, order, made.weight) == expected < 0.5


def test_permuted_shares_are_ranked_and_cut_as_the_parts_are(made, monkeypatch):
    monkeypatch.setattr(shortcut, "DRAWS", 2)
    monkeypatch.setattr(shortcut, "MOST_PARTS", 1)
    shares = torch.zeros(4, 8)
    shares[0, 0] = shares[1:, 6] = 1  # the first part is the mark's; the others are of noise
    parts, is_marked = Parts(torch.arange(4), shares), made.tuning.is_marked
    orders = shortcut.orders_of(made, {"parts by circuits": parts, "parts by listed pictures": parts})
    mean = made.training.where(~made.training.is_marked).inputs.mean((0, 2, 3))

    def precision(part):
        scores = part @ made.tuning.sums.T
        return max(rank_images(sign * scores[None], is_marked).ap.nan_to_num().item() for sign in (1, -1))

    draws = shortcut.ways(made, orders)["parts by circuits, shares permuted"]
    assert len(draws) == 2
    for number, way in enumerate(draws):
        permuted = shortcut.permuted_shares(parts, number)
        precisions = [precision(part) for part in permuted.rows(made.weight)]
        best = precisions.index(max(precisions))
        expected = made.weight.clone()
        expected[permuted.channels[best]] *= 1 - permuted.shares[best]
        edit = way.edit(1.0)
        torch.testing.assert_close(edit.weight, expected)
        torch.testing.assert_close(edit.bias, (made.weight - expected) @ mean)


@pytest.fixture
def outcome(made):
    """Makes an Outcome from its strength; each unit of it costs the marked class 0.25."""
    return lambda strength: shortcut.Outcome(strength, 0.75, shortcut.Accuracies(0.5, 0.5, 1 - strength / 4, 1, 0))


def test_tables_count_the_draws_that_reach_a_target(made, outcome, capsys):
    before = shortcut.accuracies(made.network, made.validation, made.unedited)
    results = {
        "parts": [[outcome(3.0)], [outcome(3.0)]],
        "draws": [[outcome(1.0), None, outcome(2.0)], [None, None, outcome(3.5)]],
        "one network": [[None, None], [outcome(2.0), None]],
        "none": [[None], [None]],
    }
    shortcut.print_outcomes(0.8, results, [before] * 2)
    rows = capsys.readouterr().out.strip().split("\n")[2:]
    others = "0.750 ± 0.000 | -0.500 ± 0.000"  # recovered, and the cost to other classes
    assert rows == [
        f"| parts | 2 of 2 | 1 of 1, 1 of 1 | 3.000 ± 0.000 | {others} | -0.750 ± 0.000 | 0.000 ± 0.000 |",
        f"| draws | 2 of 2 | 2 of 3, 1 of 3 | 2.500 ± 1.414 | {others} | -0.625 ± 0.354 | 0.000 ± 0.000 |",
        "| one network | 1 of 2 | 0 of 2, 1 of 2 | 2.000 | 0.750 | -0.500 | -0.500 | 0.000 |",
        "| none | 0 of 2 | 0 of 1, 0 of 1 | – | – | – | – | – |",
    ]


def test_parts_are_compared_with_permuted_shares_in_the_same_networks(made, outcome, capsys):
    before = shortcut.accuracies(made.network, made.validation, made.unedited)
    of_target = {
        "parts by circuits": [[outcome(1.0)], [outcome(2.0)], [None]],
        "parts by circuits, shares permuted": [[outcome(1.0), outcome(2.0)], [None, None], [None, outcome(3.0)]],
        "parts by listed pictures": [[None]] * 3,
        "parts by listed pictures, shares permuted": [[None, None]] * 3,
    }
    shortcut.print_pairs({0.5: of_target}, [before] * 3)
    rows = capsys.readouterr().out.strip().split("\n")[2:]
    assert rows == [
        "| 50%, parts by circuits | 2 of 6 | 1 of 3 | -0.500 | 0.000 | 0.000 | 0.125 | 0.000 |",
        "| 50%, parts by listed pictures | 0 of 6 | 0 of 3 | – | – | – | – | – |",
    ]


def test_the_command_trains_a_network_once_and_prints_what_it_makes_of_the_mark(folders, monkeypatch, capsys):
    monkeypatch.setattr("examples.demo.training.THREADS", 1)  # the other core is another test's
    monkeypatch.setattr("examples.demo.shortcut.EPOCHS", 4)
    folder = folders[0].parent
    demo.shortcut(folder)
    first = capsys.readouterr().out
    number = r" +[\d.]+%"
    assert re.search(rf"^of {MARKED_CLASS}{number}{number}$", first, re.MULTILINE)
    assert re.search(rf"^of other classes{number}{number}$", first, re.MULTILINE)
    assert (folder / "plots" / "shortcut.png").is_file()
    trained = (folder / "shortcut" / "weights_0.pth").stat().st_mtime_ns
    demo.shortcut(folder)
    assert capsys.readouterr().out == first
    assert (folder / "shortcut" / "weights_0.pth").stat().st_mtime_ns == trained
