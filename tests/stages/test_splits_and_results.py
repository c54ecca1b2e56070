"""Stages 3 and 4 as processes: splits, rows, summaries and plots, one pair after the other."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import gaussian_kde

from tests import factories
from tests.helpers import as_layer, forward_with_gradient
from tests.oracles import concept_arrays, load
from tests.pictures import write_images
from tests.scripts import (
    CHANNEL,
    COMPUTE,
    PAIR,
    RUN,
    SMALL_IMAGES,
    contents,
    run_script,
    stage1,
    stage2,
    stage3,
    stage4,
)
from utils.method.evaluation import density_curves
from utils.method.importance import attribution_shares
from utils.method.rho import RhoSearch
from utils.networks.splitting import with_splits
from utils.report.plots import DISENTANGLED, ORIGINAL, density_figure, density_limits
from utils.report.sheets import Titles
from utils.store.files import write_json
from utils.store.importance_store import ImportanceStore
from utils.store.splits import read_split


def equality(out):
    """The figures of equality that stage 3 prints, of the channel and of the logits, and on how many images.

    The largest of both arithmetics; fp64 decides.
    """
    assert "merged channel against the original, c = sum c'_k - (K-1) r, in fp64 (limit " in out
    channel = re.search(r"largest difference (\S+) of its largest value \(fp32: (\S+)\)\n", out)
    logits = re.search(r"the split network against the original's: (\S+) of their range \(fp32: (\S+)\)\n", out)
    changed, images = map(int, re.search(r"predictions that change: (\d+) of (\d+) images\n", out).groups())
    assert changed == 0
    assert max(float(channel[1]), float(logits[1])) < 1e-12
    return float(channel[2]), float(logits[2]), images


def test_stage3_stores_a_split_that_leaves_the_network_as_it_is(finished):
    (path,) = (finished / "store" / "models_disentangled").iterdir()
    assert path.name == f"{RUN}_channel9_1_3.pt"
    file = read_split(path)
    split, context = file.split, file.context
    assert split.classes == [[1], [3]]
    assert context["layer"] == "last"
    assert torch.equal(split.weight[:, 0], factories.small().last.weight[CHANNEL, :, 0, 0])
    pixels, _ = load(finished, "val")
    network = factories.small()
    torch.testing.assert_close(with_splits(network, "last", [split])(pixels), network(pixels), rtol=1e-4, atol=1e-5)


def test_stage3_prints_the_table_and_both_equality_figures(copy):
    out = stage3("data", "store", channel=4, cwd=copy)
    rows = [line.split() for line in out.split("\n") if line[:3] in (" 0.", " 1.")]
    assert [float(row[0]) for row in rows] == [round(0.05 * step, 2) for step in range(1, 21)]
    assert all(sum(map(int, row[4:7])) == 8 for row in rows)  # S_1, S_2 and shared are all inputs
    chosen = [row for row in rows if row[-1] == "chosen"]
    assert len(chosen) == 1
    assert chosen[0][1] == "100.00%*" and [row[1].endswith("*") for row in rows].count(True) == 1
    channel_error, logit_error, images = equality(out)
    assert max(channel_error, logit_error) < 1e-5
    assert images == 8
    split = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel4_1_3.pt").split
    assert split.rho == float(chosen[0][0])


@pytest.mark.parametrize("objective", ["absolute", "contrast"])
def test_the_objective_asked_for_chooses_rho(copy, objective):
    out = stage3("data", "store", "--rho_objective", objective, cwd=copy)
    split = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel9_1_3_{objective}.pt").split
    column = {"absolute": 1, "contrast": 2}[objective]
    assert split.division.objective == objective
    objectives = split.division.objectives
    assert objectives[:, column].max() == objectives[round(split.rho / 0.05) - 1, column]
    assert f"{split.rho:.2f} " in next(line for line in out.split("\n") if line.endswith("<- chosen"))


def test_stage4_rows_are_fractions_of_the_original_channel(copy):
    out = stage4("data", "store", "--get_quantitative", "--proportion_attribution_required", "0.196", cwd=copy)
    split = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel9_1_3.pt").split
    network = factories.small()
    pixels, targets = load(copy, "val")
    record = forward_with_gradient(network, network.last, pixels, targets)
    included = attribution_shares(record.activation, record.gradient)[:, CHANNEL] >= 0.196
    assert not included[(targets == 1) | (targets == 3)].all()
    x = record.input
    maps = [torch.einsum("bihw,i->bhw", x, row[:, 0]) for row in split.rows().float()]
    expected = torch.stack([part.sum((1, 2)) / record.activation[:, CHANNEL].sum(1) for part in maps], dim=1)
    assert not list((copy / "plots").glob("*channel9*"))
    for concept, target in ((1, 1), (2, 3)):
        path = copy / "results_quantitative" / f"quantitative_concept{concept}_required0.196.txt"
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        wanted = expected[included & (targets == target)].numpy()
        assert rows == pytest.approx(wanted, rel=1e-3, abs=1e-4)
        assert f"| {len(wanted)} of 4 " in out
        assert f"{wanted[:, 0].mean():.2f} ± {wanted[:, 0].std(ddof=1):.2f} ({np.median(wanted[:, 0]):.2f})" in out
        assert len(wanted) > 0


def test_evaluating_again_replaces_rows_and_several_pairs_are_gathered(copy):
    more = ("--get_quantitative", "--proportion_attribution_required", "0.0001")
    stage4("data", "store", *more, cwd=copy)
    folder = copy / "results_quantitative"
    once = contents(folder)
    first = (folder / "quantitative_concept1_required0.0001.txt").read_text().splitlines()
    stage4("data", "store", *more, cwd=copy)
    again = contents(folder)
    assert {name: data for name, data in again.items() if name.endswith("txt")} == {
        name: data for name, data in once.items() if name.endswith("txt")
    }
    other = ("--rho", "0.05")
    stage4("data", "store", *more, *other, cwd=copy)
    assert len((folder / "quantitative_concept1_required0.0001.txt").read_text().splitlines()) == len(first)
    stage3("data", "store", channel=4, cwd=copy)
    out = stage4("data", "store", *more, channel=4, cwd=copy)
    rows = (folder / "quantitative_concept1_required0.0001.txt").read_text().splitlines()
    assert len(rows) > len(first)
    (overall,) = (line for line in out.split("\n") if line.startswith("| all 2 ") and "concept 1" in line)
    assert f"| {len(rows)} of 8 " in overall


def test_three_concepts_are_a_case_of_k_concepts(copy):
    pair = (*PAIR, "--classes_for_concept3", "ant", "cat")
    out = stage3("data", "store", pair=pair, cwd=copy)
    assert "|S_3|" in out
    split = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel9_1_3_0-2.pt").split
    assert split.rows().shape == (4, 8, 1)
    stage4("data", "store", "--proportion_attribution_required", "0.0001", pair=pair, cwd=copy)
    names = sorted(path.name for path in (copy / "results_quantitative").glob("*.txt"))
    assert names == [f"quantitative_concept{k}_required0.0001_K3.txt" for k in (1, 2, 3)]
    rows = np.loadtxt(copy / "results_quantitative" / names[2], delimiter=",", ndmin=2)
    assert rows.shape[1] == 4
    assert rows[:, :3].sum(1) - 2 * rows[:, 3] == pytest.approx(np.ones(len(rows)), abs=1e-3)
    assert len(list((copy / "plots").glob("*_density.png"))) == 3


def test_several_runs_in_one_folder_get_their_names_in_front(copy):
    more = ("--get_quantitative", "--proportion_attribution_required", "0.0001")
    stage4("data", "store", *more, cwd=copy)
    (path,) = (copy / "results_quantitative" / "pairs").iterdir()
    other = json.loads(path.read_text().replace(RUN, "other"))
    del other["sha256"]
    write_json(path.with_name(path.name.replace(RUN, "other")), other)
    stage4("data", "store", *more, cwd=copy)
    names = sorted(path.name for path in (copy / "results_quantitative").glob("*.txt"))
    assert names == sorted(
        f"{run}_quantitative_concept{k}_required0.0001.txt" for run in (RUN, "other") for k in (1, 2)
    )


def test_stage4_draws_a_density_plot_for_each_concept_with_its_coordinates(copy, with_full_figures):
    out = stage4("data", "store", "--get_qualitative", "--rho", "0.5", cwd=copy)
    assert not (copy / "results_quantitative").exists()
    for concept in (1, 2):
        stem = copy / "plots" / f"{RUN}_channel9_1_3_rho0.5_concept{concept}_density"
        with Image.open(f"{stem}.png") as picture:
            assert picture.width > 800
        assert (copy / "plots" / f"{stem.name}.pdf").read_bytes().startswith(b"%PDF")
        header, *rows = (copy / "plots" / f"{stem.name}.txt").read_text().splitlines()
        labels = ["spatial_sum", "original channel", "c'_1, for bee", "c'_2, for dog"]
        assert next(csv.reader([header])) == labels
        assert len(rows) > 500
        assert f"{stem.name}.png" in out


def test_a_single_image_is_drawn_as_a_tick(copy):
    for name in ("bee", "dog"):
        for path in sorted((copy / "data" / "val" / name).iterdir())[1:]:
            path.unlink()
    stage4("data", "store", cwd=copy)
    stem = (
        copy
        / "plots"
        / f"{RUN}_channel9_1_3_rho{read_split(next((copy / 'store' / 'models_disentangled').iterdir())).split.rho}"
    )
    rows = np.genfromtxt(f"{stem}_concept1_density.txt", delimiter=",", skip_header=1)
    assert np.isnan(rows[:, 1:]).all()
    samples = {"original channel": np.array([3.0]), "c'_1, for bee": np.array([2.0]), "c'_2, for dog": np.array([1, 5])}
    curves, colours = density_curves(samples), [ORIGINAL, *DISENTANGLED[:2]]
    limits = density_limits([(samples, curves)])
    figure = density_figure(samples, *curves, colours=colours, limits=limits, titles=Titles("title", "subtitle"))
    ticks = [line for line in figure.axes[0].lines if line.get_marker() == "|"]
    assert [line.get_xdata().tolist() for line in ticks] == [[3.0], [2.0]]


def test_bf16_runs_through_all_stages_and_stays_close(copy):
    stage1("data", "half", "--precision", "bf16", cwd=copy)
    stores = [ImportanceStore(copy / name, RUN) for name in ("store", "half")]
    assert [store.load_meta()["precision"] for store in stores] == ["fp32", "bf16"]
    sums = [store.read_chunk(0)["input_sums"] for store in stores]
    assert not torch.equal(*sums)
    torch.testing.assert_close(*sums, rtol=0.05, atol=0.5)
    stage2("half", cwd=copy)
    contrasts, shares = [], []
    for precision in ("fp32", "bf16"):  # from the same store, so that what differs is due to the flag of these stages
        out = stage3("data", "half", "--precision", precision, cwd=copy)
        assert max(equality(out)[:2]) < 1e-5  # the proof is in fp32 whatever the precision of the network
        split = read_split(copy / "half" / "models_disentangled" / f"{RUN}_channel9_1_3.pt").split
        contrasts.append(split.division.objectives[:, 2])
        stage4("data", "half", "--get_quantitative", "--rho", "0.5", "--precision", precision, cwd=copy)
        (path,) = (copy / "results_quantitative" / "pairs").iterdir()
        shares.append(torch.tensor([part["shares"] for part in json.loads(path.read_text())["images"]]))
    for values, atol in ((contrasts, 0.05), (shares, 0.01)):
        assert not torch.equal(*values)
        torch.testing.assert_close(*values, rtol=0, atol=atol)


def test_a_kxk_layer_with_bias_named_on_the_command_line_goes_through_all_stages(copy):
    network = ("--model", "tests.factories:with_kernel", "--layer_of_interest", "last", "--store_dir", "kxk")
    images = ("--data_dir", "data", *COMPUTE)
    run = f"{RUN.replace('small', 'with_kernel')}_last"
    for script, flags in (
        ("get_importances_for_classes.py", (*images, *SMALL_IMAGES)),
        ("get_cosine_similarities.py", ("--nr_channels_in_layer_of_interest", 12)),
        ("disentangle_channel.py", (*images, "--channel_disentangle", 0, *PAIR)),
        ("get_results.py", (*images, "--channel_of_interest", 0, *PAIR)),
    ):
        result = run_script(script, *network, *flags, cwd=copy)
        assert result.returncode == 0, result.stderr
    file = read_split(copy / "kxk" / "models_disentangled" / f"{run}_channel0_1_3.pt")
    split, context = file.split, file.context
    layer = factories.with_kernel().last
    assert torch.equal(split.weight, layer.weight[0].flatten(1))
    assert torch.equal(split.bias, layer.bias[0])
    assert context["layer"] == "last"
    (path,) = (copy / "results_quantitative" / "pairs").iterdir()
    part = json.loads(path.read_text())["images"][0]
    maps = layer(factories.with_kernel().stem(load(copy, "val")[0][4:8]))[:, 0]
    assert part["original"] == pytest.approx(maps.sum((1, 2)).tolist(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("only_correct", [False, True])
def test_stage3_splits_by_the_mean_arvs_of_the_images_asked_for(copy, only_correct):
    pair = ("--classes_for_concept1", "ant", "cat", "--classes_for_concept2", "dog")
    out = stage3("data", "store", *["--only_correct"] * only_correct, pair=pair, cwd=copy)
    name = f"{RUN}_channel9_0-2_3{'_only_correct' * only_correct}.pt"
    file = read_split(copy / "store" / "models_disentangled" / name)
    split = file.split
    members, arvs = concept_arrays(copy, [[0, 2], [3]], only_correct)
    assert (len(members[0]) < 12) == only_correct  # one ant of six is classified correctly
    assert f"concept 1: ant + cat [0, 2], {len(members[0])} training images" in out
    assert file.settings["only_correct"] == only_correct
    network, (pixels, _) = factories.small(), load(copy, "train")
    layer = as_layer(network.last)
    search = RhoSearch(layer.weight[CHANNEL], None, arvs)
    for k, indices in enumerate(members):
        search.add(layer.maps(search.rows, None)(network.stem(pixels[indices])), torch.full_like(indices, k))
    assert torch.equal(split.division.owners.long(), search.owners)
    torch.testing.assert_close(split.division.objectives, search.objectives(), rtol=1e-3, atol=1e-4)


def test_the_newest_rho_counts_and_only_equal_tau_and_k_are_gathered(copy):
    more = ("--get_quantitative", "--proportion_attribution_required", "0.0001")
    stage4("data", "store", *more, "--rho", "1.0", cwd=copy)
    path = copy / "results_quantitative" / "quantitative_concept1_required0.0001.txt"
    first = path.read_text()
    stage4("data", "store", *more, "--rho", "0.05", cwd=copy)
    second = path.read_text()
    assert first != second
    stage4("data", "store", *more, "--rho", "1.0", cwd=copy)
    assert path.read_text() == first
    out = stage4("data", "store", "--get_quantitative", "--proportion_attribution_required", "0.01", cwd=copy)
    assert "| all 1 " in out
    pair = (*PAIR, "--classes_for_concept3", "ant")
    stage3("data", "store", pair=pair, cwd=copy)
    assert "| all 1 " in stage4("data", "store", *more, pair=pair, cwd=copy)


def test_files_of_other_names_in_the_results_are_left_alone(copy):
    (copy / "results_quantitative").mkdir()
    mine = copy / "results_quantitative" / "my_quantitative_concept1_required0.03_backup.txt"
    mine.write_text("mine")
    stage4("data", "store", "--get_quantitative", cwd=copy)
    assert mine.read_text() == "mine"


def test_density_curves_are_those_of_the_sums_in_the_results(copy):
    stage4("data", "store", cwd=copy)
    (path,) = (copy / "results_quantitative" / "pairs").iterdir()
    part = json.loads(path.read_text())["images"][1]
    (curves,) = (copy / "plots").glob("*_concept2_density.txt")
    rows = np.loadtxt(curves, delimiter=",", skiprows=1)
    samples = [part["original"], *np.array(part["sums"])[:, :2].T]
    for column, sample in enumerate(samples, start=1):
        assert rows[:, column] == pytest.approx(gaussian_kde(sample)(rows[:, 0]), rel=1e-3, abs=1e-6)


def test_folders_of_any_name_go_through_all_stages(tmp_path):
    folders, store = ("a$_$b", "bee", "c\udce9", "dog"), "store\udcff"
    data = write_images(tmp_path / "data", folders=folders)
    assert "store\\udcff" in stage1(data, store, cwd=tmp_path)
    stage2(store, cwd=tmp_path)
    pair = ("--classes_for_concept1", "0", "--classes_for_concept2", "2")
    assert "c\\udce9" in stage3(data, store, pair=pair, cwd=tmp_path)
    assert "a$_$b" in stage4(data, store, pair=pair, cwd=tmp_path)
    assert len(list((tmp_path / "plots").glob("*_density.png"))) == 2
