"""--get_edit against a twin that runs the whole network with hooks, image by image."""

import csv
import json
import shutil
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import factories
from tests.scripts import CHANNEL, COMPUTE, NETWORK, PAIR, RUN, contents, run_script, stage1, stage3, stage4, succeed
from utils.method.clustering import k_means
from utils.method.ranking import rank_images
from utils.method.shares import least_squares_shares, second_moments
from utils.method.significance import permutation
from utils.stages.edit_effects import OTHERS, MeasuredImages, _at_equal_effect, _in_full
from utils.store import stored_transform
from utils.store.edit_results import Edits
from utils.store.splits import read_split

FOLDERS = ("ant", "bee", "cat", "dog")
CONCEPTS = [[1], [3]]
EDITS = Path("results_quantitative/edits")
STEM = f"{RUN}_channel{CHANNEL}_1_3_least_squares_background"
FITTED = ("--split_by", "least_squares")
EDIT = ("--get_edit", "--with_pure")
ANT_AND_CAT = ("--classes_for_concept1", "ant", "--classes_for_concept2", "cat")
SEED = (CHANNEL, CONCEPTS)


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """A folder with a split whose edits were measured, and what was printed."""
    folder = tmp_path_factory.mktemp("edits") / "copy"
    shutil.copytree(finished, folder)
    stage1("data", "store", "--images", "val", cwd=folder)
    stage3("data", "store", *FITTED, cwd=folder)
    return folder, stage4("data", "store", *FITTED, *EDIT, cwd=folder)


def rows_of(folder, stem=STEM):
    return json.loads((folder / EDITS / f"{stem}.json").read_text())["rows"]


