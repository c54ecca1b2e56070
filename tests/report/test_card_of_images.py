"""The channel card that stage 4 makes: which patches of which images are on it, and in which files it is."""

import io
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import factories
from tests.oracles import load
from tests.pictures import write_image
from tests.scripts import CHANNEL, NETWORK, PAIR, RUN, run_script, stage1, stage3, stage4
from utils.command_line import card_patches, split_opening
from utils.command_line.evaluating import figure_wishes
from utils.command_line.settings import ResultSettings
from utils.images.batches import ImageSource, Loading
from utils.images.folders import ClassMap, list_images
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.report import split_figures
from utils.report.plots import GREY
from utils.report.sheets import Sheet
from utils.report.split_figures import FigureMaker
from utils.stages import visualization
from utils.stages.split_measures import (
    ConceptImages,
    describe_result,
    evaluate,
    names_of_folders,
    peaks_of_all,
    result_of,
    top_patches,
)
from utils.stages.strongest_patches import KeptPatches, find_strongest
from utils.stages.validation import ImagePass, list_all_validation, list_validation
from utils.store.opened_splits import OpenedSplit
from utils.store.results import Results
from utils.store.splits import read_split, transform_from
from utils.store.unfinished import Unfinished


def card_flags(*more):
    return ("--get_channel_card", "--proportion_attribution_required", "0.0001", *more)


def test_patches_are_those_of_the_images_with_the_largest_activation(copy):
    """Against plain indexing: every validation image of bee and dog, patches of 8 of 24 pixels, map of 12x12."""
    images = list_images(copy / "data" / "val", ["bee", "dog"])
    (path,) = (copy / "store" / "models_disentangled").iterdir()
    file = read_split(path)
    split = file.split
    network, transform = factories.small(), transform_from(file.context["transform"])
    source = ImageSource(images, transform, 3, Loading(torch.device("cpu")))
    layer = find_layer(network, "last", 24)
    rows = split.shown_rows(0.7).float()
    kept = Unfinished(copy / "peaks", {})
    strongest = find_strongest(source, OpenedNetwork(network, layer, "fp32"), rows, None, kept)
    concepts = np.array([0] * 4 + [1] * 4)
    names = names_of_folders(images, ClassMap({"bee": 1, "dog": 3}))
    concept_images = ConceptImages(images, transform, concepts, names)
    shown = {rule: top_patches(concept_images, peaks_of_all(strongest), 8, rule) for rule in ("ranked", "paper")}
    pixels, _ = load(copy, "val")
    pixels = pixels[4:8], pixels[12:16]
    crops = [transform.crop(Image.open(images.path(index)).convert("RGB")).numpy() for index in range(8)]
    with torch.no_grad():
        maps = layer.with_rows(split.shown_rows(0.7), None)(network.stem(torch.cat(pixels)))
    for rule, channel in itertools.product(shown, range(3)):
        values, patches = maps[:, channel].amax((1, 2)), shown[rule][channel]
        each = 3 if rule == "paper" else 4
        best = [sorted(range(4 * k, 4 * k + 4), key=lambda i: -values[i])[:each] for k in (0, 1)]
        order = sorted([*best[0], *best[1]], key=lambda i: -values[i])[:6]
        assert [patch.concept for patch in patches] == [concepts[i] for i in order]
        assert [patch.name for patch in patches] == [("bee", "dog")[concepts[i]] for i in order]
        assert [patch.rank for patch in patches] == [1 + int((values > values[i]).sum()) for i in order]
        for patch, i in zip(patches, order, strict=True):
            row, column = divmod(int(maps[i, channel].argmax()), 12)
            top, left = (min(max(round((at + 0.5) * 2 - 4), 0), 16) for at in (row, column))
            assert np.array_equal(patch.picture, crops[i][top : top + 8, left : left + 8])
    assert all([patch.rank for patch in patches] == [1, 2, 3, 4, 5, 6] for patches in shown["ranked"])
    assert any([p.rank for p in own] != [1, 2, 3, 4, 5, 6] for own in shown["paper"])


def test_folders_without_an_output_are_called_as_they_are(tmp_path):
    for name in ("n02124075", "b\x01ee", "dog"):
        write_image(tmp_path / name / "0.png", 0, 0)
    images = list_images(tmp_path, ["b\x01ee", "dog", "n02124075"])
    names = names_of_folders(images, ClassMap({"n02124075": 7, "dog": 1}))
    assert names == ["b\\x01ee", "dog", "Egyptian cat"]


