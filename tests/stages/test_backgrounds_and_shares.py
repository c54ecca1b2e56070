"""Stages 3 and 4 as processes: everything else as a concept, shares by least squares, whole layers, effects."""

import csv
import itertools
import json
import shlex

import numpy as np
import pytest
import torch

from tests import factories
from tests.oracles import least_squares_by_scipy, load, stored_images
from tests.scripts import CHANNEL, COMPUTE, NETWORK, PAIR, RUN, run_script, stage1, stage3, stage4
from utils.networks.ablation import held
from utils.networks.splitting import with_splits
from utils.store import split_network
from utils.store.files import write_json
from utils.store.importance_store import ImportanceStore
from utils.store.splits import read_manifest, read_split

ALONE = ("--classes_for_concept1", "bee")
TAU = ("--proportion_attribution_required", "0.0001")


def models(folder):
    return folder / "store" / "models_disentangled"


def rows_of(folder, name):
    return np.loadtxt(folder / "results_quantitative" / name, delimiter=",", ndmin=2)


def training(folder):
    """Contributions ``W_i S_i`` to channel 9 in all training images, [n, C_in], and their targets."""
    images = stored_images(ImportanceStore(folder / "store", RUN))
    return factories.small().last.weight[CHANNEL, :, 0, 0] * images["input_sums"][..., 0], images["targets"]


def test_everything_else_is_one_more_concept_whose_arv_is_the_mean_of_all_images(copy):
    out = stage3("data", "store", "--background", cwd=copy)
    assert "concept 3: everything else, all training images" in out
    file = read_split(models(copy) / f"{RUN}_channel9_1_3_background.pt")
    split, (given, targets) = file.split, training(copy)
    arvs = torch.stack([given[targets == 1].mean(0), given[targets == 3].mean(0), given.mean(0)])
    torch.testing.assert_close(split.arvs.float(), arvs, rtol=1e-5, atol=1e-6)
    assert file.background == 1 and [one.kind for one in split.concepts] == ["classes", "classes", "background"]
    pixels, targets = load(copy, "train")
    inputs = factories.small().stem(pixels)
    for rho, values in zip((0.5, 1.0), split.division.objectives[[9, 19], 0].tolist(), strict=True):
        rows = split.rows(rho)[:3].float()
        maps = [torch.einsum("bihw,i->bhw", inputs, row[:, 0]).clamp(min=0).sum((1, 2)) for row in rows]
        expected = sum(
            (maps[k] / (sum(maps[j] for j in range(3) if j != k) / 2 + 1e-5))[targets == output].mean()
            for k, output in ((0, 1), (1, 3))
        )
        assert values == pytest.approx(float(expected), rel=1e-3)


def test_one_concept_alone_is_told_from_everything_else(copy):
    stage3("data", "store", "--background", pair=ALONE, cwd=copy)
    out = stage4("data", "store", "--background", "--get_quantitative", "--get_qualitative", *TAU, pair=ALONE, cwd=copy)
    assert "| everything else " in out and "AUROC c'_k / c" not in out  # with nothing to tell it from
    rows = rows_of(copy, "quantitative_concept1_required0.0001_K1_background1.txt")
    assert rows.shape[1] == 3
    np.testing.assert_allclose(rows[:, 0] + rows[:, 1] - rows[:, 2], 1, atol=1e-4)
    summary = list(csv.DictReader((copy / "results_quantitative" / "summary.csv").open()))
    assert summary[0]["background"] == "1.0" and summary[0]["background_mean"] and not summary[0]["auroc"]
    assert len(list((copy / "plots").glob("*background*density.png"))) == 1


DEFAULT, LIGHTER, NONE = (), ("--background", "0.1"), ("--background", "0")