class Twin:
    """The network, its images and the split, with nothing of the program's own passes."""

    def __init__(self, folder):
        self.network = factories.small()
        path = folder / "store" / "models_disentangled" / f"{STEM}.pt"
        self.split = read_split(path).split
        transform = stored_transform(path)

        def read(kind):
            paths = [sorted((folder / "data" / kind / name).iterdir()) for name in FOLDERS]
            images = torch.stack([transform(Image.open(image)) for of_class in paths for image in of_class])
            return images, torch.arange(4).repeat_interleave(len(paths[0]))

        self.images, self.targets = {}, {}
        for kind in ("train", "val"):
            self.images[kind], self.targets[kind] = read(kind)
        self.weight = self.split.weight[:, 0].double()
        inputs = self.network.stem(self.images["train"]).double()
        self.sums = inputs.sum((2, 3))
        self.positions = inputs[0, 0].numel()
        self.mean_input = inputs.mean((0, 2, 3))
        self.maps = {kind: self.map_of(self.weight, images) for kind, images in self.images.items()}

    def map_of(self, row, images):
        return torch.einsum("i,bihw->bhw", row, self.network.stem(images).double())

    def logits(self, images, values=None):
        def replace(module, inputs, output):
            output = output.clone()
            output[:, CHANNEL] = values.float()
            return output

        handle = self.network.last.register_forward_hook(replace) if values is not None else None
        with torch.no_grad():
            logits = self.network(images).double()
        if handle:
            handle.remove()
        return logits

    def shares(self, method, k):
        shares = self.split.shares().double()
        order = permutation(8, "weights" if method == "weights_permuted" else "owners", *SEED, 0)
        if method == "part":
            return shares[k]
        if method == "shares_permuted":
            return shares[k][order]
        if method == "random_half":
            return torch.isin(torch.arange(8), permutation(8, "edit half", *SEED, k)[:4]).double()
        targets = self.targets["train"]
        groups = [self.sums[targets == 1], self.sums[targets == 3], self.sums[(targets == 0) | (targets == 2)]]
        moments = [second_moments(group[..., None]) for group in groups]
        weight = self.split.weight.double()
        permuted = least_squares_shares(weight[order][None], moments, [1, 1, 1], weight[None])[0]
        return (permuted / permuted.sum(0))[k]

    def gates(self):
        """Images that PURE gives to each concept, {kind: [K, N]}."""
        circuits, maxima = {}, {}
        for kind, images in self.images.items():
            positive = self.maps[kind].clamp(min=0)
            circuit = torch.einsum("bihw,i,bhw->bi", self.network.stem(images).double(), self.weight, positive)
            circuits[kind] = circuit / circuit.abs().sum(1, keepdim=True).clamp(min=1e-30)
            maxima[kind] = positive.flatten(1).amax(1)
        strongest = maxima["train"].argsort(descending=True, stable=True)[:6]
        _, centroids = k_means(circuits["train"][strongest].float(), 2)
        nearest = {kind: torch.cdist(of, centroids.double()).argmin(1) for kind, of in circuits.items()}
        own = torch.isin(self.targets["train"], torch.tensor([1, 3]))
        scores = torch.stack([maxima["train"].where(nearest["train"] == cluster, 0) for cluster in range(2)])[:, own]
        matched = [rank_images(scores, self.targets["train"][own] == t).auroc.argmax() for t in (1, 3)]
        return {kind: torch.stack([of == cluster for cluster in matched]) for kind, of in nearest.items()}

    def edited(self, method, k, kind):
        """The channel's map after the edit of concept k in full."""
        original = self.maps[kind]
        mean = float(self.weight @ self.mean_input)
        if method == "whole_channel":
            return torch.full_like(original, mean)
        if method == "range":
            low, high = np.quantile(self.maps["train"][self.targets["train"] == CONCEPTS[k][0]], (0.025, 0.975))
            return torch.where((original >= low) & (original <= high), mean, original)
        if method == "pure_gate":
            return torch.where(self.gates()[kind][k][:, None, None], mean, original)
        row = self.weight * self.shares(method, k)
        return original - self.map_of(row, self.images[kind]) + float(row @ self.mean_input)

    def change(self, method, k, kind, strength=1.0):
        """Change of each image's own logit, its margin, and whether its class is predicted afterwards and before."""
        images, targets = self.images[kind], self.targets[kind]
        original = self.maps[kind]
        before = self.logits(images, original)
        after = self.logits(images, original + strength * (self.edited(method, k, kind) - original))
        difference = after - before
        own = difference.gather(1, targets[:, None])[:, 0]
        margin = own - (difference.sum(1) - own) / 3
        return own, margin, after.argmax(1) == targets, before.argmax(1) == targets


@pytest.fixture(scope="module")
def twin(measured):
    return Twin(measured[0])


METHODS = ("part", "whole_channel", "shares_permuted", "weights_permuted", "random_half", "range", "pure_gate")


@pytest.mark.parametrize("method", METHODS)
def test_every_number_is_that_of_the_whole_network(measured, twin, method):
    rows = [row for row in rows_of(measured[0]) if row["method"] == method]
    assert [row["concept"] for row in rows] == [1, 2]
    tolerance = {"rel": 5e-3 if method == "weights_permuted" else 1e-3, "abs": 2e-6}
    targets = twin.targets["val"]
    for k, row in enumerate(rows):
        own, margin, after, before = twin.change(method, k, "val")
        kinds = {"own": targets == CONCEPTS[k][0], "other": targets == CONCEPTS[1 - k][0], "rest": targets % 2 == 0}
        for kind, images in kinds.items():
            assert row[f"images_{kind}"] == images.sum()
            assert row[f"change_{kind}"] == pytest.approx(own[images].mean().item(), **tolerance)
            assert row[f"margin_{kind}"] == pytest.approx(margin[images].mean().item(), **tolerance)
            gained = after[images].double().mean() - before[images].double().mean()
            assert row[f"top1_{kind}"] == pytest.approx(gained.item(), abs=1e-6)
        for kind, name in (("other", "selectivity"), ("rest", "selectivity_rest")):
            harm = own[kinds[kind]].abs()
            assert row[f"harm_{kind}"] == pytest.approx(harm.mean().item(), **tolerance)
            half_width = 1.96 * harm.std() / len(harm) ** 0.5
            least = bool(harm.mean() < half_width)
            assert row[f"{name}_is_least"] == least
            if harm.mean() > 0:
                expected = own[kinds["own"]].mean().abs() / (harm.mean() + half_width * least)
                assert row[name] == pytest.approx(expected.item(), rel=2e-2)