def test_stage4_makes_a_card_and_nothing_that_was_not_asked_for(copy, with_full_figures):
    out = stage4("data", "store", *card_flags("--patch_size", "12"), cwd=copy)
    made = sorted(path.name for path in (copy / "plots").glob("*channel*"))
    assert [name.split("_rho")[1].split("_", 1)[1] for name in made] == ["card.pdf", "card.png"]
    assert f"{RUN}_channel9_1_3_rho" in made[0]
    assert (copy / "plots" / made[0]).read_bytes().startswith(b"%PDF")
    assert "_card.png" in out
    assert not (copy / "results_quantitative").exists()


def test_a_card_of_three_concepts_and_one_image_a_class(copy):
    for path in (copy / "data" / "val").glob("*/[1-9].png"):
        path.unlink()
    pair = (*PAIR, "--classes_for_concept3", "ant", "cat")
    stage3("data", "store", pair=pair, cwd=copy)
    stage4("data", "store", *card_flags(), pair=pair, cwd=copy)
    assert len(list((copy / "plots").glob("*_card.png"))) == 1


def grey(card):
    """How many pixels of the patches' half of a card have the grey of other classes."""
    pixels = np.asarray(Image.open(io.BytesIO(card)).convert("RGB"))
    return (pixels[:, : pixels.shape[1] // 2] == [int(GREY[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum()


def test_all_classes_shows_images_of_other_classes_and_measures_the_concepts_alone(copy, with_full_figures):
    def card_and_summary(*more, what="card"):
        stage4("data", "store", *card_flags("--get_quantitative", *more), cwd=copy)
        (card,) = (path for path in (copy / "plots").iterdir() if re.fullmatch(rf".*_rho[.\d]+_{what}\.png", path.name))
        return card.read_bytes(), (copy / "results_quantitative" / "summary.md").read_bytes()

    of_classes = {"what": "classes_card"}
    without = card_and_summary("--patches_of", "classes", **of_classes)
    for number in range(10):
        write_image(copy / "data" / "val" / "ant" / f"like_a_dog{number}.png", 3, 100 + number)
    (copy / "data" / "val" / "empty").mkdir()
    assert card_and_summary("--patches_of", "classes", **of_classes) == without
    card, summary = card_and_summary()
    assert summary == without[1]
    assert grey(without[0]) < 100 < 1000 < grey(card)  # the frames of other classes
    assert card_and_summary("--all_classes") == (card, summary)
    more = ("--patches_of", "all", "--patches", "paper", "--figure_width", "text")
    card_and_summary(*more, what="paper_patches_card_text")
    assert [path.read_bytes() for path in (copy / "plots").glob("*_card.png")].count(without[0]) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--patch_size", "12"), "--patch_size is for --get_channel_card or --get_map: add it"),
        (("--all_classes",), "--patches_of is for --get_channel_card: add it"),
        (("--get_channel_card", "--patches_of", "val"), "--patches_of: invalid choice: 'val'"),
        (("--patches", "paper"), "--patches is for --get_channel_card: add it"),
        (("--get_channel_card", "--steps", "3"), "--steps is for --get_feature_visualization: add it"),
        (("--seeds", "3"), "--seeds is for --get_feature_visualization: add it"),
        (("--get_quantitative", "--figure_width", "text"), "--figure_width is for figures, but no figure is requested"),
        (("--get_map", "--figure_width", "text"), "--get_map is only drawn for a screen: leave out --figure_width"),
        (("--figure_width", "page"), "--figure_width: must be column or text, not 'page'"),
        (("--get_channel_card", "--patch_size", "25"), "--patch_size 25 is larger than the image, 24 pixels"),
        (("--get_channel_card", "--patch_size", "0"), "must be a whole number from 1"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(finished, tmp_path, flags, message):
    arguments = ("--data_dir", finished / "data", "--store_dir", finished / "store", "--channel_of_interest", CHANNEL)
    result = run_script("get_results.py", *NETWORK, *arguments, *PAIR, *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().split("\n")) == 1


# --------------------------------------------------------------------------------------------------------------------
# What is asked for reaches the figures


def draw(folder, **wishes):
    """All figures of the splits of ``folder``, in this process."""
    settings = ResultSettings(output_dir=folder, division_given={}, num_workers=0, **wishes)
    opened = [OpenedSplit(path, file := read_split(path), file.split.rho)
              for path in sorted((folder / "store" / "models_disentangled").glob("*.pt"))]  # fmt: skip
    context = opened[0].file.context
    classes, transform = ClassMap(context["classes"]), transform_from(context["transform"])
    network = factories.small().eval().requires_grad_(False)
    outputs = sorted({output for one in opened for output in one.keys})
    root = folder / "data" / "val"
    of_all = settings.patches_of == "all"
    images = list_all_validation(root, classes) if of_all else list_validation(root, classes, outputs)
    opened_network = OpenedNetwork(network, find_layer(network, "last", 24), "fp32")
    images_with_transform = ImageSource(images, transform, 3, Loading(torch.device("cpu"), skip_unreadable=True))
    source = ImagePass(opened_network, images_with_transform, classes, {})
    kept = KeptPatches.of(folder / "patches.npz", images, context, precision="fp32", decoding="pil")
    kept = kept if of_all else None
    maker = FigureMaker(figure_wishes(settings), source, opened, transform, kept_patches=kept)
    known = [describe_result(one, RUN, 0.0001, source) for one in opened]
    found = []
    for number, result, arrays in evaluate(opened, known, source, Results(folder, None), settings.get_channel_card):
        result = result or result_of(known[number], arrays, opened[number], source)
        found += maker.draw(number, result, arrays)
    return found


def opened_splits(folder, **wishes):
    """What ``patches_of_all`` looks at."""
    (path,) = (folder / "store" / "models_disentangled").iterdir()
    file = read_split(path)
    usual = {"model": "m", "output_dir": folder, "data_dir": folder / "data", "division_given": {}, "num_workers": 0}
    settings = ResultSettings(**usual, **wishes)
    opened = OpenedSplit(path, file, file.split.rho)
    return SimpleNamespace(settings=settings, run=RUN, context=file.context, splits=[opened], stage_two={})


def test_patches_are_of_all_images_where_that_takes_little(copy, monkeypatch, capsys):
    def of_all(**wishes):
        return card_patches.patches_of_all(opened_splits(copy, **wishes), None)

    assert len(of_all().images) == 16 and of_all(patches_of="classes") is None
    monkeypatch.setattr(card_patches, "MOST_PATCH_IMAGES", 15)
    assert len(of_all(patches_of="all").images) == 16 and not capsys.readouterr().out
    assert of_all() is None
    assert re.search(r"of all 16 validation images: python \S*get_results.py .* --get_channel_card --patches_of all\s",
                     capsys.readouterr().out)  # fmt: skip
    opened = opened_splits(copy)
    network = factories.small().eval().requires_grad_(False)
    source = ImageSource(
        of_all(patches_of="all").images, transform_from(opened.context["transform"]), 3, Loading(torch.device("cpu"))
    )
    kept = of_all(patches_of="all")
    units = split_figures.units_of_splits(opened.splits)
    found = kept.patches(
        units.rows, units.biases, source, OpenedNetwork(network, find_layer(network, "last", 24), "fp32")
    )
    assert of_all() is not None and not capsys.readouterr().out
    again = kept.patches(units.rows, units.biases, source, None)  # is read: there is no network
    assert all(torch.equal(*parts) for parts in zip(found, again, strict=True))
    opened.splits[0].rho = 0.05
    assert card_patches.patches_of_all(opened, None) is None  # other channels


def test_the_command_for_patches_of_all_images_has_the_flags_of_the_card(copy, monkeypatch, capsys):
    monkeypatch.setattr(card_patches, "MOST_PATCH_IMAGES", 15)
    flags = {"rho": 0.5, "patches": "paper", "patch_size": 8, "figure_width": Sheet("text")}
    opened = opened_splits(copy, **flags)
    opened.stage_two["tau"] = 0.07  # of a candidates file: the split has another
    assert card_patches.patches_of_all(opened, None) is None
    command = capsys.readouterr().out
    assert "--patches_of all --rho 0.5 --patches paper --patch_size 8 --figure_width text" in command
    assert "--proportion_attribution_required 0.07" in command
    assert "visualization" not in command
    visualized = opened_splits(copy, get_feature_visualization=True, steps=60, seeds=3)
    card_patches.patches_of_all(visualized, None)
    assert "--patches_of all --get_feature_visualization --steps 60 --seeds 3" in capsys.readouterr().out
    card_patches.patches_of_all(opened_splits(copy, get_feature_visualization=True), None)  # usual ones are not said
    assert re.search("--get_feature_visualization(?! --s)", capsys.readouterr().out)


def test_cards_of_sets_search_the_images_of_the_val_store_whatever_has_come_since(copy, monkeypatch):
    stage1("data", "store", "--images", "val", cwd=copy)
    circuits = ("--concepts_from", "circuits", "--nr_concepts", "3", "--nr_reference_images", "12")
    stage3("data", "store", *circuits, pair=(), cwd=copy)
    write_image(copy / "data" / "val" / "ant" / "0 new.png", 3, 100)  # before the others in a new list
    monkeypatch.chdir(copy)
    (split,) = (copy / "store" / "models_disentangled").glob("*circuits*.pt")
    folders = {"data_dir": "data", "store_dir": "store"}
    usual = {"model": NETWORK[1], "division_given": {}, "num_workers": 0, "batch_size": 4, **folders}
    settings = ResultSettings(splits=(split,), get_channel_card=True, **usual)
    opened = split_opening.open_splits(settings, torch.device("cpu"))
    opened, source = split_opening.open_validation(opened)
    assert len(source.images) == 16
    assert opened.kept_patches.images.paths.tolist() == source.images.paths.tolist()
    assert opened.kept_patches.origin["images"] == source.images.digest()


@pytest.fixture
def cards(monkeypatch):
    """The cards that are asked for; nothing is drawn."""
    found = []
    monkeypatch.setattr(split_figures, "card_figure", lambda card, sheet: found.append(card))
    monkeypatch.setattr(split_figures, "write_figure", lambda stem, figure, sheet: stem.with_name(f"{stem.name}.png"))
    return found


def test_a_card_says_which_patches_of_how_many_images_it_shows(copy, cards):
    (path,) = draw(copy, get_channel_card=True)
    assert cards[-1].patch_note == (
        "most activating first, of the 8 validation images of the concepts; numbers: ranks among these; "
        "a frame has the colour of the image's concept, grey: none of these"
    )
    assert [patch.rank for patch in cards[-1].patches[0]] == [1, 2, 3, 4, 5, 6]
    assert re.fullmatch(r".*_rho[.\d]+_classes_card\.png", path.name)
    draw(copy, get_channel_card=True, patches="paper")
    assert cards[-1].patch_note.startswith(
        "by the paper's rule, 6 of the 16 most activating, if possible as many of each concept, of the 8 validation "
    )
    assert [sorted(patch.concept for patch in own) for own in cards[-1].patches] == [[0, 0, 0, 1, 1, 1]] * 3
    write_image(copy / "data" / "val" / "unknown to stage 1" / "0.png", 3, 100)
    (copy / "data" / "val" / "ant" / "no image.png").write_bytes(b"no image")
    (path,) = draw(copy, get_channel_card=True, patches_of="all", patch_size=8)
    assert "of all 17 validation images, 4 classes; numbers: ranks" in cards[-1].patch_note
    assert re.fullmatch(r".*_rho[.\d]+_card\.png", path.name)
    assert {patch.name for own in cards[-1].patches for patch in own} <= {"ant", "bee", "cat", "dog"}
    assert all([patch.rank for patch in own] == [1, 2, 3, 4, 5, 6] for own in cards[-1].patches)


def test_visualizations_go_on_with_the_missing_ones_and_equal_ones_are_not_made_again(copy, cards, monkeypatch):
    stage3("data", "store", channel=4, cwd=copy)
    real, calls = visualization.maximise_activation, []

    def maximise(*arguments, **options):
        if len(calls) == stops[0]:
            raise KeyboardInterrupt
        calls.append((options["steps"], options["seeds"]))
        return real(*arguments, **options)

    monkeypatch.setattr(visualization, "maximise_activation", maximise)
    stops, how = [1], {"get_feature_visualization": True, "steps": 2, "seeds": 1}
    with pytest.raises(KeyboardInterrupt):
        draw(copy, **how)
    stored = list((copy / "results_quantitative" / "visualization").iterdir())
    first, time = stored[0], stored[0].stat().st_mtime_ns
    assert len(stored) == len(calls) == 1
    stops[0] = None
    written = draw(copy, **how)
    assert calls == [(2, 1)] * 2 and first.stat().st_mtime_ns == time
    assert all(path.name.endswith("_visualization_steps2_seeds1.png") for path in written) and len(written) == 2
    assert draw(copy, **how) == written and len(calls) == 2
    draw(copy, **{**how, "seeds": 2})
    assert calls[2:] == [(2, 2)] * 2
    draw(copy, **how, get_channel_card=True)
    assert len(calls) == 4
    assert all(re.fullmatch(r"-?[\d.e+-]+", said) for _, said in itertools.chain(*cards[-1].visualizations))
    assert "made to activate each channel, with the mean activation that they reach" in cards[-1].patch_note
