"""Edited networks, against the split network with parts held or scaled, and against what the weights alone compute."""

import copy

import pytest
import torch
from torch import nn

from tests import factories
from tests.layers import IMAGE_SIZE, LAYERS, by_position, images, maps_of
from tests.plugins.softmax import Softmax, softmax_shares
from tests.splits import fitted_split, random_split
from utils.errors import UserError
from utils.networks.ablation import ablated, held
from utils.networks.edits import ChannelEdit, loading_lines, with_edits
from utils.networks.layers import layer_of
from utils.networks.reads import batch_norm_after
from utils.networks.splitting import with_splits


def softmax_split(module, channel, num_concepts=2, seed=0):
    """A split by the division that is a plug-in of the tests."""
    split = random_split(module, channel, num_concepts, seed)
    split.division = Softmax(softmax_shares(split.arvs, 3.0), 3.0)
    return split


STRENGTHS = ((0.0, "mean"), (0.25, "zero"), (1.5, -0.7))


def edit(network, *edits, factor=0.0, to="mean", size=24):
    return with_edits(network, edits, factor=factor, to=to, image_size=size)


def output_of(network, name, pixels):
    """The output of a layer, and the logits."""
    kept = []
    handle = network.get_submodule(name).register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = network(pixels)
    handle.remove()
    return kept[0].clone(), logits


def scaled(network, name, edits, factor, to):
    """The split network whose parts are scaled by a hook, one after the other; constants beside them."""
    module = network.get_submodule(name)

    def scale(_, inputs, output):
        dim, output = module.channel_dim, output.clone()
        for number, change in enumerate(edits):
            rows, means = module.rows_of[number], change.split.exclusive_means(change.rho)
            residual = output.select(dim, rows[-1])
            for k in change.concepts:
                constant = {"mean": float(means[k]), "zero": 0.0}.get(to, to)
                row = output.select(dim, rows[k])
                row.copy_(residual + factor * (row - residual) + (1 - factor) * constant)
        return output

    module.parts.register_forward_hook(scale)
    return network


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_outputs_are_those_of_the_split_network_with_its_parts_scaled(case):
    """Splits of three divisions in one layer, one concept or several of each, a background among them."""
    network = case.make().double()
    module, (pixels, _) = network.get_submodule(case.layer), images()
    made = ((random_split, 1, 3, (0, 2)), (fitted_split, 4, 2, (1,)), (softmax_split, 0, 3, (0, 1)))
    splits = [make(module, channel, count, seed=channel) for make, channel, count, _ in made]
    edits = [ChannelEdit(case.layer, split, split.rho, made[n][3]) for n, split in enumerate(splits)]
    for factor, to in STRENGTHS:
        edited = edit(network, *edits, factor=factor, to=to, size=IMAGE_SIZE)
        split = scaled(with_splits(network, case.layer, splits), case.layer, edits, factor, to)
        found, logits = output_of(edited, case.layer, pixels.double())
        expected, expected_logits = output_of(split, case.layer, pixels.double())
        shift = constants_elsewhere(edited, network, case)
        spread = expected.max() - expected.min()
        assert (found + shift - expected).abs().max() <= 1e-12 * spread
        assert (logits - expected_logits).abs().max() <= 1e-12 * (expected_logits.max() - expected_logits.min())
        assert (edited.get_submodule(case.layer).weight != module.weight).any()


def constants_elsewhere(edited, network, case):
    """What a BatchNorm behind the layer adds to its channels in the edited network, shaped as the output."""
    names = edited.concept_edits["running_means"].values()
    (mean,) = [network.get_buffer(name) - edited.get_buffer(name) for name in names] or [torch.zeros(6)]
    return mean[:, None, None] if case.channel_dim == 1 else mean


