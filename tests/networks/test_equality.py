"""The proof that a split changes nothing: in fp64 where the network runs in it."""

import pytest
import torch
from torch import nn

from tests import factories
from tests.pictures import CPU, SMALL, write_images
from tests.splits import random_split
from utils.errors import UserError
from utils.images.batches import ImageSource, Loading
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.method.equality import LARGEST_ERRORS, EqualityCheck
from utils.networks.layers import layer_of
from utils.networks.loading import fingerprint
from utils.networks.module_copies import copy_module
from utils.networks.opened_network import OpenedNetwork
from utils.report.split_text import print_equality
from utils.stages import equality_proof
from utils.stages.equality_proof import EqualityProof
from utils.store.unfinished import Unfinished

CROPS = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SHOWN = {0: CROPS[:16], 1: CROPS[16:32]}  # of each class


def proof_of(network):
    return EqualityProof(OpenedNetwork(network, layer_of("last", network.last), "fp32"), Transform())


def check(network, *splits, shown=SHOWN, sizes=None):
    """The checks of splits of the layer ``last``; ``sizes`` gets those of the batches that the first module computes,
    and their precisions."""

    def note(_, inputs):
        sizes.append((len(inputs[0]), inputs[0].dtype))

    hook = None if sizes is None else network.stem[0].register_forward_pre_hook(note)
    one_by_one = proof_of(network)
    checks = [one_by_one.check([split], shown) for split in splits]
    if hook:
        hook.remove()
    return checks


class Chaotic(factories.Small):
    """Enlarges roundings a hundred thousandfold on their way to the logits."""

    def forward(self, x):
        x = self.head(self.last(self.stem(x))).flatten(1)
        return torch.sin(1e5 * self.classifier(x))


class OnlyFp32(factories.Small):
    """Does not run in fp64."""

    def forward(self, x):
        return super().forward(x.float())


def made(kind):
    torch.manual_seed(0)
    network = kind(nn.Conv2d(8, 12, 1)).eval().requires_grad_(False)
    network.last.bias += 2  # so that the ReLU lets every channel pass
    return network


def test_a_correct_split_of_a_network_that_enlarges_roundings_is_accepted():
    network = made(Chaotic)
    before = fingerprint(network)
    (one,) = check(network, random_split(network.last, 3))
    assert max(one.fp32_errors()) > LARGEST_ERRORS["fp32"]  # fp32 would refuse it
    assert one.precision == "fp64" and max(one.errors()) < 1e-10
    assert one.is_equal()
    assert fingerprint(network) == before and isinstance(network.last, nn.Conv2d)


def test_a_network_that_does_not_run_in_fp64_is_judged_in_fp32(capsys):
    network = made(OnlyFp32)
    right, wrong = random_split(network.last, 3), random_split(network.last, 3)
    wrong.weight = wrong.weight * 1.001
    one, other = check(network, right, wrong)
    assert one.precision == "fp32" and one.is_equal() and one.errors() == one.fp32_errors()
    assert 0 < max(one.errors()) < LARGEST_ERRORS["fp32"]
    assert not other.is_equal()
    print_equality(one)
    printed = capsys.readouterr()
    assert "in fp32 (limit 1e-04)" in printed.out
    # once for all splits
    assert printed.err.count("equality is checked in fp32 only: the network does not run in fp64 (") == 1