@pytest.mark.parametrize(
    ("flags", "weight", "name"), [(DEFAULT, 1.0, "_background"), (LIGHTER, 0.1, "_background0.1"), (NONE, None, "")]
)
def test_shares_are_those_of_the_images_in_the_store(copy, flags, weight, name):
    out = stage3("data", "store", "--split_by", "least_squares", *flags, cwd=copy)
    assert "shares of 8 inputs: 1: " in out
    file = read_split(models(copy) / f"{RUN}_channel9_1_3_least_squares{name}.pt")
    given, targets = training(copy)
    groups = [given[targets == 1], given[targets == 3]]
    groups += [given[(targets != 1) & (targets != 3)]] if weight else []
    ones = np.ones((8, 1))  # the weight is in the contributions already
    importance = [1.0, 1.0, *([weight] if weight else [])]
    expected = least_squares_by_scipy(ones, [group[..., None].double() for group in groups], importance)
    torch.testing.assert_close(file.split.division.fitted.double(), torch.from_numpy(expected), rtol=0, atol=5e-3)
    assert file.split.rho is None and file.background == weight
    network, (pixels, _) = factories.small(), load(copy, "val")
    torch.testing.assert_close(
        with_splits(network, "last", [file.split])(pixels), network(pixels), rtol=1e-4, atol=1e-5
    )


def test_shares_go_through_stage_4_and_are_not_mixed_with_other_splits(copy):
    stage3("data", "store", "--split_by", "least_squares", cwd=copy)
    refused = run_script(
        "get_results.py",
        *(*NETWORK, "--data_dir", "data", "--store_dir", "store", "--channel_of_interest", "9", *PAIR, *COMPUTE),
        cwd=copy,
    )
    assert refused.returncode == 2 and "several splits match" in refused.stderr and "--split_by" in refused.stderr
    for how in ("arv", "least_squares"):
        out = stage4("data", "store", "--split_by", how, "--get_quantitative", *TAU, cwd=copy)
    rows = rows_of(copy, "quantitative_concept2_required0.0001_least_squares_background1.txt")
    np.testing.assert_allclose(rows[:, :3].sum(1), 1, atol=1e-3)
    np.testing.assert_allclose(rows[:, 3], 0, atol=1e-6)
    assert out.count("| all 1 ") == 2  # of the splits asked for alone, a row a concept
    summary = (copy / "results_quantitative" / "summary.md").read_text()
    assert summary.count("| all 1 ") == 4 and "least squares, everything else of weight 1" in summary
    refused = run_script(
        "get_results.py",
        *(*NETWORK, "--data_dir", "data", "--store_dir", "store", "--channel_of_interest", "9", *PAIR, *COMPUTE),
        *("--split_by", "least_squares", "--rho", "0.5"),
        cwd=copy,
    )
    assert refused.returncode == 2 and "has no rho" in refused.stderr


@pytest.fixture
def layer(copy):
    """Two channels of three and two concepts, split from a candidates file."""
    (copy / "two.txt").write_text("9: bee, dog, ant+cat\n4: 1, 3\n")
    return copy


def split_layer(folder, *more):
    flags = ("--data_dir", "data", "--store_dir", "store", "--candidates", "two.txt")
    result = run_script("disentangle_channel.py", *NETWORK, *flags, *COMPUTE, *more, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_whole_layer_has_a_manifest_that_split_network_and_stage_4_take(layer):
    out = split_layer(layer)
    assert "all 2 splits at once" in out
    manifest = models(layer) / f"{RUN}_two_layer.json"
    splits = {one["channel"]: one for one in read_manifest(manifest)}
    assert splits.keys() == {4, 9} and splits[9]["file"] == f"{RUN}_channel9_1_3_0-2.pt"
    assert splits[9]["rho"] == read_split(models(layer) / splits[9]["file"]).split.rho
    proof = json.loads(manifest.read_text())["proof"]
    assert proof["images"] == 4 and proof["changed_predictions"] == 0 and max(proof["fp32_errors"]) < 1e-5
    rows = list(csv.reader((models(layer) / f"{RUN}_two_concepts.csv").open()))
    assert rows[0] == ["Row", "Channel", "Part", "Name", "Classes"]
    assert [row[1:4] for row in rows[1:]] == [
        *(["9", "1", "bee"], ["9", "2", "dog"], ["9", "3", "ant + cat"], ["9", "0", "residual"]),
        *(["4", "1", "bee"], ["4", "2", "dog"], ["4", "0", "residual"]),
    ]
    assert rows[3][4] == "0; 2"
    network, (pixels, _) = factories.small(), load(layer, "val")
    changed = split_network(network, manifest)
    assert changed.last.channels == [9, 4]
    torch.testing.assert_close(changed(pixels), network(pixels), rtol=1e-4, atol=1e-5)
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE, *TAU, "--get_quantitative", "--splits", manifest)
    result = run_script("get_results.py", *NETWORK, *flags, cwd=layer)
    assert result.returncode == 0, result.stderr
    assert "| 9 " in result.stdout and "| 4 " in result.stdout
    again = split_layer(layer)
    assert f"already stored: {manifest.relative_to(layer)}" in again and "all 2 splits at once" not in again


