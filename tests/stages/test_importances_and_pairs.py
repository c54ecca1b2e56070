"""Stages 1 and 2 as processes: what they write and print, interrupted and shared runs."""

import csv
import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests import factories
from tests.helpers import forward_with_gradient
from tests.oracles import concept_arrays, load, stored_images
from tests.pictures import FOLDERS, write_images
from tests.scripts import (
    CHANNEL,
    COMPUTE,
    NETWORK,
    PAIR,
    ROOT,
    RUN,
    SMALL_IMAGES,
    contents,
    end_of,
    messages,
    printed_pairs,
    run_script,
    stage1,
    stage2,
    stage3,
    start_and_hold,
    succeed,
)
from utils.divisions.division_registry import WHICH
from utils.method.importance import relevant_classes
from utils.method.polysemanticity import class_pairs
from utils.networks.layers import layer_of
from utils.store.candidates import read_candidates
from utils.store.class_statistics import ClassStore
from utils.store.files import read_json
from utils.store.importance_store import ImportanceStore

pytestmark = pytest.mark.usefixtures("without_figures")


def test_stage1_stores_importances_and_input_sums_of_every_image(finished):
    pixels, targets = load(finished, "train")
    network = factories.small()
    record = forward_with_gradient(network, network.last, pixels, targets)
    importances = (record.activation * record.gradient).sum(2)
    store = ImportanceStore(finished / "store", RUN)
    stored = stored_images(store)
    assert store.num_chunks == 3
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
    store = ImportanceStore(tmp_path / "s", RUN)
    store.load_meta()
    labels = store.read_labels()
    assert f"8 images; {(labels.targets == labels.predictions).double().mean():.1%} classified correctly" in out
    command = f"{ROOT}/get_cosine_similarities.py --model tests.factories:small --data_dir {data} --store_dir s"
    assert f"next: python {command}\n" in out
    again = stage1(data, "s", cwd=tmp_path)
    assert "1 of 1 chunks are stored" in again


HELD = ("--model", "tests.factories:held", *SMALL_IMAGES, "--batch_size", "4", "--chunk_size", "8", "--device", "cpu")
HELD_IMPORTANCES = "tests.factories-held_channel_importances"


def two_chunks(store):
    """A pattern of the second chunk in the store of ``held``."""
    return f"{store}/{HELD_IMPORTANCES}/chunk_000001.npz"


@pytest.fixture
def held(tmp_path):
    """A folder with ``data`` of 40 images in 5 chunks, and how stage 1 writes a store beside them."""
    data = write_images(tmp_path / "data", train=10, val=0)
    return lambda store: ("get_importances_for_classes.py", *HELD, "--data_dir", data, "--store_dir", tmp_path / store)


def test_a_run_killed_in_the_middle_goes_on_to_a_byte_identical_store(held, tmp_path):
    succeed(*held("whole"), "--num_workers", "0", cwd=tmp_path)
    process = start_and_hold(*held("killed"), "--num_workers", "1", after=two_chunks("killed"), cwd=tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    end_of(process)
    folder = tmp_path / "killed" / HELD_IMPORTANCES
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("chunk_*.npz")}
    # the network stops when the second chunk is there; by then the third one may be on its way to the disk
    assert sorted(done) == [f"chunk_{number:06d}.npz" for number in range(len(done))] and len(done) in (2, 3)
    # what a writer that is killed between writing and renaming leaves, under its dead process id
    leftover = folder / f".chunk_000004.npz.{os.uname().nodename}.{process.pid}.tmp"
    leftover.write_bytes(b"half a chunk")
    os.utime(leftover, (0, 0))  # long ago: what is younger than an hour may be somebody else's
    for script, more in (
        ("get_cosine_similarities.py", ()),
        ("disentangle_channel.py", ("--channel_disentangle", CHANNEL, *PAIR)),
    ):
        result = run_script(script, *HELD[:2], "--store_dir", tmp_path / "killed", *more, cwd=tmp_path)
        assert result.returncode == 2
        assert f"{40 - 8 * len(done)} of 40 images are missing" in result.stderr
    out = succeed(*held("killed"), "--num_workers", "0", cwd=tmp_path)
    assert f"resuming: {len(done)} of 5 chunks are stored" in out
    assert not leftover.exists()
    for begun in folder.glob(".chunk_*.tmp"):  # the third chunk's, where the kill came while it was written
        begun.unlink()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert done == {name: (folder / name).stat().st_mtime_ns for name in done}


