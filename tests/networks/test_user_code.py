"""Errors of user-supplied networks are one line; ours, and memory that ends, are never taken for theirs."""

import pytest
import torch
from torch import nn

from tests import factories
from utils.errors import UserError
from utils.images.transform import Transform
from utils.networks.embedder import Embedder
from utils.networks.layers import find_layer
from utils.networks.loading import LoadedNetwork, load_network
from utils.networks.module_copies import copy_module
from utils.networks.replay import Replay
from utils.networks.trace import Trace, trace
from utils.networks.user_code import user_code

OUT_OF_MEMORY = [MemoryError("no memory"), torch.OutOfMemoryError("CUDA out of memory")]


class Raises(factories.Small):
    """Raises an error in its forward pass, from its second one on where ``passes`` is 1."""

    def __init__(self, error, passes=0):
        super().__init__(nn.Conv2d(8, 12, 1))
        self.error, self.passes = error, passes
        self.eval().requires_grad_(False)

    def forward(self, x):
        self.passes -= 1
        if self.passes < 0:
            raise self.error
        return super().forward(x)


class RaisesWhenCopied:
    def __init__(self, error):
        self.error = error

    def __deepcopy__(self, memo):
        raise self.error


def load(error, monkeypatch):
    def factory():
        raise error

    monkeypatch.setattr(factories, "made_here", factory, raising=False)
    load_network("tests.factories:made_here")


def use(error, monkeypatch):
    network = factories.small()
    network.eval = lambda: (_ for _ in ()).throw(error)
    monkeypatch.setattr(factories, "made_here", lambda: network, raising=False)
    load_network("tests.factories:made_here")


def load_weights(error, monkeypatch, tmp_path):
    network = factories.small()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    network.load_state_dict = lambda state: (_ for _ in ()).throw(error)
    monkeypatch.setattr(factories, "made_here", lambda: network, raising=False)
    load_network("tests.factories:made_here", str(tmp_path / "weights.pth"))


def read_weights(error, monkeypatch, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"weights")
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(error))
    load_network("tests.factories:small", str(tmp_path / "weights.pth"))


def copy_an_attribute(error):
    module = nn.Linear(2, 2)
    module.attribute = RaisesWhenCopied(error)
    copy_module(module)


def copy_what_is_deep(error):
    module = nn.Linear(2, 2)
    module.__dict__["__deepcopy__"] = RaisesWhenCopied(error).__deepcopy__
    copy_module(module)


def embed(error):
    Embedder("m", LoadedNetwork(Raises(error), "w", "0", Transform()), Transform(resize_size=8, crop_size=8))


def replay(error):
    network = Raises(error, passes=1)
    Replay(network, network.last, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
class TestOutOfMemory:
    @pytest.mark.parametrize("loading", [load, use])
    def test_comes_out_of_loading(self, error, loading, monkeypatch):
        with pytest.raises(type(error), match=str(error)):
            loading(error, monkeypatch)

    @pytest.mark.parametrize("loading", [load_weights, read_weights])
    def test_comes_out_of_loading_weights(self, error, loading, monkeypatch, tmp_path):
        with pytest.raises(type(error), match=str(error)):
            loading(error, monkeypatch, tmp_path)

    @pytest.mark.parametrize(
        "call",
        [copy_an_attribute, copy_what_is_deep, embed, replay, lambda error: find_layer(Raises(error), "last", 8)],
    )
    def test_comes_out_of_every_use(self, error, call):
        with pytest.raises(type(error), match=str(error)):
            call(error)


@pytest.mark.parametrize("method", ["before", "after"])
def test_an_error_in_our_hooks_is_not_taken_for_the_networks(method, monkeypatch):
    monkeypatch.setattr(Trace, method, lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace(factories.small(), 8)


def test_an_error_in_the_hooks_of_an_embedder_is_not_taken_for_the_networks(monkeypatch):
    monkeypatch.setattr("utils.networks.embedder.LinearCall", lambda *_: 1 / 0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
    with pytest.raises(ZeroDivisionError):
        Embedder("m", LoadedNetwork(network, "w", "0", Transform()), Transform(resize_size=8, crop_size=8))


def test_an_error_of_the_network_is_one_line_with_its_reason():
    with pytest.raises(UserError, match=r"cannot take images of 8x8 pixels: wrong size$"):
        find_layer(Raises(ValueError("wrong size\nat line 3")), "last", 8)
    with pytest.raises(UserError, match="--embedding m cannot take images of 8x8 pixels: wrong size"):
        embed(ValueError("wrong size"))
    with pytest.raises(ValueError, match=r"Linear cannot be copied \(KeyError: 'x'\)"):
        copy_what_is_deep(KeyError("x"))


def test_an_error_that_is_for_the_user_already_stays_as_it_is():
    with pytest.raises(UserError, match=r"^ours$"), user_code(lambda error: UserError("another")):
        raise UserError("ours")
