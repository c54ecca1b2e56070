"""What stages, tables, figures and pages rely on, of every source of concepts; a toy one is among them."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch

from tests import factories
from tests.scripts import CHANNEL, RUN, run_script, stage1
from tests.with_toys import registered
from utils.concept_sources.compared_channels import Comparison
from utils.concept_sources.source_registry import SOURCES, SUGGESTED, USUAL
from utils.divisions.division_registry import DIVISIONS
from utils.divisions.division_registry import USUAL as USUAL_DIVISION
from utils.errors import UserError
from utils.images.batches import Loading
from utils.method.polysemanticity import averaged_relevance_vectors
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.stages.circuit_map import map_image_finders
from utils.stages.comparison_methods import comparison_methods
from utils.stages.separation import ValidationInputs
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import SETTINGS, SPLIT_CONTEXT, SplitFile, read_split, transform_from, write_split
from utils.store.study import Study

TOY = "halves"
OFFERED = [name for name in SOURCES if SOURCES.get(name).summary]
WITHOUT_LABELS = [name for name in SOURCES if not SOURCES.get(name).labelled]
CONCEPTS = [[1], [3]]
GIVEN = {"number": 2, "references": 8}
COMPARED = [name for name in SOURCES if SOURCES.get(name).compared]


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    copied = tmp_path_factory.mktemp("sources") / "copy"
    shutil.copytree(finished, copied)
    stage1(copied / "data", copied / "store", "--images", "val", cwd=copied)
    return copied


@pytest.fixture
def study(folder):
    training = ImportanceStore(folder / "store", RUN)
    meta = training.load_meta()

    def open_network():
        module = factories.small()
        layer = find_layer(module, "last_conv", meta["transform"]["crop_size"])
        return OpenedNetwork(module, layer, "fp32")

    loading = Loading(torch.device("cpu"))
    return Study(
        **{"run": RUN, "store_dir": folder / "store", "data_dir": folder / "data", "training": training},
        **{"only_correct": False, "background": 1.0, "transform": transform_from(meta["transform"])},
        **{
            "open_network": open_network,
            "open_loading": lambda: loading,
            "decoding": "pil",
            "batch_size": 4,
            "precision": "fp32",
        },
    )


@pytest.fixture
def val_store(folder):
    store = ImportanceStore(folder / "store", RUN, "val")
    store.load_meta()
    return store


def given_to(source, folder):
    """What of GIVEN the source has a flag for; concept vectors keep images however far from their centroid."""
    if source.concept_flag:
        return lists_for(source, folder)
    given = {flag.setting: GIVEN[flag.setting] for flag in source.flags if flag.setting in GIVEN}
    return given | ({"threshold": 1e6} if "threshold" in {flag.setting for flag in source.flags} else {})


def lists_for(source, folder):
    """Two lists of training images, and two of validation images."""
    given = {}
    for kind, start, count in (("train", source.concept_flag, 6), ("val", f"validation_{source.concept_flag}", 4)):
        for number, folders in enumerate((("ant", "bee"), ("cat", "dog")), start=1):
            paths = [f"{name}/{image}.png" for name in folders for image in range(count - number)]
            path = folder / f"{kind}_list{number}.txt"
            path.write_text("\n".join(paths))
            given[f"{start}{number}"] = str(path)
    return given


@pytest.fixture(params=[*OFFERED, TOY])
def source(request):
    with registered():
        yield SOURCES.get(request.param)


@pytest.fixture
def candidate(source, study, folder):
    maker = source.from_given(given_to(source, folder), study).maker(study, [CHANNEL])
    return maker.make(CHANNEL, CONCEPTS if source.labelled else [])


@pytest.fixture
def opened(candidate, study, tmp_path):
    """A split of the candidate, written and read again."""
    way = next(way for way in DIVISIONS.all() if way.name != USUAL_DIVISION)
    settings = way.settings_from({})
    divider = way.divider(settings, None, inputs_of=study.inputs_of, background=study.background)
    split = candidate.split(divider.divide(candidate))
    context = {key: study.meta[key] for key in SPLIT_CONTEXT}
    of_stages = dict.fromkeys(SETTINGS) | {"only_correct": False, "precision": "fp32", "decoding": "pil"}
    path = study.model_dir / f"{RUN}_channel{CHANNEL}_{candidate.source['name']}_contract.pt"
    write_split(path, SplitFile(split, context, of_stages, study.background, candidate.source, {}))
    yield OpenedSplit(path, read_split(path), None)
    path.unlink()


def test_concepts_are_of_classes_or_of_images_and_end_with_the_background(source, candidate):
    kinds = [concept.kind for concept in candidate.concepts]
    assert kinds == ["classes" if source.labelled else "images"] * len(candidate.own_concepts) + ["background"]
    assert candidate.own_concepts and all(concept.name for concept in candidate.concepts)
    assert candidate.source["name"] == source.name
    assert isinstance(candidate.named_by, list) == source.labelled


def test_arvs_are_means_over_the_images_of_the_concepts(source, candidate, study):
    images = study.training.read_chunk(0), study.training.read_chunk(1), study.training.read_chunk(2)
    inputs, targets = (torch.cat([chunk[name] for chunk in images]) for name in ("input_sums", "targets"))
    for concept, arv in zip(candidate.own_concepts, candidate.arvs, strict=False):
        own = concept.images if concept.images else [i for i, t in enumerate(targets.tolist()) if t in concept.classes]
        expected = averaged_relevance_vectors(factories.small().last.weight[CHANNEL].flatten(1), inputs[own])
        torch.testing.assert_close(arv, expected.mean(0), rtol=1e-5, atol=1e-7)


def test_where_concepts_come_from_goes_through_a_file(source, candidate, opened):
    read = opened.file.source
    assert read["name"] == source.name and read["state"].keys() == candidate.source["state"].keys()
    for name, value in candidate.source["state"].items():
        same = (
            torch.equal(value, read["state"][name]) if isinstance(value, torch.Tensor) else value == read["state"][name]
        )
        assert same
    found_by = opened.file.found_by()
    assert found_by["from"] == source.name
    assert not any(isinstance(value, torch.Tensor) for value in found_by.values())


def test_new_images_are_given_to_one_concept_each(source, opened, study, val_store):
    assigned = source.assigned([opened], val_store, study)
    assert set(assigned) == (set() if source.labelled else set(opened.keys))
    images = torch.cat([*assigned.values(), torch.empty(0, dtype=torch.long)])
    assert len(images.unique()) == len(images)
    assert torch.isin(images, val_store.read_labels().indices).all()
    assert all((indices.diff() > 0).all() for indices in assigned.values())
    assert (source.assignment(opened.file.source["state"]) is None) == source.labelled


def test_a_map_shows_images_of_every_concept(source, opened, study):
    images = map_image_finders([opened], study)[opened.path](opened)
    assert len(images.indices) == len(images.concepts) == len(images.features)
    concepts = opened.file.split.own_concepts
    assert set(images.concepts.tolist()) - {-1} == set(range(len(concepts)))
    if not source.labelled:
        for k, concept in enumerate(concepts):
            assert sorted(images.indices[images.concepts == k].tolist()) == sorted(concept.images)
    assert source.map_words


def test_flags_find_the_same_concepts_again(source, candidate, study):
    words = source.flag_words(candidate.source["state"])
    parser = argparse.ArgumentParser()
    for flag in source.flags:
        parser.add_argument(f"--{flag.name}", type=flag.parse, dest=flag.setting)
    given = {name: value for name, value in vars(parser.parse_args(list(map(str, words)))).items() if value is not None}
    again = source.from_given(given, study).maker(study, [CHANNEL]).make(CHANNEL, CONCEPTS if source.labelled else [])
    assert again.named_by == candidate.named_by and again.concepts == candidate.concepts


def test_there_are_words_for_everything_that_is_shown(source, candidate):
    assert source.words and source.split_words and source.summary
    said = source.settings_words(candidate.source["state"])
    assert len(said) == sum(candidate.source["state"].get(flag.name) is not None for flag in source.flags)


def test_the_layer_of_a_run_has_a_name_where_there_are_several_channels(source, study, folder):
    made = source.from_given(given_to(source, folder), study)
    assert made.manifest_stem("there/groups.json", []).startswith("groups")
    assert made.manifest_stem(None, [CHANNEL]) is None
    several = made.manifest_stem(None, [1, 2])
    assert (several is None) == source.labelled


@pytest.mark.parametrize("name", [*OFFERED, TOY])
def test_help_lists_the_source_and_its_flags(name, tmp_path):
    text = run_script("tests/with_toys.py", "disentangle_channel.py", "--help", "all", cwd=tmp_path).stdout
    with registered():
        shown = [flag for flag in SOURCES.get(name).flags if flag.help != argparse.SUPPRESS]
        assert all(f"--{flag.name}" in text for flag in shown)
    assert name in text


@pytest.mark.parametrize("name", [*COMPARED, TOY])
def test_a_comparison_has_sets_of_every_unit(name, study, val_store):
    with registered():
        source = SOURCES.get(name)
    if not source.splits_channels:
        assert source.own_units() and not source.summary  # it has units of its own, and stage 3 does not offer it
        return
    validation = ValidationInputs(val_store, [1, 3])
    mean_inputs = study.class_store.require_means()[0][0, 0]
    comparison = Comparison(study, [(CHANNEL, CONCEPTS)], mean_inputs, val_store, validation, rho=1.0, given=GIVEN)
    (channel,) = comparison
    finder = comparison.finder(source)
    assert comparison.finder(source) is finder
    sets = finder.sets(channel)
    assert sets.means().shape == (len(sets.concepts), 8, 1) and len(sets.groups()[0]) == len(sets.concepts) + 1
    assert len(sets.second_moments()[0]) == len(sets.concepts) + 1
    assert (sets.clusters is None) == source.labelled
    assert 1 <= finder.draws < len(channel.weights)
    for draw in range(1, 1 + finder.draws):
        try:
            permuted = finder.sets(channel, draw, len(sets.concepts))
        except UserError:  # images of permuted weights may make no clusters
            continue
        assert len(permuted.concepts) == len(sets.concepts)


def test_labels_are_for_one_source_and_no_method_of_the_comparison_hides_another():
    with registered():
        assert [source.name for source in SOURCES.all() if source.labelled] == [USUAL]
        compared = [source for source in SOURCES.all() if source.compared]
        expected = sum(len(source.own_units()) + len(list(DIVISIONS)) * source.splits_channels for source in compared)
        assert len(comparison_methods()) == len(("original", "logit", "mean_difference", "probe")) + expected


def test_what_is_usual_is_registered():
    assert {USUAL, SUGGESTED} <= set(OFFERED) and SOURCES.get(USUAL).labelled
    assert WITHOUT_LABELS and not any(Path(name).suffix for name in SOURCES)
