"""Stage 3's pass over images: its order, how many it reads, and what a stopped run leaves to the next one."""

import random
import re
import runpy
import shutil

import pytest
import torch

from tests import factories
from tests.scripts import COMPUTE, NETWORK, ROOT, contents
from utils.divisions.arv import Arv
from utils.method.disentangling import Candidate, Concept
from utils.networks.layers import layer_of
from utils.networks.opened_network import OpenedNetwork
from utils.stages import concept_images, equality_proof
from utils.stages.concept_images import ReadingPlan, images_at_once, images_to_show, order_of_reading
from utils.store.splits import SplitWriter
from utils.store.unfinished import Unfinished

PAIRS = "".join(f"{channel}: {pair}\n" for channel in (9, 4, 7) for pair in ("0, 3", "1, 2"))
CIRCUITS = ("--concepts_from", "circuits", "--nr_concepts", "2", "--split_by", "least_squares")


def candidate(channel, *concepts, images=None):
    """A candidate of classes, or with ``images`` of image sets."""
    made = [Concept(f"{k}", classes) for k, classes in enumerate(concepts)]
    if images is not None:
        made = [Concept(f"{k}", [], images=some, kind="images") for k, some in enumerate(images)]
    arvs = torch.randn(len(made), 8, generator=torch.Generator().manual_seed(channel))
    weight = torch.randn(8, 1, generator=torch.Generator().manual_seed(100 + channel))
    return Candidate(channel, made, weight, None, 16, arvs, arvs.mean(0), [[0]], {"name": "classes", "state": {}})


# --------------------------------------------------------------------------------------------------------------------
# The order of reading


def ready_at(order, candidates, sizes, share):
    """The share of candidates that are ready when a share of the images has been read."""
    most = share * sum(sizes[key] for key in order)
    read, seen = 0, set()
    for key in order:
        read += sizes[key]
        if read > most:
            break
        seen.add(key)
    return sum(seen.issuperset(each.keys) for each in candidates) / len(candidates)


@pytest.mark.parametrize("seed", range(3))
def test_many_candidates_are_ready_early(seed):
    """Of 1,000 pairs of 740 classes, a quarter is ready after a quarter of the images; by class it is a sixteenth."""
    numbers = random.Random(seed)
    pairs = [candidate(channel, *([output] for output in numbers.sample(range(740), 2))) for channel in range(1000)]
    sizes = {output: numbers.choice([1300, 1300, 900]) for output in range(740)}
    order = order_of_reading(pairs, sizes)
    assert sorted(order) == sorted({key for pair in pairs for key in pair.keys})
    by_class = ready_at(list(sizes), pairs, sizes, 0.25)
    assert ready_at(order, pairs, sizes, 0.25) > max(0.22, 3 * by_class)
    assert ready_at(order, pairs, sizes, 0.05) > 0.03
    larger = [candidate(channel, *([output] for output in numbers.sample(range(740), 5))) for channel in range(500)]
    assert ready_at(order_of_reading(larger, sizes), larger, sizes, 0.25) > 0.12
    assert ready_at(list(sizes), larger, sizes, 0.25) < 0.01


def test_a_candidate_that_has_been_begun_is_finished_before_the_next_one():
    sets = [candidate(channel, images=[[channel], [channel, 9], [1, 2]]) for channel in range(4)]
    order = order_of_reading(sets, {key: 3 for each in sets for key in each.keys})
    assert order == [key for each in sets for key in each.keys]


def test_a_split_does_not_depend_on_the_order_of_its_groups_or_on_other_candidates():
    network = factories.small()
    opened = OpenedNetwork(network, layer_of("last", network.last), "fp32")
    wanted, *others = [candidate(c, [0, 1, 5], [2, 3], [4]) for c in range(3)]
    pixels = {key: 10.0**key * torch.randn(12, 3, 8, 8) for key in wanted.keys}  # so that roundings tell orders apart
    states = []
    for keys, beside in (([0, 1, 2, 3, 4, 5], []), ([3, 5, 0, 4, 2, 1], others), ([5, 4, 3, 2, 1, 0], others[:1])):
        divider = Arv.divider(Arv.settings_from({}), opened, inputs_of=None, background=None)
        with divider:
            for key in keys:
                for batch in pixels[key].split(5):
                    divider.see([*beside, wanted], key, batch)
        states.append(divider.divide(wanted).state())
    assert all(torch.equal(state["objectives"], states[0]["objectives"]) for state in states)
    assert all(torch.equal(state["owners"], states[0]["owners"]) for state in states)


# --------------------------------------------------------------------------------------------------------------------
# How many images show equality


def of_classes(number, size=50):
    return {key: torch.arange(key * size, (key + 1) * size) for key in range(number)}


def test_equality_is_shown_on_four_images_of_a_class_and_on_one_of_an_image_set():
    pairs, members = [candidate(0, [0], [1])], of_classes(2, size=31)
    shown = images_to_show(pairs, members)
    assert {key: images.tolist() for key, images in shown.items()} == {0: [0, 10, 20, 30], 1: [31, 41, 51, 61]}
    sets = {(7, 1): torch.tensor([3, 5, 8]), (7, 2): torch.tensor([1, 2])}
    shown = images_to_show([candidate(7, images=[[3, 5, 8], [1, 2]])], sets)
    assert {key: images.tolist() for key, images in shown.items()} == {(7, 1): [3], (7, 2): [1]}