LACKS = [torch.OutOfMemoryError("no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]


@pytest.mark.parametrize("error", [*LACKS, ZeroDivisionError("a mistake of ours")])
def test_a_lack_of_memory_and_a_mistake_of_ours_are_no_network_that_fails_in_fp64(monkeypatch, capsys, error):
    """A copy without memory for it, or without the layer."""
    network = made(factories.Small)

    def failing(_):
        raise error

    def copied(module):
        copy = copy_module(module)
        if error in LACKS:
            copy.forward = failing
        else:
            copy.get_submodule = failing
        return copy

    monkeypatch.setattr(equality_proof, "copy_module", copied)
    message = "not enough memory" if error in LACKS else "a mistake of ours"
    with pytest.raises(UserError if error in LACKS else type(error), match=message):
        check(network, random_split(network.last, 3))
    assert "in fp32 alone" not in capsys.readouterr().err


@pytest.mark.parametrize("error", LACKS)
def test_where_memory_is_short_batches_are_halved_and_fp64_is_kept(error):
    network, largest = made(factories.Small), []
    splits = [random_split(network.last, 3), random_split(network.last, 4)]
    expected = check(network, *splits)

    def needs_memory(_, inputs):
        if inputs[0].nbytes > largest[0]:
            raise error

    network.stem.register_forward_pre_hook(needs_memory)
    for largest[:] in ([2 * CROPS[0].numel() * 8], [CROPS[0].numel() * 8]):  # two images in fp64, one image
        for one, whole in zip(check(network, *splits), expected, strict=True):
            assert one.precision == "fp64" and one.is_equal() and one.images == whole.images
            assert one.errors() == pytest.approx(whole.errors(), abs=1e-15)
    largest[:] = [CROPS[0].numel() * 4]  # not even one in fp64
    with pytest.raises(UserError, match="not enough memory to check on a single image"):
        check(network, *splits)


@pytest.mark.parametrize("kind", [factories.Small, Chaotic])
def test_a_wrong_split_is_refused_however_little_is_wrong(kind):
    network, splits = made(kind), []
    for factor in (1, 1 + 1e-6, 2):
        splits.append(random_split(network.last, 3))
        splits[-1].weight = splits[-1].weight.double() * factor
    assert [one.is_equal() for one in check(network, *splits)] == [True, False, False]


def test_images_and_changed_predictions_are_counted(capsys):
    network, sizes = made(factories.Small), []
    wrong = random_split(network.last, 3)
    wrong.weight = wrong.weight + 100
    right, wrong = check(network, random_split(network.last, 4, num_concepts=2), wrong, sizes=sizes)
    assert max(size for size, _ in sizes) <= 8
    assert right.images == wrong.images == 32
    assert right.changed_predictions == 0 < wrong.changed_predictions <= 32
    assert right.is_equal() and not wrong.is_equal()
    print_equality(right)
    print_equality(wrong)
    printed = capsys.readouterr().out
    assert "c = sum c'_k - (K-1) r, in fp64 (limit 1e-09)" in printed
    assert f"predictions that change: {wrong.changed_predictions} of 32 images" in printed


def test_every_fourth_image_is_compared_in_fp64_and_what_is_before_the_layer_runs_once_for_all_splits():
    network, sizes = made(factories.Small), []
    check(network, random_split(network.last, 3), random_split(network.last, 4), sizes=sizes)
    in_precision = {kind: sum(size for size, dtype in sizes if dtype == kind) for kind in {kind for _, kind in sizes}}
    # in fp64 also an image to see whether the network runs in it
    assert in_precision == {torch.float32: 32, torch.float64: 8 + 1}


def test_what_is_remembered_of_classes_is_bounded_and_changes_nothing(monkeypatch):
    network, computed = made(factories.Small), []
    splits = [random_split(network.last, channel) for channel in (3, 4, 5)]
    for most_bytes in (2**29, 0):
        monkeypatch.setattr(equality_proof, "MOST_BYTES", most_bytes)
        computed.append([])
        checks = check(network, *splits, sizes=computed[-1])
        assert [one.errors() for one in checks] == [one.errors() for one in check(network, *splits)]
    assert sum(size for size, _ in computed[0]) == 40 + 1
    assert sum(size for size, _ in computed[1]) == 3 * 40 + 1


def test_images_of_image_sets_are_compared_together_and_in_fp64_every_fourth():
    network, sizes = made(factories.Small), []
    sets = {(3, k): CROPS[k : k + 1] for k in range(1, 7)}
    split = random_split(network.last, 3)
    (together,) = check(network, split, shown=sets, sizes=sizes)
    assert sizes == [(1, torch.float64), (6, torch.float32), (2, torch.float64)]
    proof = proof_of(network)
    proof.check([split], {**SHOWN, **sets})
    assert {group for _, group, _ in proof._originals} == set(SHOWN)  # a set belongs to one split, and is not kept
    alone = EqualityCheck()
    for key, crops in sets.items():
        alone.include(check(network, split, shown={key: crops})[0].state())
    assert together.images == alone.images == 6 and together.is_equal()
    assert together.fp32_errors() == pytest.approx(alone.fp32_errors(), abs=1e-6)
    split.weight = split.weight.double() * (1 + 1e-6)
    assert not check(network, split, shown=sets)[0].is_equal()


def test_all_splits_at_once_are_compared_in_batches_as_one_image_at_a_time(tmp_path):
    network, sizes = made(factories.Small), []
    splits = [random_split(network.last, channel) for channel in (3, 4, 5)]
    splits[1].weight = splits[1].weight.double() * (1 + 1e-7)
    source = ImageSource(list_images(write_images(tmp_path) / "train"), SMALL, 64, Loading(CPU))
    proof = EqualityProof(OpenedNetwork(network, layer_of("last", network.last), "fp32"), SMALL)
    handle = network.stem[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    at_once = proof.check_all(splits, source, list(range(20)), Unfinished(tmp_path / "result", {}))
    handle.remove()
    assert sizes == [1, 8, 8, 4, 5]  # an image to see whether it runs in fp64, all in fp32, every fourth in fp64
    one_by_one = EqualityCheck()
    for crops in next(iter(source.batches([list(range(20))], None))).crops.split(1):
        one_by_one.include(proof.check(splits, {len(sizes): crops}).state())
        sizes.append(1)
    assert at_once.images == one_by_one.images == 20
    assert at_once.errors() == pytest.approx(one_by_one.errors(), rel=0.3)  # on a quarter of the images
    assert at_once.fp32_errors() == pytest.approx(one_by_one.fp32_errors(), rel=0.5, abs=1e-6)
    assert at_once.errors()[0] > 1e-9 and not at_once.is_equal()


def test_splits_of_several_channels_are_compared_in_one_pass_each_channel_on_its_own_scale():
    network = made(factories.Small)
    network.last.weight[3] *= 1e6  # a difference of channel 4 is nothing beside it
    network.last.bias[3] *= 1e6
    together = proof_of(network)
    splits = [random_split(network.last, 3), random_split(network.last, 4, 3), random_split(network.last, 7)]
    right = together.check(splits, SHOWN)
    assert right.is_equal() and right.images == 32 and right.errors()[0] > 0
    splits[1].weight = splits[1].weight.double() * (1 + 1e-6)
    wrong = together.check(splits, SHOWN)
    assert not wrong.is_equal() and 1e-7 < wrong.errors()[0] < 1e-5


def test_nothing_compared_and_nan_are_not_equal():
    assert not EqualityCheck().is_equal()
    one, value, logits = EqualityCheck(), torch.ones(1, 1, 2), torch.ones(1, 2)
    one.add(value, value * torch.nan, logits, logits, "fp64")
    one.add(value, value, logits, logits)
    assert not one.is_equal()


def test_a_network_that_rounds_to_fp32_behind_the_layer_is_judged_in_fp32():
    value, logits = torch.ones(1, 1, 2).double(), torch.tensor([[0.0, 1.0]]).double()
    for logit_error, precision, equal in ((1e-12, "fp64", True), (1e-7, "fp32", True), (1e-3, "fp32", False)):
        one = EqualityCheck()
        one.add(value, value * (1 + 1e-15), logits, logits + logit_error, "fp64")
        one.add(value.float(), value.float(), logits.float(), (logits + logit_error).float())
        assert (one.precision, one.is_equal()) == (precision, equal)