@pytest.mark.parametrize("method", METHODS)
def test_the_strength_gives_half_of_the_parts_effect_on_training_images(measured, twin, method):
    for k, row in enumerate(row for row in rows_of(measured[0]) if row["method"] == method):
        own = twin.targets["train"] == CONCEPTS[k][0]
        target = 0.5 * twin.change("part", k, "train")[0][own].mean()
        assert row["training_images"] == 6
        if row["strength"] is None:
            reached = [twin.change(method, k, "train", s)[0][own].mean() / target for s in (0.5, 1, 2, 4)]
            assert max(reached) < 1 and row["harm_at_equal_effect"] is None
            continue
        effect = twin.change(method, k, "train", row["strength"])[0][own].mean()
        assert effect.item() == pytest.approx(target.item(), rel=2e-2)
        changes = twin.change(method, k, "val", row["strength"])[0]
        targets = twin.targets["val"]
        for name, value in (
            ("harm_at_equal_effect", changes[targets == CONCEPTS[1 - k][0]].abs().mean()),
            ("harm_rest_at_equal_effect", changes[targets % 2 == 0].abs().mean()),
            ("change_at_equal_effect", changes[targets == CONCEPTS[k][0]].mean()),
        ):
            assert row[name] == pytest.approx(value.item(), rel=2e-2, abs=1e-6)


def test_files_and_lines(measured):
    folder, printed = measured
    table = list(csv.DictReader((folder / "results_quantitative" / "edits.csv").open()))
    assert list(table[0])[:13] == [
        *("run", "layer", "channel", "concept", "name", "method", "change_own", "change_other", "change_rest"),
        *("selectivity", "selectivity_rest", "strength", "harm_at_equal_effect"),
    ]
    assert len(table) == 14 and {row["method"] for row in table} == set(METHODS)
    assert float(table[0]["change_own"]) == pytest.approx(rows_of(folder)[0]["change_own"], rel=1e-5)
    for name in ("results_quantitative/edits.md", "results_quantitative/edits.tex", f"plots/{STEM}_edits.png"):
        assert (folder / name).is_file() and name in printed
    assert "Selectivity against the channel's other concepts" in printed and "too few channels for intervals" in printed
    edits = Edits(folder, None)
    (entry,) = edits.read_all()
    assert len(entry["rows"]) == 14
    infinite = [row for row in entry["rows"] if row["harm_other"] == 0]
    assert infinite and all(row["selectivity"] == np.inf for row in infinite)


