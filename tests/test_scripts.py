"""The four scripts as processes: what they write and print, interrupted runs, and runs one after the other."""

import ast
import itertools
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import gaussian_kde

from tests import networks
from tests.conftest import (
    CHANNEL,
    COMPUTE,
    NETWORK,
    PAIR,
    SMALL_IMAGES,
    contents,
    run_script,
    stage1,
    stage2,
    stage3,
    stage4,
    start_script,
    write_images,
)
from utils.attribution import attribution_shares, forward_with_gradient
from utils.data import ImageBatches, list_images
from utils.disentangling import RhoSearch, with_splits
from utils.files import write_json
from utils.store import ImportanceStore, read_split, transform_from

RUN = "tests.networks-small"


def load(folder, split):
    """All images of a split in the transform of the tests, with their targets."""
    images, meta = list_images(folder / "data" / split), ImportanceStore(folder / "store", RUN).load_meta()
    batches = [list(range(len(images)))]
    options = dict(num_workers=0, device=torch.device("cpu"), skip_unreadable=False)
    ((_, pixels),) = ImageBatches(images, transform_from(meta["transform"]), batches, "", **options)
    return pixels, torch.from_numpy(images.folder_of)


def test_stage1_stores_importances_and_input_sums_of_every_image(finished):
    pixels, targets = load(finished, "train")
    network = networks.small()
    record = forward_with_gradient(network, network.last, pixels, targets)
    importances = (record.activation * record.gradient).sum((2, 3))
    store = ImportanceStore(finished / "store", RUN)
    store.load_meta()
    chunks = [store.read_chunk(chunk) for chunk in range(3)]
    stored = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    positive = importances.clamp(min=0).sum(1)
    torch.testing.assert_close(stored["positive_sums"], positive, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        stored["relative_importances"].float(), importances / positive[:, None], rtol=2e-3, atol=1e-4
    )
    torch.testing.assert_close(stored["input_sums"][..., 0], record.input.sum((2, 3)), rtol=1e-4, atol=1e-4)
    assert torch.equal(stored["predictions"], record.logits.argmax(1))
    assert torch.equal(stored["targets"], targets)
    assert stored["indices"].tolist() == list(range(24))


def test_stage1_prints_what_it_does_and_what_is_next(tmp_path):
    data = write_images(tmp_path / "data", train=2, val=0)
    out = stage1(data, "s", cwd=tmp_path)
    assert "layer of interest: last" in out
    assert "8 images; " in out
    assert "classified correctly" in out
    assert "next: python get_cosine_similarities.py --model tests.networks:small --store_dir s" in out
    again = stage1(data, "s", cwd=tmp_path)
    assert "1 of 1 chunks are there" in again


def test_a_run_killed_in_the_middle_goes_on_to_a_byte_identical_store(tmp_path):
    data = write_images(tmp_path / "data", train=60, val=0)
    stage1(data, tmp_path / "whole", cwd=tmp_path)
    flags = ("--data_dir", data, "--store_dir", tmp_path / "killed", "--batch_size", "4", "--chunk_size", "8")
    flags = (*NETWORK, *flags, *SMALL_IMAGES, "--num_workers", "1", "--device", "cpu")
    process = start_script("get_importances_for_classes.py", *flags, cwd=tmp_path)
    folder = tmp_path / "killed" / f"{RUN}_channel_importances"
    while not (folder / "chunk_000002.npz").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("chunk_*.npz")}
    assert 3 <= len(done) < 30
    # what a writer that is killed between writing and renaming leaves, under its dead process id
    leftover = folder / f".chunk_000029.npz.{os.uname().nodename}.{process.pid}.tmp"
    leftover.write_bytes(b"half a chunk")
    for script, more in (
        ("get_cosine_similarities.py", ()),
        ("disentangle_channel.py", ("--channel_disentangle", CHANNEL, *PAIR)),
    ):
        result = run_script(script, *NETWORK, "--store_dir", tmp_path / "killed", *more, cwd=tmp_path)
        assert result.returncode == 2
        assert f"{240 - 8 * len(done)} of 240 images are missing" in result.stderr
    out = stage1(data, tmp_path / "killed", cwd=tmp_path)
    assert f"going on: {len(done)} of 30 chunks are there" in out
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert done == {name: (folder / name).stat().st_mtime_ns for name in done}


