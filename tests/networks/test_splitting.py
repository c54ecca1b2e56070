"""The wrapper around a layer with split channels: values, hooks, and everything one does with a module."""

import copy
import io
import shutil
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from tests import factories
from tests.splits import fitted_split, frozen_conv, frozen_linear, random_split, ulps, wrapped
from utils.errors import UserError
from utils.method.disentangling import merge
from utils.networks.layers import layer_of
from utils.networks.precision import full_precision
from utils.networks.recording import Recorder
from utils.networks.splitting import DisentangledLayer, in_place_of, stored_together, with_splits

NARROW = ("half", "bfloat16", "autocast")


def converted(how, *things):
    """Copies of modules and tensors in the type that ``how`` names; autocast converts nothing."""
    types = {"half": torch.float16, "bfloat16": torch.bfloat16, "fp64": torch.float64}
    return [copy.deepcopy(thing).to(types.get(how, torch.float32)) for thing in things]


@pytest.mark.parametrize("kernel", [1, 3, None])
@pytest.mark.parametrize("num_concepts", [2, 8])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("how", ["fp32", "fp64", *NARROW])
@pytest.mark.parametrize("make", [random_split, fitted_split])
def test_the_merged_channel_is_rounded_once(make, how, bias, num_concepts, kernel):
    if kernel is None:
        module, x = frozen_linear(256, 16, bias), torch.randn(2, 7, 7, 256).relu()
    else:
        module, x = frozen_conv(256, 16, kernel, padding=kernel // 2, bias=bias), torch.randn(2, 256, 7, 7).relu()
    changed = wrapped(module, make(module, 3, num_concepts), random_split(module, 9, 2, seed=1))
    module, changed, x = converted(how, module, changed, x)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        expected, found = module(x), changed(x)
    assert found.dtype == expected.dtype
    assert found.is_contiguous() == expected.is_contiguous()
    others = torch.tensor([channel for channel in range(16) if channel not in (3, 9)])
    dim = changed.channel_dim
    assert torch.equal(found.index_select(dim, others), expected.index_select(dim, others))
    assert ulps(found, expected).max() <= 1


@pytest.mark.parametrize("make", [random_split, fitted_split])
@pytest.mark.parametrize("how", ["fp32", "fp64", *NARROW])
def test_the_weights_of_the_parts_are_what_counts_and_nothing_reads_the_original_row(how, make):
    """A row that is set to zero takes what it gave, a gradient reaches the rows, and the original row is nobody's."""
    module, x = frozen_conv(8, 12, 1), torch.randn(2, 8, 5, 5)
    changed, x = converted(how, wrapped(module, make(module, 3, 3)), x)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        before = changed(x)[:, 3].float()
        parts = []
        handle = changed.parts.register_forward_hook(lambda module, inputs, output: parts.append(output.float()))
        changed(x)
        handle.remove()
        changed.layer.weight[3].zero_()
        assert torch.equal(changed(x)[:, 3].float(), before)
        for row in range(3):
            kept = changed.parts.weight[row].clone()
            changed.parts.weight[row].zero_()
            after = before - parts[0][:, row] + (0 if module.bias is None else module.bias[3])
            torch.testing.assert_close(changed(x)[:, 3].float(), after, rtol=0.02, atol=0.02)
            changed.parts.weight[row].copy_(kept)
        changed.parts.weight.requires_grad_()
        changed(x)[:, 3].sum().backward()
    gradient = x.float().sum((0, 2, 3))
    for row in range(3):
        torch.testing.assert_close(changed.parts.weight.grad[row, :, 0, 0].float(), gradient, rtol=0.03, atol=0.3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("num_concepts", [2, 9])
def test_stored_rows_merge_to_the_rounded_weight_exactly(dtype, num_concepts):
    torch.manual_seed(0)
    weight = torch.cat([torch.randn(200), torch.tensor([0.0, 1.0, -(2.0**-20), 65000.0, 1e-7])]).double()
    shares = torch.rand(num_concepts, len(weight), dtype=torch.float64) ** 6
    rows = torch.cat([shares / shares.sum(0) * weight, torch.zeros(1, len(weight))])[None]
    stored = stored_together(rows, dtype)
    assert stored.dtype == dtype
    assert torch.equal(merge(stored.double(), 1)[0], weight.to(dtype).double())
    scale = weight.abs() * torch.finfo(dtype).eps + 1e-7
    assert ((stored.double() - rows).abs() <= num_concepts * scale).all()


@pytest.mark.parametrize("how", ["fp32", "autocast", "half"])
def test_a_hook_on_the_parts_sees_them_in_fp32_and_what_it_changes_reaches_the_output(how):
    module = frozen_conv(8, 12, 3, padding=1)
    splits = [random_split(module, 3, 3), random_split(module, 7, 2, seed=1, rho=0.3), random_split(module, 1, 3)]
    changed, x = converted(how, wrapped(module, *splits), torch.randn(2, 8, 5, 5))
    assert changed.rows_of == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]
    assert changed.channels == [3, 7, 1]
    kept = {}
    handle = changed.parts.register_forward_hook(lambda _, __, output: kept.update(parts=output))
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        output = changed(x)
        handle.remove()
        changed.parts.register_forward_hook(
            lambda _, __, parts: parts.index_fill(1, torch.tensor(changed.rows_of[1]), 0.0)
        )
        silenced = changed(x)
    assert kept["parts"].dtype == torch.float32
    for split, rows in zip(splits, changed.rows_of, strict=True):
        for row, weight in zip(rows, split.rows(), strict=True):
            expected = nn.functional.conv2d(x.float(), weight.float().view(1, 8, 3, 3), split.bias[None], padding=1)
            torch.testing.assert_close(kept["parts"][:, [row]], expected, rtol=0.02, atol=0.02)
    assert not silenced[:, 7].any()
    others = [channel for channel in range(12) if channel != 7]
    assert torch.equal(silenced[:, others], output[:, others])


def test_hooks_of_the_layer_move_to_the_wrapper_and_see_the_merged_channels():
    network, x, seen = factories.small(), torch.randn(2, 3, 16, 16), []
    last = network.last
    last.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    last.register_forward_pre_hook(lambda _, inputs, kwargs: seen.append(("before", len(inputs))), with_kwargs=True)
    last.register_forward_hook(lambda _, __, ___, output: seen.append(("with", output.shape[1])), with_kwargs=True)
    last.register_forward_hook(lambda _, __, ___: seen.append(("always", None)), always_call=True)
    last.register_full_backward_pre_hook(lambda _, gradients: seen.append(("into", gradients[0].shape[1])))
    last.register_full_backward_hook(lambda _, __, gradients: seen.append(("behind", gradients[0].shape[1])))
    expected = network(x)
    seen.clear()
    split = with_splits(network, "last", [random_split(last, 4)])
    torch.testing.assert_close(split(x.requires_grad_()), expected)
    split(x).sum().backward()
    once = [("before", 1), ("with", 12), ("always", None)]
    assert seen == [*once, *once, ("into", 12), ("behind", 12)]
    seen.clear()
    handle = split.last.layer.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        split(x)
    assert ("always", None) in seen
    handle.remove()
    assert not split.last.layer._forward_hooks and not split.last.parts._forward_pre_hooks


def test_the_wrapper_offers_what_the_layer_offered():
    module = frozen_conv(8, 12, 3, stride=2, padding=1)
    changed = wrapped(module, random_split(module, 3))
    for name in (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ):
        assert getattr(changed, name) == getattr(module, name), name
    assert changed.weight is module.weight and changed.bias is module.bias
    with pytest.raises(AttributeError, match="nonsense"):
        changed.nonsense  # noqa: B018
    assert torch.equal(changed(input=torch.ones(1, 8, 5, 5)), changed(torch.ones(1, 8, 5, 5)))


class CopiesItself(nn.Conv2d):
    def __deepcopy__(self, memo):
        other = CopiesItself(self.in_channels, self.out_channels, self.kernel_size)
        other.load_state_dict(self.state_dict())
        return other


def test_a_layer_that_copies_itself_does_not_take_the_wrappers_place():
    module = CopiesItself(4, 6, 1).requires_grad_(False)
    assert isinstance(copy.deepcopy(wrapped(module, random_split(module, 3))), DisentangledLayer)


class Shared(nn.Module):
    """Its layer hangs under three names, two of them in one container, which itself has two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
        self.again, self.alone = self.first, self.first[0]
        self.classifier = nn.Linear(6, 2)

    def forward(self, x):
        return self.classifier(self.again[1](self.alone(x)).mean((2, 3)))


def test_a_layer_is_replaced_under_all_its_names():
    network = Shared().eval().requires_grad_(False)
    split = with_splits(network, "first.0", [random_split(network.alone, 2)])
    assert split.first[0] is split.again[0] is split.alone
    assert isinstance(split.alone, DisentangledLayer)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(split(x), network(x))
    layer, original = layer_of("alone", network.alone), network.alone
    with in_place_of(network, layer, wrapped(network.alone, random_split(network.alone, 2))) as changed:
        assert network.first[0] is network.alone is changed
    assert network.first[0] is network.again[0] is network.alone is original


def test_a_layer_that_is_called_where_no_name_leads_is_one_line():
    network = factories.small()
    kept = [network.last]
    network.forward = lambda x: network.classifier(network.head(kept[0](network.stem(x))).flatten(1))
    layer = layer_of("last", network.last)
    changed = wrapped(network.last, random_split(network.last, 2))
    recorder = Recorder(network, replace(layer, module=changed))
    with in_place_of(network, layer, changed), recorder, pytest.raises(UserError, match="not call layer last by its"):
        recorder.forward(torch.zeros(1, 3, 16, 16))


@pytest.fixture(scope="module")
def resnet():
    """A network, its split copy, and images."""
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10).eval().requires_grad_(False)
    module = network.layer4[1].conv2
    splits = [random_split(module, 3), random_split(module, 7, 3, seed=1), random_split(module, 9, seed=2)]
    return network, with_splits(network, "layer4.1.conv2", splits), torch.randn(2, 3, 64, 64)


def test_torch_fx_takes_the_wrapper_for_one_operation_also_under_autocast(resnet):
    network, split, x = resnet
    with torch.autocast("cpu", torch.bfloat16):
        traced, expected = torch.fx.symbolic_trace(split), split(x)
        torch.testing.assert_close(traced(x), expected)
    torch.testing.assert_close(traced(x), network(x))
    names = [node.target for node in traced.graph.nodes if str(node.target).startswith("layer4.1.conv2")]
    assert names == ["layer4.1.conv2"]
    features = create_feature_extractor(split, ["layer4.1.conv2"])(x)["layer4.1.conv2"]
    expected = create_feature_extractor(network, ["layer4.1.conv2"])(x)["layer4.1.conv2"]
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_a_split_network_is_copied_pickled_and_exported(resnet):
    network, split, x = resnet
    expected, buffer = network(x), io.BytesIO()
    torch.save(split, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (copy.deepcopy(split), loaded, torch.export.export(split, (x,)).module()):
        torch.testing.assert_close(other(x), expected)
    state = split.state_dict()
    assert [name for name in state if "layer4.1.conv2" in name] == [
        "layer4.1.conv2.layer.weight",
        "layer4.1.conv2.parts.weight",
    ]
    torch.manual_seed(1)
    other = torchvision.models.resnet18(num_classes=10).eval()
    splits = [random_split(other.layer4[1].conv2, channel, k) for channel, k in ((3, 2), (7, 3), (9, 2))]
    fresh = with_splits(other, "layer4.1.conv2", splits)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(x), expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_wrapper_merges_as_exactly(backend, autocast):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("needs a C++ compiler")
    module = frozen_conv(256, 16, 1)
    changed, x = wrapped(module, random_split(module, 3, 8), random_split(module, 5)), torch.randn(2, 256, 7, 7).relu()
    torch.compiler.reset()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        found = torch.compile(changed, fullgraph=True, backend=backend)(x)
        assert ulps(found, module(x)).max() <= 1


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_those_of_the_original(autocast):
    module = frozen_conv(64, 16, 3)
    changed, gradients = wrapped(module, random_split(module, 3)), []
    for one in (module, changed):
        torch.manual_seed(1)
        x = torch.randn(2, 64, 7, 7, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            one(x)[:, 3].square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], **(dict(rtol=0.02, atol=0.05) if autocast else {}))


def test_full_precision_is_without_tf32_and_leaves_both_pairs_of_switches_as_they_were():
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul

    def switches():
        return torch.backends.cudnn.allow_tf32, matmul.allow_tf32, conv.fp32_precision, matmul.fp32_precision

    before = torch.backends.cudnn.allow_tf32, matmul.allow_tf32
    try:
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = matmul.allow_tf32 = allowed
            outside = switches()
            with full_precision(torch.device("cuda")):
                assert "tf32" not in (conv.fp32_precision, matmul.fp32_precision)
                assert not torch.is_autocast_enabled("cuda")
            assert switches() == outside
            assert (outside[2] == "tf32") == allowed
    finally:
        torch.backends.cudnn.allow_tf32, matmul.allow_tf32 = before


def test_wrong_rhos_and_channels_are_refused():
    module = frozen_conv(8, 12, 1)
    layer, splits = layer_of("last", module), [random_split(module, 2), random_split(module, 3)]
    for rhos, message in (
        ([0.5], "1 rhos were given for 2 splits"),
        ([0.5] * 3, "3 rhos"),
        ([0.5, 0.51], "rho 0.51 is"),
    ):
        with pytest.raises(ValueError, match=message):
            DisentangledLayer(layer, splits, rhos)
    with pytest.raises(ValueError, match=r"only once, these are \[2, 2\] of last"):
        DisentangledLayer(layer, [splits[0], splits[0]])