def test_what_is_there_is_not_measured_again_and_fewer_methods_are_enough(measured, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(measured[0], folder)
    before = contents(folder / EDITS)
    flags = ("--data_dir", "data", "--store_dir", "store", "--channel_of_interest", CHANNEL, *PAIR, *FITTED)
    result = run_script("get_results.py", *NETWORK, *flags, "--get_edit", *COMPUTE, cwd=folder)
    assert result.returncode == 0 and "images run" not in result.stderr and contents(folder / EDITS) == before


def test_a_killed_run_goes_on_and_other_images_are_measured_anew(measured, tmp_path):
    """Of two splits, one is there: only the other is measured; a changed image of others changes both."""
    folder = tmp_path / "copy"
    shutil.copytree(measured[0], folder)
    stage3("data", "store", *FITTED, channel=5, cwd=folder)
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE, "--get_edit", "--splits")
    paths = sorted(
        Path("store/models_disentangled").joinpath(f"{RUN}_channel{c}_1_3_least_squares_background.pt") for c in (5, 9)
    )
    result = run_script("get_results.py", *NETWORK, *flags, *paths, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "50%" in result.stderr and "2/2" in result.stderr  # begins at one of two
    assert rows_of(folder) == rows_of(measured[0])
    extra = folder / "data" / "val" / "ant" / "more.png"
    shutil.copy(next((folder / "data" / "val" / "ant").iterdir()), extra)
    succeed("get_results.py", *NETWORK, *flags, paths[1], cwd=folder)
    assert [row["images_rest"] for row in rows_of(folder)] == [9] * 12  # without PURE


def test_a_split_that_cannot_be_measured_does_not_keep_others_from_it(measured, tmp_path):
    """A training image of the first split is damaged; the second is measured, and in the tables."""
    folder = tmp_path / "copy"
    shutil.copytree(measured[0], folder)
    shutil.rmtree(folder / EDITS)
    stage3("data", "store", *FITTED, channel=5, pair=ANT_AND_CAT, cwd=folder)
    for path in (folder / "data" / "train" / "ant").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    first = f"{RUN}_channel5_0_2_least_squares_background"
    models = Path("store/models_disentangled")
    paths = (models / f"{first}.pt", models / f"{STEM}.pt")
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE, "--get_edit", "--splits", *paths)
    result = run_script("get_results.py", *NETWORK, *flags, cwd=folder)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 2 and f"1 of 2 candidates could not be evaluated: {first}.pt: " in last
    assert [path.stem for path in (folder / EDITS).iterdir()] == [STEM]
    table = list(csv.DictReader((folder / "results_quantitative" / "edits.csv").open()))
    assert {row["channel"] for row in table} == {str(CHANNEL)}


def test_a_class_named_others_has_its_own_digest(measured):
    described = json.loads((measured[0] / EDITS / f"{STEM}.json").read_text())["validation"]
    assert set(described) == {"bee", "dog", OTHERS} and "/" in OTHERS  # which the name of a folder cannot have


def test_concepts_without_validation_images_have_no_numbers():
    nothing = torch.empty(2, 0)
    empty = MeasuredImages(nothing, nothing, nothing, torch.empty(0, dtype=torch.long))
    values = _in_full(empty, 0, 0)
    assert all(
        isnan(values[name]) for name in ("change_own", "harm_other", "selectivity", "selectivity_rest", "top1_rest")
    )
    assert values["images_own"] == values["images_other"] == 0
    own = MeasuredImages(
        torch.tensor([[-1.0, -3.0]]), nothing[:1].new_zeros(1, 2), torch.zeros(1, 2), torch.tensor([0, 0])
    )
    values = _in_full(own, 0, 0)
    assert values["change_own"] == -2 and isnan(values["selectivity"]) and not values["selectivity_is_least"]
    assert _at_equal_effect(own, 0, 0, is_reached=True)["change_at_equal_effect"] == -2
    assert isnan(_at_equal_effect(own, 0, 0, is_reached=False)["change_at_equal_effect"])
    assert isnan(_at_equal_effect(own, 0, 0, is_reached=True)["harm_at_equal_effect"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--get_effect", "--with_pure"), "--with_pure is for --get_edit: add it"),
        (("--compare", "--get_edit"), "get_edit"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path, more, message):
    result = run_script("get_results.py", *NETWORK, "--channel_of_interest", CHANNEL, *PAIR, *more, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_pure_needs_the_val_store_and_edits_the_training_store(copy):
    flags = (*NETWORK, "--data_dir", "data", "--store_dir", "store", "--channel_of_interest", CHANNEL, *PAIR, *COMPUTE)
    result = run_script("get_results.py", *flags, *EDIT, cwd=copy)
    assert result.returncode == 2 and "--with_pure: store has no complete val store" in result.stderr
    shutil.rmtree(copy / "store" / f"{RUN}_channel_importances")
    result = run_script("get_results.py", *flags, "--get_edit", cwd=copy)
    assert result.returncode == 2 and "run get_importances_for_classes.py" in result.stderr.splitlines()[-1]