def test_equality_is_shown_on_sixteen_images_of_a_set_that_is_the_only_one_and_on_fewer_of_many():
    alone = candidate(7, images=[range(31)])
    shown = images_to_show([alone], {alone.keys[0]: torch.arange(31)})
    assert shown[alone.keys[0]].tolist() == list(range(0, 31, 2))
    many = [candidate(channel, images=[range(31)]) for channel in range(1000)]
    shown = images_to_show(many, {each.keys[0]: torch.arange(31) for each in many})
    assert {len(images) for images in shown.values()} == {4}


def test_the_images_that_show_equality_are_bounded_and_every_candidate_has_one():
    pairs = [candidate(k, [k], [k + 1]) for k in range(1500)]
    shown = images_to_show(pairs, of_classes(1501))
    assert {len(images) for images in shown.values()} == {2} and len(shown) == 1501
    channels = [candidate(c, images=[[c], [c + 1], [c + 2], [c + 3], [c + 4]]) for c in range(2048)]
    members = {key: torch.tensor([key[0]]) for each in channels for key in each.keys}
    shown = images_to_show(channels, members)
    assert sum(map(len, shown.values())) == concept_images.MOST_SHOWN
    assert all(any(key in shown for key in each.keys) for each in channels)
    assert len(images_at_once(members)) == concept_images.MOST_AT_ONCE
    assert concept_images.MOST_SHOWN + concept_images.MOST_AT_ONCE <= 5000


def test_a_run_that_goes_on_reads_what_the_missing_candidates_need():
    pairs, members = [candidate(k, [k], [k + 1]) for k in range(20)], of_classes(21)
    for all_images, each in ((True, 50), (False, 4)):
        plans = [ReadingPlan.of(pairs, some, members, all_images=all_images) for some in (pairs, pairs[:3], [])]
        assert [plan.num_images for plan in plans] == [21 * each, 4 * each, 0]
        assert [plan.num_shown for plan in plans] == [21 * 4, 4 * 4, 0]


# --------------------------------------------------------------------------------------------------------------------
# Stopped and resumed


@pytest.fixture
def stage3(copy, monkeypatch, capsys):
    """Stage 3 on candidates of a finished store: what it prints. With ``stop`` it is interrupted in that call of a
    method, and the splits and manifests that it has written are returned."""
    monkeypatch.chdir(copy)
    script = runpy.run_path(str(ROOT / "disentangle_channel.py"))
    parser = script["get_args_parser"]()

    def run(*flags, stop=None, calls=0):
        where = ("--data_dir", "data", "--store_dir", "store", "--batch_size", "4")
        settings = script["settings_from"](parser.parse_args([*NETWORK, *COMPUTE, *where, *flags]), parser)
        with monkeypatch.context() as patch:
            if stop is not None:
                patch.setattr(*stop, interrupted(getattr(*stop), calls))
                with pytest.raises(KeyboardInterrupt):
                    script["main"](settings)
            else:
                script["main"](settings)
        return capsys.readouterr().out

    return run


def interrupted(method, calls):
    """A method that is interrupted after some calls."""
    done = []

    def call(*arguments):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(arguments)
        return method(*arguments)

    return call


def splits_in(copy):
    """Splits, manifests and tables of concepts; a source may keep files of its own beside them."""
    files = contents(copy / "store" / "models_disentangled")
    return {name: file for name, file in files.items() if name.endswith((".pt", "_layer.json", "_concepts.csv"))}


def images_of(out):
    return int(re.search(r"splits to make: reads ([\d,]+) images", out)[1].replace(",", ""))


@pytest.mark.parametrize("flags", [(), CIRCUITS])
def test_a_stopped_run_is_resumed_to_the_same_files_with_fewer_images(copy, stage3, flags, monkeypatch):
    monkeypatch.setattr(equality_proof, "STEP", 2)
    (copy / "pairs.txt").write_text("".join(f"{channel}\n" for channel in range(8)) if flags else PAIRS)
    flags = ("--candidates", "pairs.txt", *flags)
    shutil.rmtree(copy / "store" / "models_disentangled")
    whole = stage3(*flags)
    expected = splits_in(copy)
    shutil.rmtree(copy / "store" / "models_disentangled")
    first = stage3(*flags, stop=(SplitWriter, "write"), calls=4)
    assert len(splits_in(copy)) == 4 and images_of(first) == images_of(whole)
    rest = stage3(*flags)
    assert images_of(rest) < images_of(whole)
    assert splits_in(copy) == expected


def test_a_proof_of_all_splits_at_once_goes_on_where_it_stopped(copy, stage3, monkeypatch):
    monkeypatch.setattr(equality_proof, "STEP", 2)
    (copy / "pairs.txt").write_text("".join(f"{channel}\n" for channel in range(8)))
    flags = ("--candidates", "pairs.txt", *CIRCUITS)
    stage3(*flags)
    expected = splits_in(copy)
    (manifest,) = (copy / "store" / "models_disentangled").glob("*_layer.json")
    manifest.unlink()
    stage3(*flags, stop=(Unfinished, "keep"), calls=3)
    (unfinished,) = manifest.parent.glob("*.unfinished_*")
    assert len(list(unfinished.iterdir())) == 3
    measured = []
    measure = equality_proof.EqualityProof._measured
    monkeypatch.setattr(
        equality_proof.EqualityProof, "_measured", lambda *arguments: measured.append(1) or measure(*arguments)
    )
    stage3(*flags)
    assert splits_in(copy) == expected
    assert len(measured) == 16 // 2 - 3  # of 8 channels with two image sets each
