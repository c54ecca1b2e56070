"""Stages 3 and 4 as processes, without labels: concepts are sets of the images in which a channel is largest."""

import json
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from tests import factories
from tests.oracles import contributions, least_squares_by_scipy, load, pure_by_hand, stored_images
from tests.pictures import write_image
from tests.scripts import COMPUTE, NETWORK, RUN, run_script, stage1, stage3, stage4
from tests.stores import study_of
from utils.concept_sources import stored_image_sets
from utils.concept_sources.circuits import Circuits
from utils.concept_sources.source_registry import SOURCES
from utils.concept_sources.stored_image_sets import strongest_images
from utils.errors import UserError
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import read_manifest, read_split

SETS = ("--concepts_from", "circuits", "--nr_concepts", "3", "--nr_reference_images", "12")
IMAGES = ("--data_dir", "data", "--store_dir", "store", *COMPUTE)


def models(folder):
    return folder / "store" / "models_disentangled"


def only_split(folder, method):
    (path,) = models(folder).glob(f"*_{method}_*.pt")
    return path, read_split(path)


def clusters_by_search(points, number, starts=100):
    """Labels [n] and means [K, F] of the least squared distances of many random starts, the largest cluster first."""
    points = points.double().numpy()
    random = np.random.default_rng(0)
    best, least = None, np.inf
    for _ in range(starts):
        means = points[random.choice(len(points), number, replace=False)]
        for _ in range(30):
            labels = np.square(points[:, None] - means).sum(-1).argmin(1)
            if len(np.unique(labels)) < number:
                break
            means = np.stack([points[labels == k].mean(0) for k in range(number)])
        else:
            distances = np.square(points - means[labels]).sum()
            if distances < least:
                best, least = labels, distances
    members = [np.flatnonzero(best == k) for k in range(number)]
    members.sort(key=lambda images: (-len(images), images[0]))
    labels = np.empty(len(points), dtype=int)
    for k, images in enumerate(members):
        labels[images] = k
    return torch.from_numpy(labels), torch.stack([torch.from_numpy(points[images].mean(0)) for images in members])


def circuit_sets(given, number=3, references=12):
    """The image sets that circuits must make, each ascending, and their centroids."""
    order = sorted(range(len(given)), key=lambda image: (-float(given[image].sum()), image))[:references]
    labels, centroids = clusters_by_search(given[order] / given[order].abs().sum(1, keepdim=True), number)
    return [sorted(order[row] for row in np.flatnonzero(labels == k)) for k in range(number)], centroids


def vector_sets(means, scale):
    """The rows of reference images [n, C] that concept vectors must make a set of each, and the sets' means.

    As many clusters as merges at 3.5 times the root of the scale leave; images at a squared distance of the scale or
    more are dropped, then sets of fewer than five.
    """
    means = means.double()
    number = fcluster(linkage(means.numpy(), "ward"), np.nextafter(3.5 * scale**0.5, 0), "distance").max()
    labels, centroids = clusters_by_search(means, number)
    near = (means - centroids[labels]).square().sum(1) < scale
    sets = [torch.nonzero((labels == k) & near).flatten() for k in range(number)]
    sets = sorted((rows for rows in sets if len(rows) >= 5), key=lambda rows: (-len(rows), rows[0]))
    return sets, torch.stack([means[rows].mean(0) for rows in sets])


