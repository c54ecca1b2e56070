"""Split files applied to networks of all kinds: several layers, wrong networks, networks that are hard to copy."""

import threading

import pytest
import torch
from torch import nn

from tests import factories
from tests.splits import random_split
from utils.networks.loading import fingerprint
from utils.networks.module_copies import copy_module
from utils.networks.splitting import DisentangledLayer, with_splits
from utils.store import networks as stored
from utils.store.splits import SplitFile


@pytest.fixture
def apply(monkeypatch):
    """split_network, with files that are pairs of a split and its layer's name, made from a given network."""

    def apply(network, *files, made_from=None, **options):
        context = {"weights_sha256": fingerprint(made_from or network), "model": "net"}

        def read_splits(file):
            split, layer = file
            yield file, SplitFile(split, {**context, "layer": layer}, {}, None, {}, {}), None

        monkeypatch.setattr(stored, "read_splits", read_splits)
        return stored.split_network(network, *files, **options)

    return apply


def splits_of(network, **channels):
    """Files of splits: stem=[1, 2] stands for two channels of stem.0, last=[3] for one of last."""
    names = {"stem": "stem.0", "last": "last"}
    return [
        (random_split(network.get_submodule(names[layer]), channel), names[layer])
        for layer, own in channels.items()
        for channel in own
    ]


def equal(network, other):
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(other(x), network(x), rtol=1e-4, atol=1e-5)


def test_channels_of_several_layers_are_split_in_one_call(apply):
    network = factories.with_kernel()
    before = fingerprint(network)
    files = splits_of(network, last=[3], stem=[1]) + splits_of(network, last=[7])
    split = apply(network, *files, rhos=[0.5, 0.9, 1.0])
    assert split.last.channels == [3, 7] and split.stem[0].channels == [1]
    assert torch.equal(split.last.parts.weight[0].flatten(1), files[0][0].rows(0.5)[0])
    assert torch.equal(split.last.parts.weight[3].flatten(1), files[2][0].rows(1.0)[0])
    equal(network, split)
    assert fingerprint(network) == before and isinstance(network.last, nn.Conv2d)


def test_a_second_call_says_that_one_has_to_do(apply):
    network = factories.small()
    split = apply(network, *splits_of(network, last=[3]))
    for again in (split, split.half()):
        with pytest.raises(ValueError, match="split already: give all files in one call"):
            apply(again, *splits_of(network, stem=[1]), made_from=network)
    with pytest.raises(ValueError, match="split already: give all files in one call"):
        with_splits(split, "stem.0", [random_split(network.stem[0], 1)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda network: network.half(), r"converted to torch.float16: split it first, then .half\(\)"),
        (lambda network: network.double(), "converted to torch.float64: split it first"),
        (nn.DataParallel, r"wrapped \(DataParallel\): split it first, then wrap"),
        (torch.compile, r"wrapped \(OptimizedModule\): split it first"),
        (lambda _: factories.other_weights(), "made for net with other weights"),
    ],
)
def test_a_network_that_is_not_as_it_was_is_told_why(apply, change, message):
    files = splits_of(factories.small(), last=[3])
    with pytest.raises(ValueError, match=message):
        apply(change(factories.small()), *files, made_from=factories.small())


def test_what_is_split_first_can_be_converted_and_wrapped(apply):
    network = factories.small()
    split = apply(network, *splits_of(network, last=[3]))
    equal(network, nn.DataParallel(split))
    equal(network.double().to(torch.float32), split.double().to(torch.float32))


def test_no_file_wrong_rhos_and_the_same_channel_twice(apply):
    network = factories.small()
    files = splits_of(network, last=[3, 4])
    for given, rhos, message in (
        ([], None, "no split file was given"),
        (files, [0.5], "1 rhos were given for 2 splits"),
        (files, [0.5, 0.55, 0.6], "3 rhos were given for 2 splits"),
        (files, [0.5, 0.33], "rho 0.33 is not one of the stored values 0.05, 0.1,"),
        ([files[0], files[0]], None, "only once"),
    ):
        with pytest.raises(ValueError, match=message):
            apply(network, *given, rhos=rhos)


class Guarded(factories.Small):
    """Holds a lock, an open file in a list, and modules in a list of its own."""

    def __init__(self, last):
        super().__init__(last)
        self.lock, self.files = threading.Lock(), [open(__file__)]  # noqa: SIM115
        self.head.options = {"lock": threading.Lock(), "scale": torch.ones(1)}
        self.order = [self.stem, self.last, self.head]

    def forward(self, x):
        with self.lock:
            for module in self.order:
                x = module(x) * self.head.options["scale"]
        return self.classifier(x.flatten(1))


def guarded():
    torch.manual_seed(0)
    return Guarded(nn.Conv2d(8, 12, 1)).eval().requires_grad_(False)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_a_network_with_old_weight_norm_can_be_split():
    network = factories.small().requires_grad_(True)
    nn.utils.weight_norm(network.stem[0])
    network(torch.zeros(1, 3, 16, 16))
    assert not network.stem[0].weight.is_leaf
    equal(network, with_splits(network, "last", [random_split(network.last, 3)]))


def test_a_copy_shares_only_what_cannot_be_copied():
    network = guarded()
    other = copy_module(network)
    assert other.lock is network.lock and other.head.options["lock"] is network.head.options["lock"]
    assert other.files == network.files and other.files is not network.files
    assert other.order == [other.stem, other.last, other.head]
    assert other.head.options["scale"] is not network.head.options["scale"]
    equal(network, other)
    before = fingerprint(network)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.half()
    assert fingerprint(network) == before
    with_splits(network, "stem.0", [random_split(network.stem[0], 3)])


def test_a_layer_that_holds_a_lock_can_be_split():
    network = factories.small()
    network.last.lock = threading.Lock()
    network.last.register_forward_hook(lambda _, __, output: output * 2)
    split = with_splits(network, "last", [random_split(network.last, 3)])
    assert isinstance(split.last, DisentangledLayer)
    equal(network, split)


def test_what_cannot_be_copied_at_all_is_one_line():
    network = factories.small()
    network.deep = [[threading.Lock()]]
    network.last.__dict__["__deepcopy__"] = lambda memo: 1 / 0
    with pytest.raises(ValueError, match=r"Small cannot be copied \(ZeroDivisionError"):
        with_splits(network, "last", [random_split(factories.small().last, 3)])
