"""A user's own lists of images as concepts: what they are made of, their names, and what is refused."""

import codecs
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import factories
from tests.oracles import load, stored_images
from tests.scripts import CHANNEL, RUN
from tests.stores import study_of
from utils.concept_sources.user_images import UserImages
from utils.errors import UserError
from utils.method.disentangling import Concept
from utils.stages.input_readouts import InputReadouts
from utils.store.image_lists import read_image_list
from utils.store.importance_store import ImportanceStore
from utils.store.scores import MEAN_DIFFERENCE

ANT, BEE, CAT, DOG = range(4)
IN_CLASS = 6  # training images of each class
FIRST = [f"bee/{number}.png" for number in range(4)] + ["ant/2.png"]
SECOND = [f"dog/{number}.png" for number in range(5)]


@pytest.fixture
def study(finished):
    training = ImportanceStore(finished / "store", RUN)
    training.load_meta()
    return study_of(training, run=RUN, store_dir=finished / "store", data_dir=finished / "data", background=1.0)


@pytest.fixture
def write(tmp_path):
    def write_list(name, paths):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(paths) + "\n")
        return str(path)

    return write_list


def make(study, concepts=(), **lists):
    """The Candidate of channel 9; lists are named by their number, with ``v`` in front for validation images."""
    starts = {"t": "images_for_concept", "v": "validation_images_for_concept"}
    given = {f"{starts[name[0]]}{name[1:]}": path for name, path in lists.items()}
    return UserImages.from_given(given, study).maker(study, [CHANNEL]).make(CHANNEL, list(concepts))


def arv_by_autograd(finished, indices):
    """Mean of input x gradient at the layer's input towards the channel's spatial sum, image by image."""
    network = factories.small()
    images, _ = load(finished, "train")
    summands = []
    for image in images[indices]:
        x = network.stem(image[None]).detach().requires_grad_()
        network.last(x)[0, CHANNEL].sum().backward()
        summands.append((x * x.grad).sum((0, 2, 3)))
    return torch.stack(summands).mean(0).double()


def test_the_arv_of_a_list_is_the_mean_over_its_images(study, finished, write):
    candidate = make(study, t1=write("red.txt", FIRST), t2=write("blue.txt", SECOND))
    assert [concept.name for concept in candidate.concepts] == ["red", "blue", "everything else"]
    assert candidate.concepts[0].images == [2, 6, 7, 8, 9] and candidate.concepts[1].images == list(range(18, 23))
    for concept, arv in zip(candidate.own_concepts, candidate.arvs, strict=False):
        expected = arv_by_autograd(finished, concept.images)
        torch.testing.assert_close(arv, expected, rtol=1e-4, atol=1e-5)


def test_listed_images_are_left_out_of_classes_whose_arv_is_the_mean_of_class_means(study, finished, write):
    candidate = make(study, [[], [ANT, BEE]], t1=write("red.txt", FIRST))
    of_classes = candidate.concepts[1]
    assert of_classes.images == [0, 1, 3, 4, 5, 10, 11] and of_classes.classes == [ANT, BEE]
    means = [arv_by_autograd(finished, images) for images in ([0, 1, 3, 4, 5], [10, 11])]
    torch.testing.assert_close(candidate.arvs[1], (means[0] + means[1]) / 2, rtol=1e-4, atol=1e-5)
    plain = make(study, [[], [DOG]], t1=write("red.txt", FIRST))
    assert plain.concepts[1].images == list(range(18, 24)) and plain.concepts[1].name == "dog"


def test_a_readout_of_classes_beside_a_list_is_fitted_without_the_listed_images(study, write):
    """Also where the same classes had a readout with all of their images before."""
    of_classes = make(study, [[], [ANT, BEE]], t1=write("red.txt", FIRST)).concepts[1]
    readouts = InputReadouts(study.tap_sums)
    of_all = readouts.of(MEAN_DIFFERENCE, Concept("", [ANT, BEE]))
    sums = study.tap_sums.of_images(torch.arange(4 * IN_CLASS)).double()
    others = sums[2 * IN_CLASS :].mean(0)  # cats and dogs
    for images, row in ((range(2 * IN_CLASS), of_all), (of_classes.images, readouts.of(MEAN_DIFFERENCE, of_classes))):
        expected = (sums[list(images)].mean(0) - others) / sums.var(0, correction=0)
        torch.testing.assert_close(row, expected)


def test_only_correct_is_for_classes_a_list_counts_as_it_is(study, finished, write):
    images = stored_images(ImportanceStore(finished / "store", RUN))
    wrong = images["indices"][images["predictions"] != images["targets"]].tolist()
    one = wrong[0] if wrong else 18
    labels = study.labels
    predictions = labels.predictions.clone()
    predictions[[one, 2]] = (labels.targets[[one, 2]] + 1) % 4
    correct = replace(study, only_correct=True)
    correct.__dict__["labels"] = labels._replace(predictions=predictions)
    output = one // IN_CLASS
    candidate = make(correct, [[], [output]], t1=write("red.txt", FIRST))
    assert 2 in candidate.concepts[0].images
    assert one not in candidate.concepts[1].images and len(candidate.concepts[1].images) > 0


