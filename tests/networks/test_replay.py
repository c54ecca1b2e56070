"""Replays: what is behind a layer, run again, equals the whole network bit for bit."""

import pytest
import torch
import torchvision
from torch import nn

from tests import factories
from tests.splits import random_split
from utils.networks.layers import layer_of
from utils.networks.replay import Replay
from utils.networks.splitting import DisentangledLayer, in_place_of

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A network whose forward pass a test writes; ``last`` is the layer."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.relu, self.inplace = nn.BatchNorm2d(8), nn.ReLU(), nn.ReLU(inplace=True)
        self.pair, self.calls, self.classifier, self.body = Pair(), Calls(), nn.Linear(8, 4), body
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.classifier(self.body(self, x).mean((2, 3)))


class Pair(nn.Module):
    """Gives several tensors, one of them twice, in a tuple and a dictionary."""

    def __init__(self):
        super().__init__()
        self.first, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x, scale=1):
        one = self.first(x) * scale
        return one, {"other": self.other(one), "same": one, "number": 2}


class Calls(nn.Module):
    def forward(self, function, x):
        return function(x)


def shortcut(net, x):
    x = net.stem(x)
    return net.norm(net.last(net.relu(net.second(x)))) + x


def shortcut_that_is_changed_in_place(net, x):
    x = net.inplace(net.stem(x))
    out = net.last(net.inplace(net.second(x)))
    out += x
    x *= 2
    return out * x


def module_called_before_and_behind(net, x):
    x = net.relu(net.second(net.relu(net.stem(x))))
    return net.second(net.relu(net.last(x)))


def functions_between(net, x):
    x = torch.relu_(net.stem(x * 2))
    return net.relu(net.last(torch.cat([x, net.second(x)], 1)[:, 4:12]))


def several_outputs(net, x):
    one, more = net.pair(net.stem(x), scale=3)
    return net.last(one + more["number"] * more["other"]) + more["same"]


def changed_by_an_inplace_module_whose_output_nobody_takes(net, x):
    x = net.stem(x)
    net.inplace(x)
    return net.last(x) + x


BODIES = [
    *(shortcut, shortcut_that_is_changed_in_place, module_called_before_and_behind, functions_between),
    *(several_outputs, changed_by_an_inplace_module_whose_output_nobody_takes),
]


def counted(*modules):
    """How often each module is called from now on: a dictionary to look into, and to clear."""
    calls = {}
    for module in modules:
        forward = module.forward
        module.forward = lambda *args, module=module, forward=forward, **more: (
            calls.update({module: calls.get(module, 0) + 1}) or forward(*args, **more)
        )
    return calls


@pytest.mark.parametrize("body", BODIES)
def test_a_replay_gives_the_networks_logits_and_calls_nothing_before_the_layer(body):
    net = Net(body)
    expected = net(IMAGES)
    calls = counted(net.stem, net.last)
    behind = Replay(net, net.last, IMAGES)
    calls.clear()
    assert all(torch.equal(behind(), expected) for _ in range(3))
    assert calls == {net.last: 3}
    assert torch.equal(net(IMAGES), expected)  # it is as it was
    assert torch.equal(net(-IMAGES[:1]), Net(body)(-IMAGES[:1]))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_a_hook_or_another_module_changes_reaches_the_logits(body, dtype):
    net, images = Net(body).to(dtype), IMAGES.to(dtype)
    behind = Replay(net, net.last, images)
    handle = net.last.register_forward_hook(lambda module, inputs, output: output * 1.5)
    assert torch.equal(behind(), net(images))
    handle.remove()
    split, layer = random_split(net.last, 3), layer_of("last", net.last)
    split.weight = split.weight * 2  # other than the original, so that it shows
    with in_place_of(net, layer, DisentangledLayer(layer, [split])):
        changed = behind()
        assert torch.equal(changed, net(images))
    assert not torch.allclose(changed, behind())