def test_a_manifest_is_not_written_for_some_channels_or_a_channel_twice(layer):
    split_layer(layer, "--channel_disentangle", "9")
    assert not list(models(layer).glob("*_layer.json"))
    (layer / "two.txt").write_text("9: bee, dog\n9: ant, cat\n")
    split_layer(layer)
    assert not list(models(layer).glob("*_layer.json"))


def test_a_manifest_whose_split_has_changed_is_refused(layer):
    split_layer(layer)
    manifest = models(layer) / f"{RUN}_two_layer.json"
    stage3("data", "store", "--precision", "bf16", channel=4, cwd=layer)
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE, "--splits", manifest)
    refused = run_script("get_results.py", *NETWORK, *flags, cwd=layer)
    assert refused.returncode == 2 and "has changed since" in refused.stderr and refused.stderr.count("\n") == 1
    assert split_layer(layer, "--precision", "bf16").count("all 2 splits at once") == 1  # made anew


@pytest.mark.parametrize("to", ["mean", "zero"])
@pytest.mark.parametrize("how", ["arv", "least_squares"])
def test_an_effect_is_the_change_of_the_logit_over_all_coalitions(copy, how, to):
    """Against the whole network, run anew for every coalition, and the formula for so few players."""
    stage3("data", "store", "--split_by", how, cwd=copy)
    out = stage4("data", "store", "--split_by", how, "--get_effect", "--effect_to", to, cwd=copy)
    assert "Shapley values" in out
    (path,) = models(copy).glob("*least_squares*" if how == "least_squares" else f"{RUN}_channel9_1_3.pt")
    (result,) = (copy / "results_quantitative" / "effect").iterdir()
    images = json.loads(result.read_text())["images"]
    split = read_split(path).split
    network, (pixels, targets) = split_network(factories.small(), path), load(copy, "val")
    module = network.last
    if to == "zero":
        constants = [0.0] * (len(split.concepts) + 1)
    else:
        given, _ = training(copy)
        shares = split.shares().float()
        constants = ((shares * given.mean(0)).sum(1) / split.positions).tolist()
    players = range(len(constants))
    for k, output in ((0, 1), (1, 3)):
        own = targets == output

        def logit(absent, own=own, output=output):
            """Of the images' own class, and its margin: minus the mean of all others."""
            with held(module, 0, {one: constants[one] for one in absent}):
                logits = network(pixels[own]).double()
            others = [logits[:, other] for other in range(logits.shape[1]) if other != output]
            return torch.stack([logits[:, output], logits[:, output] - sum(others) / len(others)])

        expected = torch.zeros(len(players), 2, int(own.sum()), dtype=torch.float64)
        orders = list(itertools.permutations(players))
        for order in orders:
            for place, player in enumerate(order):
                expected[player] += (logit(order[:place]) - logit(order[: place + 1])) / len(orders)
        np.testing.assert_allclose(images[k]["effects"], expected[:, 0].T, atol=1e-4)
        np.testing.assert_allclose(images[k]["margins"], expected[:, 1].T, atol=1e-4)
        total = (logit(()) - logit(tuple(players)))[0]
        np.testing.assert_allclose(np.sum(images[k]["effects"], 1), total, atol=1e-4)
    rows = list(csv.DictReader((copy / "results_quantitative" / "effect.csv").open()))
    assert [row["name"] for row in rows] == ["bee", "dog"] and rows[0]["replaced_by"] == to
    margins = np.mean(images[1]["margins"], 0)
    found = [float(rows[1][f"margin_{name}"]) for name in ("total", "own", "others")]
    assert found == pytest.approx([margins.sum(), margins[1], margins[0]], rel=1e-4)
    assert "results_quantitative/effect\n" in f"{out}\n" and "mean.json" not in out and "zero.json" not in out
    assert float(rows[0]["logit_own"]) == pytest.approx(np.mean(images[0]["effects"], 0)[0], rel=1e-4)