def test_names_of_files_depend_on_the_images_not_on_the_order_or_place_of_a_list(study, write):
    name = make(study, t1=write("red.txt", FIRST)).named_by
    assert name.startswith("user_images_red_")
    commented = ["# my choice", "", *FIRST[::-1], f"./{FIRST[0]}"]
    assert make(study, t1=write("elsewhere/red.txt", commented)).named_by == name
    of_windows = write("elsewhere/red.txt", [])
    Path(of_windows).write_bytes(codecs.BOM_UTF8 + "\r\n".join(FIRST).encode())
    assert make(study, t1=of_windows).named_by == name
    others = [
        make(study, t1=write("red.txt", [*FIRST, "ant/3.png"])),
        make(study, [[], [DOG]], t1=write("red.txt", FIRST)),
        make(study, [[], [CAT]], t1=write("red.txt", FIRST)),
        make(study, t1=write("red.txt", FIRST), v1=write("v.txt", ["bee/0.png"])),
        make(study, t1=write("red.txt", FIRST), v1=write("v.txt", ["bee/1.png"])),
        make(study, t1=write("red.txt", FIRST), t2=write("b.txt", SECOND)),
        make(study, t1=write("b.txt", SECOND), t2=write("red.txt", FIRST)),
    ]
    assert len({name, *(other.named_by for other in others)}) == len(others) + 1


def test_a_manifest_is_named_after_lists_and_classes_at_bounded_length(study, write):
    source = UserImages.from_given({"images_for_concept1": write("red.txt", FIRST)}, study)
    stems = {source.manifest_stem(None, [2, 5], [[], classes]) for classes in ([DOG], [CAT], [CAT, DOG])}
    assert len(stems) == 3 and all(stem.startswith("channels_2-5_user_images_red_") for stem in stems)
    long = [source.manifest_stem(None, range(number), [[], [DOG]]) for number in (200, 201)]
    assert len(set(long)) == 2 and max(map(len, long)) <= 100


def test_the_means_of_a_list_and_of_classes_with_the_same_images_differ(study, finished):
    images = [0, 1, 2, 3, 6, 7]
    inputs = stored_images(ImportanceStore(finished / "store", RUN))["input_sums"].double()
    maker = UserImages().maker(study, [CHANNEL])
    concepts = [Concept("mine", [], images, "images"), Concept("ant and bee", [ANT, BEE], images, "images")]
    of_list, of_classes = maker.mean_inputs_of(concepts)
    torch.testing.assert_close(of_list, inputs[images].mean(0))
    torch.testing.assert_close(of_classes, (inputs[:4].mean(0) + inputs[6:8].mean(0)) / 2)


def test_the_mean_is_the_same_in_blocks(study, write, monkeypatch):
    whole = make(study, t1=write("red.txt", FIRST)).arvs
    monkeypatch.setattr("utils.concept_sources.user_images.BLOCK", 2)
    torch.testing.assert_close(make(study, t1=write("red.txt", FIRST)).arvs, whole, rtol=1e-12, atol=1e-12)


def test_lists_and_classes_that_cannot_be_concepts_are_refused(study, write):
    red = write("red.txt", FIRST)
    all_bees = write("bees.txt", [f"bee/{number}.png" for number in range(IN_CLASS)])
    refusals = {
        "images_for_concept1: there is no file nowhere": {"t1": "nowhere.txt"},
        "red.txt lists 1 image that": {"t1": red, "t2": write("blue.txt", [*SECOND, "bee/3.png"])},
        "lists, too: bee/3.png": {"t1": red, "t2": write("blue.txt", [*SECOND, "bee/3.png"])},
        "few.txt lists 4 images: at least 5": {"t1": write("few.txt", FIRST[:4])},
        "does not have: bee/30.png; similar: bee/": {"t1": write("typo.txt", [*FIRST, "bee/30.png"])},
        "there is no class folder train": {"t1": write("train.txt", [f"train/{path}" for path in FIRST])},
        "two concepts are called 'red'": {"t1": red, "t2": write("elsewhere/red.txt", SECOND)},
        "a list is called 'everything else'": {"t1": write("everything else.txt", FIRST)},
        "is for a concept that is a list: give --images_for_concept2": {"t1": red, "v2": write("v.txt", ["bee/0.png"])},
        "val does not have: bee/9.png": {"t1": red, "v1": write("v.txt", ["bee/9.png"])},
        "lists 0 images: at least 1": {"t1": red, "v1": write("empty.txt", [])},
    }
    for message, lists in refusals.items():
        with pytest.raises(UserError) as raised:
            make(study, **lists)
        assert message in str(raised.value)
    with pytest.raises(UserError, match=r"class 1 \(bee\) has no image outside the lists"):
        make(study, [[], [BEE]], t1=all_bees)
    with pytest.raises(UserError, match="give only one of them"):
        make(study, [[DOG]], t1=red)
    with pytest.raises(UserError, match="give one of them"):
        make(study, [[], []], t1=red)
    with pytest.raises(UserError, match="a single concept has nothing to be separated from"):
        make(replace(study, background=None), t1=red)


def test_an_image_that_stage_1_has_left_out_is_named(study, write):
    listed = read_image_list(write("red.txt", FIRST), "--flag", 1)
    rows = torch.arange(24) != 7
    labels = study.labels
    fewer = type(labels)(*(values[rows.numpy()] for values in labels))
    with pytest.raises(UserError, match=r"1 image that stage 1 has left out as unreadable: bee/1\.png"):
        listed.indices_in(study.training, fewer)
