"""The four stages on linear layers: over windows, against the convolution that computes the same, and over a vector."""

import csv
import json

import numpy as np
import pytest
import torch

from tests.oracles import stored_images
from tests.scripts import CHANNEL, COMPUTE, PAIR, RUN, SMALL_IMAGES, run_script, stage4, succeed
from utils.store.importance_store import ImportanceStore
from utils.store.splits import read_split

STAGES = {
    "get_importances_for_classes.py": ("--batch_size", "4", "--chunk_size", "8", *SMALL_IMAGES, *COMPUTE),
    "get_cosine_similarities.py": ("--proportion_attribution_required", "0.05", "--p", "0.5", "--cos_sim_high", "1"),
    "disentangle_channel.py": ("--channel_disentangle", CHANNEL, *PAIR, *COMPUTE),
}


def layer_flags(finished, factory):
    flags = ("--model", f"tests.factories:{factory}", "--layer_of_interest", "last_linear")
    return (*flags, "--data_dir", finished / "data", "--store_dir", "store")


@pytest.fixture(scope="module")
def split(finished, tmp_path_factory):
    """A folder in which stages 1 to 3 have been run on each of two linear layers, and what they have said."""
    folder = tmp_path_factory.mktemp("linear")
    return folder, {
        factory: [
            succeed(script, *layer_flags(finished, factory), *flags, cwd=folder) for script, flags in STAGES.items()
        ]
        for factory in ("windows", "vector")
    }


def evaluate(finished, folder, factory, *more):
    flags = ("--channel_of_interest", CHANNEL, *PAIR, *COMPUTE)
    return run_script("get_results.py", *layer_flags(finished, factory), *flags, *more, cwd=folder)


def splits_of(folder, run):
    (path,) = (folder / "store" / "models_disentangled").glob(f"{run}_channel*.pt")
    return read_split(path).split


def pairs_of(folder, run):
    """Cosine by channel and classes, in stage 2's order."""
    (path,) = (folder / "results_get_cosine_similarities").glob(f"{run}_required*.txt")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["Channel"], row["Class1"], row["Class2"]): float(row["CosineSimilarity"]) for row in rows}


def measured(folder, run):
    (path,) = (folder / "results_quantitative" / "pairs").glob(f"{run}_channel*.json")
    return json.loads(path.read_text())["images"]


def test_windows_give_what_the_convolution_gives_that_computes_the_same(finished, copy, split):
    folder, said = split
    run = "tests.factories-windows_last_linear"
    assert "layer of interest: last\n" in said["windows"][0]
    stores = ImportanceStore(folder / "store", run), ImportanceStore(finished / "store", RUN)
    linear, convolution = map(stored_images, stores)
    assert [store.meta["kind"] for store in stores] == ["linear layer", "convolution"]
    assert [store.meta["positions"] for store in stores] == [144, 144]
    for name in ("targets", "predictions", "indices"):
        assert torch.equal(linear[name], convolution[name])
    torch.testing.assert_close(linear["input_sums"], convolution["input_sums"], rtol=1e-4, atol=1e-3)
    for name in ("relative_importances", "positive_sums"):
        torch.testing.assert_close(linear[name], convolution[name], rtol=2e-3, atol=1e-3)
    pairs = pairs_of(folder, run), pairs_of(finished, RUN)
    assert len(pairs[0]) > 2 and list(pairs[0]) == list(pairs[1])
    assert list(pairs[0].values()) == pytest.approx(list(pairs[1].values()), abs=1e-3)
    splits = splits_of(folder, run), splits_of(finished, RUN)
    assert splits[0].rho == splits[1].rho
    assert torch.equal(splits[0].division.owners, splits[1].division.owners)
    torch.testing.assert_close(splits[0].arvs, splits[1].arvs, rtol=1e-4, atol=1e-4)
    assert "predictions that change: 0 of" in said["windows"][2]

    wishes = ("--get_quantitative", "--get_channel_card", "--get_effect", "--proportion_attribution_required", "0.01")
    result = evaluate(finished, folder, "windows", *wishes)
    assert result.returncode == 0, result.stderr
    stage4("data", "store", "--get_quantitative", "--proportion_attribution_required", "0.01", cwd=copy)
    for own, other in zip(measured(folder, run), measured(copy, RUN), strict=True):
        assert own["included"] == other["included"] and any(own["included"])
        for name in ("sums", "original"):
            assert np.allclose(own[name], other[name], rtol=1e-3, atol=1e-2)
    assert len(list((folder / "plots").glob(f"{run}*_card.png"))) == 1
    (effects,) = (folder / "results_quantitative" / "effect").glob(f"{run}*.json")
    assert len(json.loads(effects.read_text())["images"]) == 2


def test_a_vector_is_split_and_its_card_shows_whole_images(finished, split):
    folder, said = split
    assert "predictions that change: 0 of" in said["vector"][2]
    store = ImportanceStore(folder / "store", "tests.factories-vector_last_linear")
    assert store.load_meta()["positions"] == 1
    card = ("--get_channel_card", "--proportion_attribution_required", "0.0001")
    refused = evaluate(finished, folder, "vector", *card, "--patch_size", "12")
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith(
        "--patch_size 12: whole images are shown: last sees one vector per image, without a position: leave it out"
    )
    result = evaluate(finished, folder, "vector", *card, "--get_feature_visualization")
    assert result.returncode == 0, result.stderr
    assert len(list((folder / "plots").glob("tests.factories-vector*_card.png"))) == 1