def test_a_split_that_is_not_below_gamma_is_made_with_a_warning(copy):
    flags = ("--data_dir", "data", "--store_dir", "store", "--channel_disentangle", "9", *COMPUTE)
    above = ("--classes_for_concept1", "ant", "--classes_for_concept2", "cat")
    arvs = {}
    for pair in (PAIR, above):
        result = run_script("disentangle_channel.py", *NETWORK, *flags, *pair, cwd=copy)
        assert result.returncode == 0, result.stderr
        arvs[pair] = "not below gamma 0.5" in result.stderr
    (path,) = models(copy).glob("*_0_2.pt")
    first, second = read_split(path).split.arvs
    cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=0))
    assert arvs == {PAIR: False, above: cosine >= 0.5}


def test_the_val_store_gives_the_same_fractions_of_backgrounds_and_shares(copy):
    stage3("data", "store", "--split_by", "least_squares", cwd=copy)
    how = ("--split_by", "least_squares", "--get_quantitative", *TAU)
    stage4("data", "store", *how, cwd=copy)
    name = "quantitative_concept1_required0.0001_least_squares_background1.txt"
    before = rows_of(copy, name)
    stage1("data", "store", "--images", "val", cwd=copy)
    out = stage4("data", "store", *how, "--output_dir", "from_store", cwd=copy)
    assert "measured by store/" in out
    np.testing.assert_allclose(rows_of(copy / "from_store", name), before, rtol=1e-3, atol=1e-4)


def test_without_images_of_other_classes_there_is_no_everything_else(copy):
    flags = ("--data_dir", "data", "--store_dir", "store", "--channel_disentangle", "9", *COMPUTE)
    pair = ("--classes_for_concept1", "0", "1", "--classes_for_concept2", "2", "3", "--split_by", "least_squares")
    refused = run_script("disentangle_channel.py", *NETWORK, *flags, *pair, cwd=copy)
    assert refused.returncode == 2 and "no training image of anything else: give --background 0" in refused.stderr
    result = run_script("disentangle_channel.py", *NETWORK, *flags, *pair, "--background", "0", cwd=copy)
    assert result.returncode == 0, result.stderr


def test_a_split_that_is_there_takes_over_what_stage_2_was_asked(copy):
    """A list by hand does not say tau; when the same split is asked for by a file that does, it knows from then on."""
    candidate = {"channel": 9, "concepts": [[1], [3]], "names": ["bee", "dog"], "cosines": [[1, 0], [0, 1]]}
    settings = {"tau": 0.05, "p": 0.5, "gamma": 0.5, "min_images": 1, "only_correct": False}
    write_json(copy / "one.json", {"format": 1, "settings": settings, "candidates": [candidate]})
    path = models(copy) / f"{RUN}_channel9_1_3.pt"
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE)
    for name in ("one.json", "two.txt"):
        (copy / "two.txt").write_text("9: 1, 3\n")
        result = run_script("disentangle_channel.py", *NETWORK, *flags, "--candidates", name, cwd=copy)
        assert result.returncode == 0 and "already stored: store/models_disentangled" in result.stdout, result.stderr
        assert read_split(path).settings["tau"] == 0.05 and read_split(path).settings["p"] == 0.5


def test_the_lines_that_say_what_is_next_work(layer):
    """Those of stage 3, with both ways to divide side by side."""
    first = split_layer(layer)
    split_layer(layer, "--split_by", "least_squares", "--background", "0")
    stage1("data", "store", "--images", "val", cwd=layer)
    lines = [line.split(": ", 1)[1] for line in first.splitlines() if "get_results.py" in line]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)[2:]
        result = run_script("get_results.py", *words, "--get_quantitative", *TAU, cwd=layer)
        assert result.returncode == 0, result.stderr