@pytest.mark.parametrize("case", LAYERS[:12:3], ids=lambda case: case.name)
def test_a_row_computes_what_the_equation_says(case):
    """From what each tap of the kernel sees: all but the parts, which are scaled; borders included."""
    network = case.make()
    module, (pixels, _) = network.get_submodule(case.layer), images()
    split = fitted_split(module, 2, 3)
    chosen = ChannelEdit(case.layer, split, None, (0, 1))
    edited = edit(network, chosen, factor=0.25, size=IMAGE_SIZE)
    kept = []
    network.get_submodule(case.layer).register_forward_hook(lambda _, inputs, output: kept.append((inputs[0], output)))
    network(pixels)
    (x, whole), shares = kept[0], split.shares()
    expected = by_position(case, whole.double())[:, 2]
    for k in (0, 1):
        part = maps_of(case, x, (shares[k, :, None] * case.weight_of(module)[2])[None], None)[:, 0]
        mean = (shares[k] * split.mean_arv).sum() / split.positions
        expected = expected - 0.75 * (part - mean)
    found, _ = output_of(edited, case.layer, pixels)
    found = by_position(case, found.double() + constants_elsewhere(edited, network, case))[:, 2]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_weights_are_rounded_once_and_nothing_else_changes():
    network = factories.make(8, 12, 3, padding=1, bias=True)
    before = copy.deepcopy(network.state_dict())
    split = fitted_split(network.last, 5, 3)
    edited = edit(network, ChannelEdit("last", split, None, (1, 2)), factor=0.3, to=0.7)
    left = 1 - 0.7 * split.shares()[1:3].sum(0)
    row = (split.weight.double() * left[:, None]).float().view(8, 3, 3)
    assert torch.equal(edited.last.weight[5], row)
    assert torch.equal(edited.last.bias[5], (before["last.bias"][5].double() + 0.7 * (0.7 + 0.7)).float())
    others = torch.arange(12) != 5
    for name, value in edited.state_dict().items():
        kept = others if name.startswith("last") else slice(None)
        assert torch.equal(value[kept] if value.ndim else value, before[name][kept] if value.ndim else before[name])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_held_parts_are_constant_at_padded_borders_too():
    """The mean over all positions is held everywhere, although the part is smaller where the kernel sees padding."""
    network = factories.make(8, 12, 3, padding=1, bias=True).double()
    split = fitted_split(network.last, 5, 2)
    pixels = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    edited = edit(network, ChannelEdit("last", split, None, (0,)))
    changed = with_splits(network, "last", [split])
    parts = []
    changed.last.parts.register_forward_hook(lambda module, inputs, output: parts.append(output))
    with held(changed.last, 0, {0: changed.last.means_of[0][0]}):
        expected, _ = output_of(changed, "last", pixels)
    found, _ = output_of(edited, "last", pixels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    whole, _ = output_of(network, "last", pixels)
    taken = (whole - found)[:, 5]  # the part, minus its mean: corners and edges are those of fewer taps
    weight = split.weight.view(8, 3, 3) * split.shares()[0][:, None, None]
    x = torch.nn.functional.pad(network.stem(pixels), (1, 1, 1, 1))
    for row, column in ((0, 0), (0, 5), (7, 11), (11, 11)):
        part = (x[:, :, row : row + 3, column : column + 3] * weight).sum((1, 2, 3))
        torch.testing.assert_close(taken[:, row, column], part - split.exclusive_means()[0], rtol=0, atol=1e-12)


def test_a_part_that_is_held_by_name_is_the_edit():
    """Channels of two layers at once; `ablated` for the concept, `edit` for the same concept and factor 0."""
    network = factories.make(8, 12, 3, padding=1).double()
    splits = {"last": fitted_split(network.last, 2, 3), "stem.0": random_split(network.stem[0], 2)}
    edits = [ChannelEdit(name, split, split.rho, (1,)) for name, split in splits.items()]
    changed = with_splits(network, list(splits), list(splits.values()))
    pixels = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    with ablated(changed, 2, 2, layer="last"), ablated(changed, 2, "concept 1", layer="stem.0"):
        expected = changed(pixels)
    torch.testing.assert_close(edit(network, *edits)(pixels), expected, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------------------------------
# Where the constant goes


class Normalised(nn.Module):
    """A convolution without bias, and ``tail``, a function of a module's output and a BatchNorm."""

    def __init__(self, tail, norm=None, layer=None):
        super().__init__()
        self.stem, self.last = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh()), layer or nn.Conv2d(8, 6, 1, bias=False)
        self.norm, self.tail, self.classifier = norm or nn.BatchNorm2d(6), tail, nn.Linear(6, 4)

    def forward(self, x):
        x = self.tail(self.last(self.vector(self.stem(x))), self.norm)
        return self.classifier(x.flatten(2).mean(2) if x.ndim > 2 else x)

    def vector(self, x):
        return x.mean((2, 3)) if isinstance(self.norm, nn.BatchNorm1d) else x


class NormAndAct(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu_()


class AddsItsInput(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + x


class Always(nn.BatchNorm2d):
    """In training mode whatever the network's mode is."""

    training = property(lambda self: True, lambda self, value: None)


def normalised(*args, **kwargs):
    torch.manual_seed(0)
    network = Normalised(*args, **kwargs).eval().requires_grad_(False)
    if getattr(network.norm, "running_mean", None) is not None:
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 2)
    return network


def straight(x, norm):
    return norm(x)


DIRECT = {
    "affine": (straight, None),
    "not affine": (straight, nn.BatchNorm2d(6, affine=False)),
    "with its activation": (straight, NormAndAct(6)),
    "a vector": (straight, nn.BatchNorm1d(6), nn.Linear(8, 6, bias=False)),
    "before an in-place operation": (lambda x, norm: norm(x).relu_(), None),
}
NOT_ALONE = {
    "a shortcut before it": (lambda x, norm: norm(x) + x, None),
    "a shortcut read first": (lambda x, norm: x.relu() + norm(x), None),
    "its own input": (straight, AddsItsInput(6)),
    "a view": (lambda x, norm: norm(x.view(x.shape)), None),
    "an activation": (lambda x, norm: norm(x.relu_()), None),
    "twice": (lambda x, norm: norm(norm(x)), None),
    "read twice": (lambda x, norm: norm(x) + norm(x), None),
    "no statistics": (straight, nn.BatchNorm2d(6, track_running_stats=False)),
    "another normalisation": (straight, nn.GroupNorm(2, 6)),
    "of another function": (lambda x, norm: nn.functional.batch_norm(x, torch.zeros(6), torch.ones(6)), None),
}


def edited_pair(network):
    split = fitted_split(network.last, 3, 2)
    split.mean_arv += 1  # a constant that is worth something
    return edit(network, ChannelEdit("last", split, None, (0,))), with_splits(network, "last", [split])


def is_the_split_network_with_its_part_held(edited, split):
    pixels = torch.randn(3, 3, 24, 24)
    with ablated(split, 3, 1):
        torch.testing.assert_close(edited(pixels), split(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", DIRECT.values(), ids=DIRECT)
def test_keys_stay_the_same_where_a_batch_norm_alone_follows(arguments):
    network = normalised(*arguments)
    edited, split = edited_pair(network)
    assert edited.concept_edits["running_means"] == {"last": "norm.running_mean"}
    assert edited.concept_edits["new_biases"] == {}
    is_the_split_network_with_its_part_held(edited, split)
    plain = copy.deepcopy(network)
    plain.load_state_dict(edited.state_dict(), strict=True)
    pixels = torch.randn(3, 3, 24, 24)
    assert torch.equal(plain(pixels), edited(pixels))
    shift = network.norm.running_mean - edited.norm.running_mean
    assert shift[3] != 0 and not shift[torch.arange(6) != 3].any()


@pytest.mark.parametrize("arguments", NOT_ALONE.values(), ids=NOT_ALONE)
def test_a_layer_gets_a_bias_where_something_else_reads_its_output(arguments):
    network = normalised(*arguments)
    edited, split = edited_pair(network)
    assert edited.concept_edits["new_biases"] == {"last": 6}
    is_the_split_network_with_its_part_held(edited, split)
    assert set(edited.state_dict()) == {*network.state_dict(), "last.bias"}
    plain = copy.deepcopy(network)
    plain.last.bias = nn.Parameter(torch.zeros(6))
    plain.load_state_dict(edited.state_dict(), strict=True)


def test_a_batch_norm_in_training_mode_takes_no_constant():
    network = normalised(straight, Always(6))
    assert batch_norm_after(network, layer_of("last", network.last), 24) is None
    network = normalised(straight)
    network.train()
    network.norm.eval()
    assert batch_norm_after(network, layer_of("last", network.last), 24) == "norm"  # as in evaluation mode
    assert network.training and network.last.training and not network.norm.training


def test_a_hook_that_changes_the_layers_output_keeps_the_constant_before_it():
    network = normalised(straight)
    network.last.register_forward_hook(lambda _, __, output: 2 * output)
    edited, split = edited_pair(network)
    assert edited.concept_edits["new_biases"] == {"last": 6}
    is_the_split_network_with_its_part_held(edited, split)


def test_no_constant_needs_no_place():
    network = normalised(lambda x, norm: norm(x) + x)
    split = fitted_split(network.last, 3, 2)
    for options in ({"to": "zero"}, {"to": 0.0}, {"factor": 1.0}):
        edited = edit(network, ChannelEdit("last", split, None, (0,)), **options)
        assert set(edited.state_dict()) == set(network.state_dict())
    assert torch.equal(edited.last.weight, network.last.weight)  # factor 1


# --------------------------------------------------------------------------------------------------------------------
# Mistakes


def test_weights_that_two_modules_share_are_refused():
    network = normalised(straight)
    network.twin = nn.Conv2d(8, 6, 1, bias=False)
    network.twin.weight = network.last.weight
    with pytest.raises(UserError, match=r"layer last shares its weights with twin\.weight: an edit would change both"):
        edited_pair(network)


def test_mistakes_are_said():
    network = factories.make(8, 12, 1)
    chosen = ChannelEdit("last", random_split(network.last, 3), 0.9, (0,))
    for edits, options, message in (
        ((chosen, chosen), {}, "a channel can be edited only once"),
        ((chosen,), {"factor": float("nan")}, "factor=nan is not a finite number"),
        ((chosen,), {"factor": float("inf")}, "factor=inf is not a finite number"),
        ((chosen,), {"to": "median"}, "to='median' is not 'mean', 'zero' or a number"),
        ((chosen,), {"to": float("nan")}, "to=nan is not a finite number"),
        ((chosen,), {"to": -float("inf")}, "to=-inf is not a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            edit(network, *edits, **options)
    needs_bias = normalised(straight)
    chosen = ChannelEdit("last", fitted_split(needs_bias.last, 3), None, (0,))
    with pytest.raises(UserError, match="the network cannot take images of 1x1 pixels: RuntimeError"):
        edit(needs_bias, chosen, size=1)
    with pytest.raises(UserError, match="is depthwise"):
        needs_bias.last.groups, needs_bias.last.in_channels = 8, 8
        edit(needs_bias, chosen)


def test_a_state_dict_taken_inside_an_ablation_is_warned_of():
    network = factories.make(8, 12, 1)
    changed = with_splits(network, "last", [random_split(network.last, 3)])
    with ablated(changed, 3, 1), pytest.warns(UserWarning, match="does not hold the ablation.*edited_network"):
        nn.Sequential(changed).state_dict()
    changed.state_dict()  # warnings are errors


def test_the_lines_that_load_an_edited_state_dict_run(tmp_path):
    network = normalised(lambda x, norm: norm(x) + x)
    edited, _ = edited_pair(network)
    path = str(tmp_path / "edited.pth")
    torch.save(edited.state_dict(), path)
    names = {"make": lambda: copy.deepcopy(network)}
    lines = loading_lines(["network = make()"], edited.concept_edits, path)
    exec("\n".join(lines), names)
    pixels = torch.randn(3, 3, 24, 24)
    assert torch.equal(names["network"](pixels), edited(pixels))