def test_a_layer_that_is_split_already_is_replayed_with_hooks_on_its_parts():
    net = Net(shortcut)
    net.last = DisentangledLayer(layer_of("last", net.last), [random_split(net.last, 3)])
    calls = counted(net.stem, net.last.parts)
    behind = Replay(net, net.last, IMAGES)
    net.last.parts.register_forward_hook(lambda module, inputs, output: output * 1.5)
    calls.clear()
    logits = behind()
    assert calls == {net.last.parts: 1}
    assert torch.equal(logits, net(IMAGES))


def test_gradients_reach_the_layer_from_the_logits():
    net = Net(shortcut)
    behind, grads = Replay(net, net.last, IMAGES), []
    for run in (behind, lambda: net(IMAGES)):
        kept = []
        hook = net.last.register_forward_hook(lambda _, inputs, output, kept=kept: kept.append(output.requires_grad_()))
        grads.append(torch.autograd.grad(run().max(), kept[0])[0])
        hook.remove()
    assert torch.equal(*grads) and grads[0].any()


def test_hooks_of_remembered_modules_run_again():
    net, seen = Net(shortcut), []
    net.stem.register_forward_hook(lambda module, inputs, output: seen.append(output) or output + 1)
    behind = Replay(net, net.last, IMAGES)
    seen.clear()
    assert torch.equal(behind(), net(IMAGES))
    assert len(seen) == 2 and torch.equal(*seen)


def test_of_a_chain_of_modules_only_the_last_output_is_kept():
    net = Net(lambda net, x: net.last(net.relu(net.second(net.inplace(net.stem(x))))))
    assert Replay(net, net.last, IMAGES).num_bytes == 3 * 8 * 14 * 14 * 4
    net.body = shortcut  # and here the shortcut as well
    assert Replay(net, net.last, IMAGES).num_bytes == 2 * 3 * 8 * 14 * 14 * 4


def reached_at_once(net, x):
    return net.last(torch.cat([x, x, x], 1)[:, :8])


def reached_by_another_name(net, x):
    return net.stem(x)


def called_by_a_module_that_it_is_no_part_of(net, x):
    return net.calls(lambda x: net.last(net.second(x)), net.stem(x))


def changed_in_place_by_a_module_after_it_was_read(net, x):
    x = net.stem(x)
    doubled = x * 2
    net.inplace(x)
    return net.last(x) + doubled


WITHOUT = [
    *(reached_at_once, reached_by_another_name, called_by_a_module_that_it_is_no_part_of),
    changed_in_place_by_a_module_after_it_was_read,
]


@pytest.mark.parametrize("body", WITHOUT)
def test_where_nothing_can_be_remembered_the_whole_network_is_run(body):
    net = Net(body)
    behind = Replay(net, net.last, IMAGES)
    calls = counted(net)
    assert torch.equal(behind(), net(IMAGES)) and calls == {net: 2}
    assert behind.num_bytes == IMAGES.nbytes


def test_a_network_with_a_forward_of_its_own_keeps_it():
    net = factories.small()
    stem = net.stem.forward
    net.stem.forward = lambda x: stem(x) + 1
    own, expected = net.stem.forward, net(IMAGES)
    assert torch.equal(Replay(net, net.last, IMAGES)(), expected)
    assert net.stem.forward is own and "forward" not in vars(net.last)


@pytest.mark.parametrize(
    "name, layer", [("resnet50", "layer4.2.conv3"), ("densenet121", "features.denseblock4.denselayer16.conv2")]
)
def test_real_networks(name, layer):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval().requires_grad_(False)
    module, images = network.get_submodule(layer), torch.randn(1, 3, 64, 64)
    first = next(one for one in network.modules() if isinstance(one, nn.Conv2d))
    behind, calls = Replay(network, module, images), counted(first)
    with torch.autocast("cpu", torch.bfloat16):
        in_bf16 = Replay(network, module, images)
        assert torch.equal(in_bf16(), network(images))
    calls.clear()
    assert torch.equal(behind(), network(images)) and calls == {first: 1}