def folders(images):
    """The class of each training image: the tests have six of each of four classes, in order."""
    return [("ant", "bee", "cat", "dog")[image // 6] for image in images]


def test_circuits_are_those_of_the_store(copy):
    out = stage3("data", "store", *SETS, pair=(), cwd=copy)
    path, file = only_split(copy, "circuits")
    split, given = file.split, contributions(copy)
    sets, centroids = circuit_sets(given)
    assert [concept.images for concept in split.own_concepts] == sets
    assert [concept.kind for concept in split.concepts] == ["images"] * 3 + ["background"]
    assert not any(concept.classes for concept in split.concepts)
    torch.testing.assert_close(file.source["state"]["centroids"], centroids, rtol=1e-5, atol=1e-7)
    arvs = torch.stack([given[images].mean(0) for images in sets] + [given.mean(0)])
    torch.testing.assert_close(split.arvs.float(), arvs, rtol=1e-4, atol=1e-5)
    for number, (concept, images) in enumerate(zip(split.own_concepts, sets, strict=True), start=1):
        assert concept.name.startswith(f"circuit {number} (")
        assert set(folders(images)) >= set(concept.name.split("(")[1].rstrip(")").split(", "))
        assert f"concept {number}: {concept.name}, {len(images)} training images" in out
    assert path.stem.endswith("_least_squares_background") and file.background == 1
    assert "predictions that change: 0 of" in out and f"--splits {path.relative_to(copy)}" in out
    before = path.read_bytes()
    assert "already stored" in stage3("data", "store", *SETS, pair=(), cwd=copy)
    assert path.read_bytes() == before


def test_their_shares_are_those_of_their_images(copy):
    stage3("data", "store", *SETS, "--background", "0.5", pair=(), cwd=copy)
    _, file = only_split(copy, "circuits")
    given = contributions(copy)
    sets, _ = circuit_sets(given)
    inputs = stored_images(ImportanceStore(copy / "store", RUN))["input_sums"].double()
    others = [image for image in range(len(given)) if not any(image in images for images in sets)]
    groups = [inputs[images] for images in [*sets, others]]
    expected = least_squares_by_scipy(file.split.weight.double().numpy(), groups, [1, 1, 1, 0.5])
    torch.testing.assert_close(file.split.division.fitted.double(), torch.from_numpy(expected), rtol=0, atol=5e-3)


def test_rho_is_chosen_on_their_images(copy):
    stage3("data", "store", *SETS, "--split_by", "arv", "--background", "0", pair=(), cwd=copy)
    _, file = only_split(copy, "circuits")
    sets, _ = circuit_sets(contributions(copy))
    pixels, _ = load(copy, "train")
    inputs = factories.small().stem(pixels)
    for rho, values in zip((0.5, 1.0), file.split.division.objectives[[9, 19], 0].tolist(), strict=True):
        rows = file.split.rows(rho).float()
        maps = [torch.einsum("bihw,i->bhw", inputs, row[:, 0]).clamp(min=0).sum((1, 2)) for row in rows]
        expected = sum(
            (maps[k] / (sum(maps[j] for j in range(3) if j != k) / 2 + 1e-5))[images].mean()
            for k, images in enumerate(sets)
        )
        assert values == pytest.approx(float(expected), rel=1e-3)


def test_concept_vectors_are_those_of_all_channels(copy):
    flags = ("--concepts_from", "concept_vectors", "--nr_reference_images", "20")
    stage3("data", "store", *flags, pair=(), cwd=copy)
    _, file = only_split(copy, "concept_vectors")
    given, positions = contributions(copy), file.split.positions
    order = given.sum(1).argsort(descending=True, stable=True)[:20]
    means = torch.stack([contributions(copy, channel=channel).sum(1) for channel in range(12)], 1) / positions
    scale = float((means - means.mean(0)).square().sum(1).mean())
    sets, centroids = vector_sets(means[order], scale)
    assert [concept.images for concept in file.split.own_concepts] == [
        order[rows].sort().values.tolist() for rows in sets
    ]
    torch.testing.assert_close(file.source["state"]["centroids"], centroids, rtol=1e-4, atol=1e-5)
    assert file.source["state"]["restarts"] == 5


def test_pure_is_that_of_the_images(copy):
    flags = ("--concepts_from", "pure", "--nr_reference_images", "10")
    out = stage3("data", "store", *flags, pair=(), cwd=copy)
    _, file = only_split(copy, "pure")
    values, circuits = pure_by_hand(copy, "train")
    order = values.argsort(descending=True, stable=True)[:10]
    labels, centroids = clusters_by_search(circuits[order], 2)
    for k, concept in enumerate(file.split.own_concepts):
        assert concept.images == order[labels == k].sort().values.tolist()
    torch.testing.assert_close(file.source["state"]["centroids"], centroids, rtol=1e-3, atol=1e-5)
    assert "reference images: store/models_disentangled/" in out

    stage1("data", "store", "--images", "val", cwd=copy)
    command = shlex.split(out.rsplit("get_results.py ", 1)[1].splitlines()[0])
    command += ["--get_quantitative", "--proportion_attribution_required", "0.0001", *COMPUTE]
    result = run_script("get_results.py", *command, cwd=copy)
    assert result.returncode == 0, result.stderr
    assert "from pure, nr concepts 2, nr reference images 10 (the 100 validation images of" in result.stdout
    values, circuits = pure_by_hand(copy, "val")
    assigned = torch.cdist(circuits.double(), centroids).argmin(1)
    assert measured_sets(copy) == [np.flatnonzero((assigned == k) & (values > 0)).tolist() for k in range(2)]


def measured_sets(folder):
    """The validation images of each concept of the only result, as indices."""
    (path,) = (folder / "results_quantitative" / "pairs").glob("*.json")
    names = sorted(str(one.relative_to(folder / "data" / "val")) for one in (folder / "data" / "val").rglob("*.png"))
    return [sorted(map(names.index, part["paths"])) for part in json.loads(path.read_text())["images"]]


@pytest.mark.parametrize("pictures", [(), ("--get_channel_card",)])
def test_new_images_are_given_to_the_nearest_training_centroid(copy, pictures, without_figures):
    stage1("data", "store", "--images", "val", cwd=copy)
    stage3("data", "store", *SETS, pair=(), cwd=copy)
    path, file = only_split(copy, "circuits")
    wanted = ("--get_quantitative", *pictures, "--proportion_attribution_required", "0.0001")
    result = run_script("get_results.py", *NETWORK, *IMAGES, "--splits", path.relative_to(copy), *wanted, cwd=copy)
    assert result.returncode == 0, result.stderr
    assert "from circuits, nr concepts 3, nr reference images 12 (the 100 validation images of" in result.stdout
    given = contributions(copy, "val")
    circuits = given / given.abs().sum(1, keepdim=True)
    nearest = torch.cdist(circuits.double(), file.source["state"]["centroids"]).argmin(1)
    assert measured_sets(copy) == [np.flatnonzero(nearest == k).tolist() for k in range(3)]
    summary = (copy / "results_quantitative" / "summary.md").read_text()
    assert "each assigned to the nearest training centroid" in summary
    again = run_script("get_results.py", *NETWORK, *IMAGES, "--splits", path.relative_to(copy), *wanted, cwd=copy)
    assert again.returncode == 0 and again.stdout == result.stdout


def test_of_many_images_the_strongest_are_taken(copy, monkeypatch):
    monkeypatch.setattr(stored_image_sets, "ASSIGNED_IMAGES", 5)
    stage1("data", "store", "--images", "val", cwd=copy)
    stage3("data", "store", *SETS, pair=(), cwd=copy)
    path, file = only_split(copy, "circuits")
    store = ImportanceStore(copy / "store", RUN, "val")
    store.load_meta()
    sets = SOURCES.get("circuits").assigned([OpenedSplit(path, file, None)], store, None)
    strongest = contributions(copy, "val").sum(1).argsort(descending=True, stable=True)[:5]
    assert sorted(torch.cat(list(sets.values())).tolist()) == sorted(strongest.tolist())
    assert list(sets) == [(path.stem, k) for k in (1, 2, 3)]


def test_a_whole_layer_in_one_go(copy):
    flags = ("--concepts_from", "circuits", "--nr_concepts", "2", "--nr_reference_images", "8")
    result = run_script("disentangle_channel.py", *NETWORK, *IMAGES, *flags, cwd=copy)
    assert result.returncode == 0, result.stderr
    assert "all 12 splits at once" in result.stdout
    (manifest,) = models(copy).glob("*_layer.json")
    assert manifest.name.startswith(f"{RUN}_all_channels_circuits_")
    assert [one["channel"] for one in read_manifest(manifest)] == list(range(12))
    assert f"--splits {manifest.relative_to(copy)}" in result.stdout

    stage1("data", "store", "--images", "val", cwd=copy)
    wanted = ("--get_quantitative", "--get_effect", "--proportion_attribution_required", "0.0001")
    evaluated = run_script(
        "get_results.py", *NETWORK, *IMAGES, "--splits", manifest.relative_to(copy), *wanted, cwd=copy
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert len(list((copy / "results_quantitative" / "pairs").iterdir())) == 12
    assert "nearest training centroid" in (copy / "results_quantitative" / "effect.md").read_text()
    (copy / "some.txt").write_text("9\n3  # a channel alone\n9: 1, 3\n")
    some = run_script("disentangle_channel.py", *NETWORK, *IMAGES, *flags, "--candidates", "some.txt", cwd=copy)
    assert some.returncode == 0 and some.stdout.count("already stored: ") == 2


def test_only_correctly_classified_images_where_asked(copy):
    stage3("data", "store", *SETS[:4], "--nr_reference_images", "100", "--only_correct", pair=(), cwd=copy)
    _, file = only_split(copy, "circuits")
    images = stored_images(ImportanceStore(copy / "store", RUN))
    correct = images["indices"][images["targets"] == images["predictions"]].tolist()
    assert sorted(image for concept in file.split.own_concepts for image in concept.images) == correct
    assert file.source["state"]["nr_reference_images"] == len(correct)  # not the 100 that there are not
    training = ImportanceStore(copy / "store", RUN)
    training.load_meta()
    assert Circuits.references_from({}, study_of(training, only_correct=True)) == len(correct) // 4 > 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--nr_concepts", "3"), "--nr_concepts is for --concepts_from circuits"),
        (("--concepts_from", "circuits", "--distance_threshold", "3"), "is for --concepts_from concept_vectors"),
        (("--concepts_from", "circuits", "--circuit_layer", "stem"), "--circuit_layer is for --concepts_from pure"),
        (("--concepts_from", "pure", "--circuit_layer", "nope"), "the network has no module of that name"),
        ((*SETS, "--classes_for_concept1", "1"), "finds the concepts: leave out --classes_for_concept"),
        ((*SETS, "--nr_concepts", "13", "--channel_disentangle", "9"), "12 different images for 13 clusters"),
        ((*SETS, "--channel_disentangle", "12"), "out of range"),
        (("--candidates", "alone.txt"), "line 1 names no concepts of channel 9: write 'channel: class, class', or let"),
    ],
)
def test_what_does_not_go_together_is_one_line(copy, flags, complaint):
    (copy / "alone.txt").write_text("9\n")
    result = run_script("disentangle_channel.py", *NETWORK, *IMAGES, *flags, cwd=copy)
    assert result.returncode == 2 and complaint in result.stderr
    assert not list(models(copy).glob("*circuits*"))


def test_without_a_val_store_nobody_knows_their_images(copy):
    stage3("data", "store", *SETS, pair=(), cwd=copy)
    path, _ = only_split(copy, "circuits")
    result = run_script("get_results.py", *NETWORK, *IMAGES, "--splits", path.relative_to(copy), cwd=copy)
    assert result.returncode == 2
    assert "has concepts without labels, whose validation images are in the val store" in result.stderr
    assert re.search(r": run python \S*get_importances_for_classes.py .*--images val$", result.stderr.strip())
    stage1("data", "store", "--images", "val", cwd=copy)
    wanted = ("--splits", path.relative_to(copy), "--get_separation")
    result = run_script("get_results.py", *NETWORK, *IMAGES, *wanted, cwd=copy)
    assert (
        result.returncode == 2
        and "has concepts without labels, whose only images are those they were found in" in result.stderr
    )


def test_a_split_by_classes_and_one_without_labels_together(copy, without_figures):
    stage1("data", "store", "--images", "val", cwd=copy)
    stage3("data", "store", *SETS, pair=(), cwd=copy)
    path, _ = only_split(copy, "circuits")
    both = ("--splits", path.relative_to(copy), f"store/models_disentangled/{RUN}_channel9_1_3.pt")
    result = run_script(
        "get_results.py", *NETWORK, *IMAGES, *both, "--proportion_attribution_required", "0.0001", cwd=copy
    )
    assert result.returncode == 0, result.stderr
    assert len(list((copy / "results_quantitative" / "pairs").iterdir())) == 2
    assert result.stdout.count("| channel | concept") == 2
    stage3("data", "store", *SETS[:4], "--nr_reference_images", "14", pair=(), cwd=copy)
    found = [str(one.relative_to(copy)) for one in models(copy).glob("*_circuits_*.pt")]
    more = ("--splits", *found, "--proportion_attribution_required", "0.0001", "--get_quantitative")
    result = run_script("get_results.py", *NETWORK, *IMAGES, *more, cwd=copy)
    assert result.stdout.count("nr reference images 12") == result.stdout.count("nr reference images 14") == 1
    plain = stage4("data", "store", "--no-only_correct", "--get_quantitative", cwd=copy)
    assert "nearest training centroid" not in plain


def test_channels_and_concepts_without_a_validation_image(copy, without_figures):
    """Of a val store of dogs alone: concepts that nothing is near to, and channels that PURE finds active nowhere."""
    for folder in ("ant", "bee", "cat"):
        shutil.rmtree(copy / "data" / "val" / folder)
    stage1("data", "store", "--images", "val", cwd=copy)
    network = factories.small()
    active = (network.last(network.stem(load(copy, "val")[0])).amax((0, 2, 3)) > 0).tolist()
    assert True in active and False in active
    flags = ("--nr_concepts", "2", "--nr_reference_images", "10")
    for method, done in (("circuits", [True] * 12), ("pure", active)):
        found = run_script("disentangle_channel.py", *NETWORK, *IMAGES, "--concepts_from", method, *flags, cwd=copy)
        assert found.returncode == 0, found.stderr
        (manifest,) = models(copy).glob(f"*_{method}_*_layer.json")
        wanted = ("--splits", manifest.relative_to(copy), "--get_quantitative", "--get_effect")
        result = run_script("get_results.py", *NETWORK, *IMAGES, *wanted, cwd=copy)
        assert result.returncode == (0 if all(done) else 2), result.stderr
        assert "Traceback" not in result.stderr and "0 of 0" in result.stdout
        results = (copy / "results_quantitative" / "pairs").glob(f"*_{method}_*.json")
        assert len(list(results)) == sum(done)
    assert f"channel {active.index(False)} is active in no validation image" in result.stderr


def test_an_image_that_is_not_the_one_that_the_val_store_has_measured_is_an_error(copy, without_figures):
    stage1("data", "store", "--images", "val", cwd=copy)
    stage3("data", "store", *SETS, pair=(), cwd=copy)
    path, _ = only_split(copy, "circuits")
    write_image(copy / "data" / "val" / "dog" / "1.png", 0, 99)
    result = run_script(
        "get_results.py", *NETWORK, *IMAGES, "--splits", path.relative_to(copy), "--get_effect", cwd=copy
    )
    assert result.returncode == 2
    assert "val/dog/1.png is not the image that stage 1 measured: its content has changed" in result.stderr


def test_without_a_correctly_classified_image_there_is_no_reference():
    wrong = {"indices": torch.arange(3), "targets": torch.zeros(3), "predictions": torch.ones(3)}
    wrong["input_sums"] = torch.rand(3, 8, 1)
    store = SimpleNamespace(num_chunks=1, read_chunk=lambda *_: wrong, folder="store/m", meta={"num_images": 3})
    assert strongest_images(store, torch.rand(2, 8, 1), 5).shape == (2, 3)
    with pytest.raises(UserError, match="store/m has no correctly classified image"):
        strongest_images(store, torch.rand(2, 8, 1), 5, only_correct=True)
