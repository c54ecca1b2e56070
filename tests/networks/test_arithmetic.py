"""Precision and layout in memory: what is asked for, whatever a user-supplied network sets."""

import ctypes
from pathlib import Path

import pytest
import torch

from tests import factories
from tests.pictures import write_image
from utils.images.batches import ImageSource, Loading
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.networks import opened_network
from utils.networks.arithmetic import allow_tf32, fastest_memory_format, return_freed_memory
from utils.networks.layers import find_layer
from utils.networks.loading import load_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import network_arithmetic

CPU = torch.device("cpu")


def switches():
    """What torch reports, by both families of switches; reading the older ones raises if they contradict the newer."""
    backends = torch.backends
    kinds = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    on_cpu = (backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul)
    older = (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32)
    matmul = torch.get_float32_matmul_precision()
    return [kind.fp32_precision for kind in kinds], [kind.fp32_precision for kind in on_cpu], older, matmul


def newer(switch, precision):
    def switched():
        switch.fp32_precision = precision

    return switched


def older():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


BACKENDS = torch.backends
FACTORIES = {
    "all": newer(BACKENDS, "tf32"),
    "cudnn": newer(BACKENDS.cudnn, "tf32"),
    "convolutions": newer(BACKENDS.cudnn.conv, "tf32"),
    "products": newer(BACKENDS.cuda.matmul, "tf32"),
    "on the CPU": newer(BACKENDS.mkldnn, "bf16"),
    "convolutions on the CPU": newer(BACKENDS.mkldnn.conv, "bf16"),
    "allow_tf32": older,
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
}


@pytest.fixture
def restored():
    yield
    allow_tf32(False)


@pytest.mark.parametrize("name", FACTORIES)
def test_what_a_factory_sets_does_not_change_the_precision_that_is_asked_for(name, monkeypatch, restored):
    def switching():
        FACTORIES[name]()
        return factories.small()

    monkeypatch.setattr(factories, "switching", switching, raising=False)
    load_network("tests.factories:switching")
    on_cuda, on_cpu, older, matmul = exact = switches()
    assert not {"tf32", "bf16"} & {*on_cuda, *on_cpu}
    assert (older, matmul) == ((False, False), "highest")
    with network_arithmetic("tf32", CPU):
        on_cuda, on_cpu, older, _ = switches()
        assert set(on_cuda) == {"tf32"} and older == (True, True)
        assert not {"tf32", "bf16"} & {*on_cpu}
        FACTORIES[name]()  # in the middle of a pass
    assert switches() == exact


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("fp32", "cpu", torch.channels_last),
        ("bf16", "cpu", torch.channels_last),
        ("fp32", "cuda:1", torch.contiguous_format),
        ("tf32", "cuda", torch.channels_last),
        ("bf16", "cuda", torch.channels_last),
    ],
)
def test_the_layout_is_the_one_with_fast_kernels(precision, device, expected):
    assert fastest_memory_format(precision, torch.device(device)) == expected


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_images_and_kernels_have_the_same_layout(memory_format, monkeypatch, tmp_path):
    monkeypatch.setattr(opened_network, "fastest_memory_format", lambda *_: memory_format)
    network = factories.with_kernel()
    OpenedNetwork(network, find_layer(network, "last_conv", 24), "fp32").to(CPU)
    write_image(tmp_path / "a" / "0.png", 0, 0)
    source = ImageSource(list_images(tmp_path), Transform(24, 24), 1, Loading(CPU, memory_format=memory_format))
    (batch,) = source.in_order([0], None)
    for tensor in (network.last.weight, batch.pixels):
        assert tensor.is_contiguous(memory_format=memory_format)
        assert tensor.is_contiguous() == (memory_format == torch.contiguous_format)


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not Path("/proc/self/statm").is_file() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc on Linux"
)
def test_gaps_between_blocks_that_are_kept_go_back_to_the_system():
    blocks = [b"1" * 100_000 for _ in range(1000)]
    kept = blocks[::20]
    blocks.clear()
    before = resident()
    return_freed_memory()
    assert before - resident() > 50_000_000 and len(kept) == 50


@pytest.mark.parametrize(("platform", "library"), [("linux", object()), ("win32", None)])
def test_another_c_library_is_left_alone(monkeypatch, platform, library):
    def load(_):
        assert library is not None, "not asked for elsewhere"
        return library

    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", load)
    return_freed_memory()