def test_a_killed_worker_process_is_one_line(held, tmp_path):
    process = start_and_hold(*held("store"), "--num_workers", "1", after=two_chunks("store"), cwd=tmp_path)
    script = (tmp_path / "held").read_text()
    (worker, *_) = Path(f"/proc/{script}/task/{script}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    _, stderr = end_of(process)
    assert process.returncode == 2
    (line,) = messages(stderr)
    assert "a process that decodes images was killed" in line


def test_an_interrupt_is_one_line_and_the_next_run_goes_on(held, tmp_path):
    process = start_and_hold(*held("store"), "--num_workers", "1", after=two_chunks("store"), cwd=tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: the process that decodes images gets it, too
    _, stderr = end_of(process)
    assert process.returncode == 130
    (line,) = messages(stderr)
    kept = len(list((tmp_path / "store").glob("*/chunk_*.npz")))  # one more where the signal came late
    assert f"interrupted; {kept} of 5 chunks are kept: the same command resumes after them" in line
    out = succeed(*held("store"), "--num_workers", "0", cwd=tmp_path)
    assert 2 <= kept < 5 and f"resuming: {kept} of 5 chunks are stored" in out
    assert "40 images; " in out


def test_stage2_prints_and_writes_the_pairs_without_an_image(copy, tmp_path):
    shutil.rmtree(copy / "data")
    out = stage2("store", "--cos_sim_low", "-1", "--output_dir", tmp_path, cwd=copy)
    printed = printed_pairs(out)
    assert set(printed[0]) == {"channel", "class1", "class2", "cosine_similarity"}
    stem = f"{RUN}_required0.05_p0.5_cossim-1.0to1.0"
    written = {path.name: path for path in (tmp_path / "results_get_cosine_similarities").iterdir()}
    ends = (".txt", ".json", "_channels.csv", "_groups.json", "_gamma.json")
    assert sorted(written) == sorted(f"{stem}{end}" for end in ends)
    path = written[f"{stem}.txt"]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cosines = [float(row["CosineSimilarity"]) for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    for row, pair in zip(rows, printed, strict=True):
        numbers = {name: int(row[name.capitalize()]) for name in ("channel", "class1", "class2")}
        assert numbers == {name: pair[name] for name in numbers}
        assert round(float(row["CosineSimilarity"]), 4) == pytest.approx(pair["cosine_similarity"], abs=1.1e-4)
    assert "bee" in out
    groups = read_candidates(written[f"{stem}_groups.json"])
    layer, best = [line for line in out.splitlines() if line.startswith(("next: ", "or only the channel"))]
    for line in (layer, best):
        assert f"--candidates {written[f'{stem}_groups.json']} --split_by least_squares" in line
    assert "--channel_disentangle" not in layer
    assert f"--channel_disentangle {groups.candidates[-1].channel}" in best  # of lowest cosine between concepts
    assert out.count(WHICH) == 1
    for one in groups.candidates:
        concepts = ", ".join(f"{{{', '.join(FOLDERS[output] for output in concept)}}}" for concept in one.concepts)
        assert any(
            line.split()[:1] == [str(one.channel)] and line.endswith(f"  {concepts}") for line in out.splitlines()
        )
    assert "diagnostics for choosing gamma (0.5 here):" in out


def test_stage2_keeps_low_up_to_below_high(copy):
    store = ImportanceStore(copy / "store", RUN)
    classes = ClassStore(copy / "store", RUN, store.load_meta())
    means, images = (values[0, 0] for values in classes.read_means())
    relevant = relevant_classes(classes.read_relevant(0.05)[0], images, 0.5)
    pairs = list(class_pairs(layer_of("last", factories.small().last).weight, means, relevant).rows())
    middle = pairs[len(pairs) // 2][3]
    for bounds, expected in (
        (("--cos_sim_low", "-1", "--cos_sim_high", middle), [pair for pair in pairs if pair[3] < middle]),
        (("--cos_sim_low", middle), [pair for pair in pairs if pair[3] >= middle]),
    ):
        printed = printed_pairs(stage2("store", *bounds, cwd=copy))
        assert [tuple(pair.values())[:3] for pair in printed] == [pair[:3] for pair in expected]
        assert len(printed) > 2


def test_pairs_below_zero_that_fall_away_are_counted_in_a_warning(copy):
    flags = (*NETWORK, "--store_dir", "store", "--proportion_attribution_required", "0.001", "--p", "0.01")
    kept = run_script("get_cosine_similarities.py", *flags, "--cos_sim_low", "-1", cwd=copy)
    negative = sum(pair["cosine_similarity"] < 0 for pair in printed_pairs(kept.stdout))
    result = run_script("get_cosine_similarities.py", *flags, cwd=copy)
    assert negative > 0
    assert f"{negative} pairs" in result.stderr
    assert any(line.endswith("add --cos_sim_low -1 to keep them") for line in result.stderr.splitlines())
    assert "--cos_sim_low -1" not in kept.stderr


def test_pairs_that_rest_on_few_images_are_counted_and_can_be_left_out(copy):
    flags = (*NETWORK, "--store_dir", "store", "--proportion_attribution_required", "0.05", "--p", "0.5")
    flags += ("--cos_sim_high", "1")
    result = run_script("get_cosine_similarities.py", *flags, cwd=copy)
    pairs = len(printed_pairs(result.stdout))
    assert f"warning: {pairs} of these {pairs} pairs have a class of fewer than 10 images" in result.stderr
    result = run_script("get_cosine_similarities.py", *flags, "--min_images", "7", cwd=copy)
    assert printed_pairs(result.stdout) == []
    result = run_script("get_cosine_similarities.py", *flags, "--min_images", "6", cwd=copy)
    assert len(printed_pairs(result.stdout)) == pairs > 0
    assert (copy / "results_get_cosine_similarities" / f"{RUN}_required0.05_p0.5_cossim0.0to1.0_min6.txt").is_file()


def test_other_bounds_need_no_chunk_and_another_tau_does(copy):
    for path in copy.rglob("chunk_*.npz"):
        path.write_bytes(b"")  # what is counted is counted
    stage2("store", "--cos_sim_low", "-1", "--cos_sim_high", "0.7", cwd=copy)
    flags = (*NETWORK, "--store_dir", "store", "--proportion_attribution_required", "0.2")
    result = run_script("get_cosine_similarities.py", *flags, cwd=copy)
    assert result.returncode == 2
    assert "damaged" in result.stderr


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


def test_only_above_mean_is_part_of_names_and_settings(copy):
    stage2("store", "--only_above_mean", cwd=copy)
    stem = f"{RUN}_required0.05_p0.5_cossim0.0to1.0_only_above_mean"
    folder = copy / "results_get_cosine_similarities"
    for name in (f"{stem}.json", f"{stem}_gamma.json"):
        assert read_json(folder / name, "")["settings"]["only_above_mean"] is True
    assert (copy / "plots" / f"{stem}_overview.png").is_file() and (folder / f"{stem}_channels.csv").is_file()


@pytest.mark.parametrize("only_correct", [False, True])
def test_stage2_pairs_are_those_of_the_images_asked_for(copy, only_correct):
    store = ImportanceStore(copy / "store", RUN)
    images = stored_images(store)
    used = (images["predictions"] == images["targets"]) if only_correct else torch.ones(24, dtype=torch.bool)
    assert used.all() != only_correct
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
                row = factories.small().last.weight[:, :, 0, 0]
                scaled = arvs / row[CHANNEL] * row[channel]
                expected[channel, class1, class2] = torch.cosine_similarity(*scaled, dim=0).item()
    flags = ["--only_correct"] * only_correct
    printed = printed_pairs(stage2("store", "--cos_sim_low", "-1", *flags, cwd=copy))
    found = {tuple(list(pair.values())[:3]): pair["cosine_similarity"] for pair in printed}
    assert found == pytest.approx(expected, abs=2e-3)
    assert len(found) > 3
    name = f"{RUN}_required0.05_p0.5_cossim-1.0to1.0{'_only_correct' * only_correct}.txt"
    assert len((copy / "results_get_cosine_similarities" / name).read_text().splitlines()) == 1 + len(found)


def test_two_processes_share_the_chunks_of_one_store(tmp_path):
    data = write_images(tmp_path / "data", train=10, val=0)
    stage1(data, tmp_path / "one", cwd=tmp_path)
    flags = ("--data_dir", data, "--store_dir", tmp_path / "two", "--batch_size", "4", "--chunk_size", "8")
    flags = (*NETWORK, *flags, *SMALL_IMAGES, *COMPUTE)
    ranks = [{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    first = run_script("get_importances_for_classes.py", *flags, cwd=tmp_path, **ranks[0])
    assert "process 0 has finished its 3 chunks; other processes are still working" in first.stdout
    second = run_script("get_importances_for_classes.py", *flags, cwd=tmp_path, **ranks[1])
    assert "40 images; " in second.stdout
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_without_a_flag_pairs_are_below_the_papers_gamma(copy):
    flags = ("--store_dir", "store", "--proportion_attribution_required", "0.01", "--p", "0.25", "--cos_sim_low", "-1")
    usual = printed_pairs(succeed("get_cosine_similarities.py", *NETWORK, *flags, cwd=copy))
    every = printed_pairs(succeed("get_cosine_similarities.py", *NETWORK, *flags, "--cos_sim_high", "1", cwd=copy))
    assert usual == [pair for pair in every if pair["cosine_similarity"] < 0.5]
    assert 0 < len(usual) < len(every)