def test_an_interrupt_is_one_line_and_the_next_run_goes_on(tmp_path):
    data = write_images(tmp_path / "data", train=60, val=0)
    flags = ("--data_dir", data, "--store_dir", tmp_path / "s", "--batch_size", "4", "--chunk_size", "8")
    flags = (*NETWORK, *flags, *SMALL_IMAGES, "--num_workers", "1", "--device", "cpu")
    process = start_script("get_importances_for_classes.py", *flags, cwd=tmp_path)
    while not list((tmp_path / "s").rglob("chunk_000001.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr.strip().split("\n")[-1]


def test_stage2_prints_and_writes_the_pairs_without_reading_an_image(finished, tmp_path):
    out = stage2(finished / "store", "--cos_sim_low", "-1", "--output_dir", tmp_path, cwd=finished)
    printed = ast.literal_eval(out.split("\n")[0])
    assert set(printed[0]) == {"channel", "class1", "class2", "cosine_similarity"}
    (path,) = (tmp_path / "results_get_cosine_similarities").iterdir()
    assert path.name == f"{RUN}_required0.05_p0.5_cossim-1.0to1.0.txt"
    header, *rows = path.read_text().splitlines()
    assert header == "Channel,Class1,Class2,CosineSimilarity"
    assert len(rows) == len(printed)
    cosines = [float(row.split(",")[3]) for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    for row, pair in zip(rows, printed, strict=True):
        channel, class1, class2, cosine = row.split(",")
        assert [int(channel), int(class1), int(class2)] == list(pair.values())[:3]
        assert round(float(cosine), 4) == pytest.approx(pair["cosine_similarity"], abs=1.1e-4)
    assert "bee" in out


def test_stage2_keeps_low_up_to_below_high_and_says_what_falls_away(copy):
    everything = ast.literal_eval(stage2("store", "--cos_sim_low", "-1", cwd=copy).split("\n")[0])
    middle = sorted(pair["cosine_similarity"] for pair in everything)[len(everything) // 2]
    low = ast.literal_eval(stage2("store", "--cos_sim_low", "-1", "--cos_sim_high", middle, cwd=copy).split("\n")[0])
    high = ast.literal_eval(stage2("store", "--cos_sim_low", max(middle, -1), cwd=copy).split("\n")[0])
    assert low
    assert high
    assert len(low) + len(high) == len(everything)
    assert max(pair["cosine_similarity"] for pair in low) <= min(pair["cosine_similarity"] for pair in high)


def test_pairs_below_zero_that_fall_away_are_counted_in_a_warning(copy):
    flags = (*NETWORK, "--store_dir", "store", "--proportion_attribution_required", "0.001", "--p", "0.01")
    kept = run_script("get_cosine_similarities.py", *flags, "--cos_sim_low", "-1", cwd=copy)
    negative = sum(pair["cosine_similarity"] < 0 for pair in ast.literal_eval(kept.stdout.split("\n")[0]))
    result = run_script("get_cosine_similarities.py", *flags, cwd=copy)
    assert negative > 0
    assert f"{negative} pairs" in result.stderr
    assert any(line.endswith("add --cos_sim_low -1 to keep them") for line in result.stderr.splitlines())
    assert "--cos_sim_low -1" not in kept.stderr


def test_pairs_that_rest_on_few_images_are_counted_and_can_be_left_out(copy):
    flags = (*NETWORK, "--store_dir", "store", "--proportion_attribution_required", "0.05", "--p", "0.5")
    result = run_script("get_cosine_similarities.py", *flags, cwd=copy)
    pairs = len(ast.literal_eval(result.stdout.split("\n")[0]))
    assert f"warning: {pairs} of these {pairs} pairs have a class of fewer than 10 images" in result.stderr
    result = run_script("get_cosine_similarities.py", *flags, "--min_images", "7", cwd=copy)
    assert result.stdout.startswith("[]\n")
    result = run_script("get_cosine_similarities.py", *flags, "--min_images", "6", cwd=copy)
    assert len(ast.literal_eval(result.stdout.split("\n")[0])) == pairs > 0
    assert (copy / "results_get_cosine_similarities" / f"{RUN}_required0.05_p0.5_cossim0.0to1.0_min6.txt").is_file()


def test_another_p_needs_no_chunk_and_another_tau_no_image(copy):
    for path in copy.rglob("chunk_*.npz"):
        path.write_bytes(b"")  # what is counted is counted
    stage2("store", "--p", "0.9", cwd=copy)
    flags = (*NETWORK, "--store_dir", "store", "--proportion_attribution_required", "0.2")
    result = run_script("get_cosine_similarities.py", *flags, cwd=copy)
    assert result.returncode == 2
    assert "damaged" in result.stderr


def test_only_correct_counts_correctly_classified_images_only(copy):
    out = stage2("store", "--only_correct", "--cos_sim_low", "-1", cwd=copy)
    assert (
        copy / "results_get_cosine_similarities" / f"{RUN}_required0.05_p0.5_cossim-1.0to1.0_only_correct.txt"
    ).is_file()
    store = ImportanceStore(copy / "store", RUN)
    store.load_meta()
    _, targets, predictions = store.read_labels()
    right = set(targets[targets == predictions].tolist())
    assert {pair[key] for pair in ast.literal_eval(out.split("\n")[0]) for key in ("class1", "class2")} <= right


def test_stage3_stores_a_split_that_leaves_the_network_as_it_is(finished):
    (path,) = (finished / "store" / "models_disentangled").iterdir()
    assert path.name == f"{RUN}_channel9_1_3.pt"
    split, context = read_split(path)
    assert split.concepts == [[1], [3]]
    assert context["layer"] == "last"
    assert torch.equal(split.weight[:, 0], networks.small().last.weight[CHANNEL, :, 0, 0])
    pixels, _ = load(finished, "val")
    network = networks.small()
    torch.testing.assert_close(with_splits(network, "last", [split])(pixels), network(pixels), rtol=1e-4, atol=1e-5)


def test_stage3_prints_the_table_and_both_equality_figures(copy):
    out = stage3("data", "store", channel=4, cwd=copy)
    rows = [line.split() for line in out.split("\n") if line[:3] in (" 0.", " 1.")]
    assert [float(row[0]) for row in rows] == [round(0.05 * step, 2) for step in range(1, 21)]
    assert all(sum(map(int, row[4:7])) == 8 for row in rows)  # S_1, S_2 and shared are all inputs
    chosen = [row for row in rows if row[-1] == "chosen"]
    assert len(chosen) == 1
    assert float(chosen[0][1]) == max(float(row[1]) for row in rows)
    assert "merged channel against the original" in out
    assert "logits of the split network against the original's" in out
    split, _ = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel4_1_3.pt")
    assert split.rho == float(chosen[0][0])


@pytest.mark.parametrize("objective", ["absolute", "contrast"])
def test_the_objective_asked_for_chooses_rho(copy, objective):
    out = stage3("data", "store", "--rho_objective", objective, cwd=copy)
    split, _ = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel9_1_3.pt")
    column = {"absolute": 1, "contrast": 2}[objective]
    assert split.objective == objective
    assert split.objectives[:, column].max() == split.objectives[round(split.rho / 0.05) - 1, column]
    assert f"{split.rho:.2f} " in next(line for line in out.split("\n") if line.endswith("<- chosen"))


def test_stage4_rows_are_fractions_of_the_original_channel(copy):
    out = stage4("data", "store", "--get_quantitative", "--proportion_attribution_required", "0.1", cwd=copy)
    split, _ = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel9_1_3.pt")
    network = networks.small()
    pixels, targets = load(copy, "val")
    record = forward_with_gradient(network, network.last, pixels, targets)
    included = attribution_shares(record.activation, record.gradient)[:, CHANNEL] >= 0.1
    x = record.input
    maps = [torch.einsum("bihw,i->bhw", x, row[:, 0]) for row in split.rows()]
    expected = torch.stack([part.sum((1, 2)) / record.activation[:, CHANNEL].sum((1, 2)) for part in maps], dim=1)
    assert not (copy / "plots").exists()
    for concept, target in ((1, 1), (2, 3)):
        path = copy / "results_quantitative" / f"quantitative_concept{concept}_required0.1.txt"
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        wanted = expected[included & (targets == target)].numpy()
        assert rows == pytest.approx(wanted, rel=1e-3, abs=1e-4)
        assert f"{len(wanted)} of 4 images included" in out
        assert f"{wanted[:, 0].mean():9.3f} /{np.median(wanted[:, 0]):7.3f}" in out
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
    assert "all 2 pairs so far" in out
    assert f"{len(rows)} of 8 images included" in out


def test_three_concepts_are_a_case_of_k_concepts(copy):
    pair = (*PAIR, "--classes_for_concept3", "ant", "cat")
    out = stage3("data", "store", pair=pair, cwd=copy)
    assert "|S_3|" in out
    split, _ = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel9_1_3_0-2.pt")
    assert split.rows().shape == (4, 8, 1)
    stage4("data", "store", "--proportion_attribution_required", "0.0001", pair=pair, cwd=copy)
    names = sorted(path.name for path in (copy / "results_quantitative").glob("*.txt"))
    assert names == [f"quantitative_concept{k}_required0.0001_K3.txt" for k in (1, 2, 3)]
    rows = np.loadtxt(copy / "results_quantitative" / names[2], delimiter=",", ndmin=2)
    assert rows.shape[1] == 4
    assert rows[:, :3].sum(1) - 2 * rows[:, 3] == pytest.approx(np.ones(len(rows)), abs=1e-3)
    assert len(list((copy / "plots").glob("*.png"))) == 3


def test_several_runs_in_one_folder_get_their_names_in_front(copy):
    more = ("--get_quantitative", "--proportion_attribution_required", "0.0001")
    stage4("data", "store", *more, cwd=copy)
    (path,) = (copy / "results_quantitative" / "pairs").iterdir()
    other = json.loads(path.read_text().replace(RUN, "other"))
    del other["sha256"]
    write_json(path.with_name("other.json"), other)
    stage4("data", "store", *more, cwd=copy)
    names = sorted(path.name for path in (copy / "results_quantitative").glob("*.txt"))
    assert names == sorted(
        f"{run}_quantitative_concept{k}_required0.0001.txt" for run in (RUN, "other") for k in (1, 2)
    )


def test_stage4_draws_a_density_plot_for_each_concept_with_its_coordinates(copy):
    out = stage4("data", "store", "--get_qualitative", "--rho", "0.5", cwd=copy)
    assert not (copy / "results_quantitative").exists()
    for concept in (1, 2):
        stem = copy / "plots" / f"{RUN}_channel9_1_3_rho0.5_concept{concept}_density"
        with Image.open(f"{stem}.png") as picture:
            assert picture.width > 800
        assert (copy / "plots" / f"{stem.name}.pdf").read_bytes().startswith(b"%PDF")
        header, *rows = (copy / "plots" / f"{stem.name}.txt").read_text().splitlines()
        assert (
            header.split(",") == ["spatial_sum", "original channel", "\"c'_1", ' for ant"', "\"c'_2", ' for cat"']
            or header
        )
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
        / f"{RUN}_channel9_1_3_rho{read_split(next((copy / 'store' / 'models_disentangled').iterdir()))[0].rho}"
    )
    rows = np.genfromtxt(f"{stem}_concept1_density.txt", delimiter=",", skip_header=1)
    assert np.isnan(rows[:, 1:]).all()


def test_unreadable_images_are_left_out_named_and_counted_where_asked_for(copy):
    broken = copy / "data" / "train" / "bee" / "1.png"
    broken.write_bytes(b"broken")
    flags = ("--data_dir", "data", "--store_dir", "other", "--skip_unreadable", *SMALL_IMAGES, *COMPUTE)
    result = run_script("get_importances_for_classes.py", *NETWORK, *flags, cwd=copy)
    assert result.returncode == 0
    assert "23 images, 1 unreadable ones left out" in result.stdout
    assert str(broken.relative_to(copy)) in result.stderr
    stage2("other", cwd=copy)
    out = stage3("data", "other", pair=("--classes_for_concept1", "bee", "--classes_for_concept2", "dog"), cwd=copy)
    assert "concept 1: bee [1], 5 training images" in out


def test_bf16_runs_through_all_stages_and_stays_close(copy):
    stage1("data", "half", "--precision", "bf16", cwd=copy)
    stores = [ImportanceStore(copy / name, RUN) for name in ("store", "half")]
    assert [store.load_meta()["precision"] for store in stores] == ["fp32", "bf16"]
    sums = [store.read_chunk(0)["input_sums"] for store in stores]
    assert not torch.equal(*sums)
    torch.testing.assert_close(*sums, rtol=0.05, atol=0.5)
    stage2("half", cwd=copy)
    out = stage3("data", "half", "--precision", "bf16", cwd=copy)
    assert "merged channel" in out  # the proof is in fp32 whatever the precision of the network
    stage4("data", "half", "--precision", "bf16", cwd=copy)


def test_a_kxk_layer_with_bias_named_on_the_command_line_goes_through_all_stages(copy):
    network = ("--model", "tests.networks:with_kernel", "--layer_of_interest", "last", "--store_dir", "kxk")
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
    assert (copy / "kxk" / "models_disentangled" / f"{run}_channel0_1_3.pt").is_file()


@pytest.mark.parametrize(
    "script", ["get_importances_for_classes", "get_cosine_similarities", "disentangle_channel", "get_results"]
)
def test_help_explains_every_flag(script, tmp_path):
    process = start_script(f"{script}.py", "--help", cwd=tmp_path)
    stdout, _ = process.communicate()
    assert process.returncode == 0
    assert f"python {script}.py" in stdout


def concept_arrays(folder, concepts, only_correct):
    """What stage 3 should use of each concept: its images' indices and its ARV for channel 9, from the chunks."""
    store = ImportanceStore(folder / "store", RUN)
    store.load_meta()
    chunks = [store.read_chunk(chunk) for chunk in range(store.num_chunks)]
    images = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    weight, members, arvs = networks.small().last.weight[CHANNEL, :, 0, 0], [], []
    for concept in concepts:
        of_class = [images["targets"] == output for output in concept]
        if only_correct:
            of_class = [own & (images["predictions"] == images["targets"]) for own in of_class]
        members.append(images["indices"][sum(of_class).bool()])
        arvs.append(torch.stack([weight * images["input_sums"][own, :, 0].mean(0) for own in of_class]).mean(0))
    return members, torch.stack(arvs)


@pytest.mark.parametrize("only_correct", [False, True])
def test_stage3_splits_by_the_mean_arvs_of_the_images_asked_for(copy, only_correct):
    pair = ("--classes_for_concept1", "ant", "cat", "--classes_for_concept2", "dog")
    out = stage3("data", "store", *["--only_correct"] * only_correct, pair=pair, cwd=copy)
    split, context = read_split(copy / "store" / "models_disentangled" / f"{RUN}_channel9_0-2_3.pt")
    members, arvs = concept_arrays(copy, [[0, 2], [3]], only_correct)
    assert (len(members[0]) < 12) == only_correct  # one ant of six is classified correctly
    assert f"concept 1: ant + cat [0, 2], {len(members[0])} training images" in out
    assert context["only_correct"] == only_correct
    network, (pixels, _) = networks.small(), load(copy, "train")
    search = RhoSearch(network.last, CHANNEL, arvs)
    for k, indices in enumerate(members):
        search.add(network.stem(pixels[indices]), torch.full_like(indices, k))
    assert torch.equal(split.owners.long(), search.owners)
    torch.testing.assert_close(split.objectives, search.objectives(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("only_correct", [False, True])
def test_stage2_pairs_are_those_of_the_images_asked_for(copy, only_correct):
    store = ImportanceStore(copy / "store", RUN)
    store.load_meta()
    chunks = [store.read_chunk(chunk) for chunk in range(store.num_chunks)]
    images = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    used = (images["predictions"] == images["targets"]) if only_correct else torch.ones(24, dtype=torch.bool)
    expected = {}
    for class1, class2 in itertools.combinations(range(4), 2):
        _, arvs = concept_arrays(copy, [[class1], [class2]], only_correct)
        for channel in range(12):
            shares = [
                (images["relative_importances"][used & (images["targets"] == c), channel].float() >= 0.05)
                .double()
                .mean()
                for c in (class1, class2)
            ]
            if min(shares) >= 0.5:
                row = networks.small().last.weight[:, :, 0, 0]
                scaled = arvs / row[CHANNEL] * row[channel]
                expected[channel, class1, class2] = torch.cosine_similarity(*scaled, dim=0).item()
    flags = ["--only_correct"] * only_correct
    printed = ast.literal_eval(stage2("store", "--cos_sim_low", "-1", *flags, cwd=copy).split("\n")[0])
    found = {tuple(list(pair.values())[:3]): pair["cosine_similarity"] for pair in printed}
    assert found == pytest.approx(expected, abs=2e-3)
    assert len(found) > 3


def test_two_processes_share_the_chunks_of_one_store(tmp_path):
    data = write_images(tmp_path / "data", train=10, val=0)
    stage1(data, tmp_path / "one", cwd=tmp_path)
    flags = ("--data_dir", data, "--store_dir", tmp_path / "two", "--batch_size", "4", "--chunk_size", "8")
    flags = (*NETWORK, *flags, *SMALL_IMAGES, *COMPUTE)
    ranks = [{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    first = run_script("get_importances_for_classes.py", *flags, cwd=tmp_path, **ranks[0])
    assert "process 0 has made its 3 chunks; other processes are not ready yet" in first.stdout
    second = run_script("get_importances_for_classes.py", *flags, cwd=tmp_path, **ranks[1])
    assert "40 images; " in second.stdout
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


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
    assert "the only pair so far" in out
    pair = (*PAIR, "--classes_for_concept3", "ant")
    stage3("data", "store", pair=pair, cwd=copy)
    assert "the only pair so far" in stage4("data", "store", *more, pair=pair, cwd=copy)


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


def test_class_folders_of_any_name_go_through_all_stages(tmp_path):
    folders = ("a$_$b", "bee", "c\udce9", "dog")
    data = write_images(tmp_path / "data", folders=folders)
    stage1(data, "store", cwd=tmp_path)
    stage2("store", cwd=tmp_path)
    pair = ("--classes_for_concept1", "0", "--classes_for_concept2", "2")
    stage3(data, "store", pair=pair, cwd=tmp_path)
    out = stage4(data, "store", pair=pair, cwd=tmp_path)
    assert "a$_$b" in out
    assert len(list((tmp_path / "plots").glob("*.png"))) == 2
