"""Every formula on layers of each kind and shape, against slow twins that know nothing of the normal form.

The twins are loops and plain autograd through the whole network, in float64.
"""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch

from tests.layers import IMAGE_SIZE, LAYERS, NOWHERE, by_position, images, maps_of, passed_through
from tests.oracles import objective_loop
from utils.divisions.arv import OBJECTIVES, Arv
from utils.method.disentangling import Concept, Split, merge, spatial_sums, split_sources
from utils.method.evaluation import fractions_of_original
from utils.method.importance import (
    attribution_shares,
    channel_importances,
    relative_importances,
    relevant_classes,
    relevant_in_images,
)
from utils.method.patches import peaks
from utils.method.polysemanticity import averaged_relevance_vectors
from utils.method.rho import RHOS, RhoSearch, objective_terms
from utils.networks.ablation import held
from utils.networks.layers import check_normal_form, find_layer
from utils.networks.recording import Recorder
from utils.networks.splitting import DisentangledLayer, in_place_of, with_splits

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CHANNEL, RHO = 4, 0.6


@pytest.fixture(params=LAYERS, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture
def opened(case):
    """The case's network and layer, and what a pass over its images leaves of the layer."""
    network = case.make()
    layer = find_layer(network, case.layer, IMAGE_SIZE)
    pixels, targets = images()
    with Recorder(network, layer) as recorder:
        record = recorder.forward_with_gradient(pixels, targets)
    return SimpleNamespace(network=network, layer=layer, images=pixels, targets=targets, record=record)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), **CLOSE)


def random_rows(layer, count, seed=3):
    """Rows and biases of as many channels, biases where the layer has them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, *layer.weight.shape[1:], generator=generator)
    return rows, None if layer.bias is None else torch.randn(count, generator=generator)


ARVS = torch.tensor([[4.0, 1.0, 1.0, 2.0, -3.0], [1.0, 4.0, 1.5, 2.2, -4.0], [0.5, 1.0, 3.0, 1.8, -5.0]])


def make_split(layer, num_concepts, channel=CHANNEL):
    """A split in which every concept has an input, and some are shared."""
    arvs = ARVS[:num_concepts, : layer.num_inputs]
    owners = torch.stack([split_sources(arvs, rho) for rho in RHOS])
    return Split(
        channel=channel,
        concepts=[Concept(f"concept {k}", [k]) for k in range(num_concepts)],
        weight=layer.weight[channel],
        bias=None if layer.bias is None else layer.bias[channel],
        positions=layer.num_positions,
        arvs=arvs,
        mean_arv=arvs.mean(0),
        division=Arv(owners, torch.zeros(20, 3), "positive", RHO, num_concepts),
    )


def owners_loop(arvs, rho):
    """Ineq. 5, input by input: 0 shared, k concept k."""
    found = []
    for own in arvs.T.tolist():
        wins = [all(rho * a > b for j, b in enumerate(own) if j != k) for k, a in enumerate(own)]
        found.append(wins.index(True) + 1 if any(wins) else 0)
    return found


def rows_loop(weight, owners, num_concepts):
    """The weights of ``c'_1 .. c'_K`` and the residual, input by input."""
    rows = torch.zeros(num_concepts + 1, *weight.shape)
    for row, concept in enumerate([*range(1, num_concepts + 1), 0]):
        for i, owner in enumerate(owners):
            if owner in (0, concept):
                rows[row, i] = weight[i]
    return rows


def test_the_layer_is_found_and_described(case, opened):
    layer, module = opened.layer, opened.network.get_submodule(case.layer)
    assert type(layer) is case.kind
    assert (layer.module, layer.name, layer.note, layer.refusal()) == (module, case.layer, None, None)
    assert (layer.map_size, layer.num_outputs, layer.channel_dim) == (case.map_size, 4, case.channel_dim)
    weight = case.weight_of(module)
    assert torch.equal(layer.weight, weight)
    assert (layer.num_channels, layer.num_inputs, layer.num_taps) == tuple(weight.shape)
    assert layer.bias is None if module.bias is None else torch.equal(layer.bias, module.bias)


def test_a_record_is_what_autograd_through_the_network_gives(case, opened):
    layer_input, activation, gradient, logits = passed_through(case, opened.network, opened.images, opened.targets)
    close(opened.record.input, layer_input)
    close(opened.record.activation, by_position(case, activation))
    close(opened.record.gradient, by_position(case, gradient))
    close(opened.record.logits, logits)
    assert gradient.abs().max() > 1e-3
    assert not opened.layer.module._forward_hooks


def test_importances_eq_1(case, opened):
    _, activation, gradient, _ = passed_through(case, opened.network, opened.images, opened.targets)
    expected = torch.zeros(len(opened.images), opened.layer.num_channels)
    for position in range(case.num_positions):
        expected += case.output_at(activation, position) * case.output_at(gradient, position)
    close(channel_importances(opened.record.activation, opened.record.gradient), expected)


def test_attribution_shares_drop_what_is_negative_before_the_sum(case, opened):
    _, activation, gradient, _ = passed_through(case, opened.network, opened.images, opened.targets)
    positive = torch.zeros(len(opened.images), opened.layer.num_channels)
    for position in range(case.num_positions):
        positive += (case.output_at(activation, position) * case.output_at(gradient, position)).clamp(min=0)
    close(attribution_shares(opened.record.activation, opened.record.gradient), positive / positive.sum(1)[:, None])


def test_relevance_ineq_2(case, opened):
    _, activation, gradient, _ = passed_through(case, opened.network, opened.images, opened.targets)
    importances = (by_position(case, activation) * by_position(case, gradient)).sum(-1).tolist()
    record, tau, p = opened.record, 0.26, 0.5  # no share is nearer to tau than float16 can tell
    relative, positive_sums = relative_importances(channel_importances(record.activation, record.gradient))
    found = relevant_in_images(relative, positive_sums, tau)
    counts, numbers = torch.zeros(4, opened.layer.num_channels, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    for image, target in enumerate(opened.targets.tolist()):
        numbers[target] += 1
        total = sum(max(value, 0) for value in importances[image])
        for channel, value in enumerate(importances[image]):
            relevant = value >= tau * total
            assert found[image, channel] == relevant, (image, channel, value / total)
            counts[target, channel] += relevant
    assert 0 < counts.sum() < found.numel()
    of_classes = relevant_classes(counts, numbers, p)
    for target, channel in itertools.product(range(4), range(opened.layer.num_channels)):
        enough = bool(numbers[target]) and counts[target, channel].item() / numbers[target].item() >= p
        assert of_classes[target, channel] == enough


def test_tap_sums_are_sums_of_what_each_tap_sees(case, opened):
    windows = case.windows(opened.record.input)
    expected = torch.zeros(windows.shape[:3], dtype=torch.float64)
    for position in range(case.num_positions):
        expected += windows[..., position]
    found = opened.layer.tap_sums(opened.record.input)
    assert found.dtype == torch.float32
    close(found, expected)
    close(opened.layer.tap_sums(opened.record.input.bfloat16()), case.windows(opened.record.input.bfloat16()).sum(-1))


def test_spatial_sums_are_linear_in_the_tap_sums(case, opened):
    layer, positions = opened.layer, case.num_positions
    output = copy.deepcopy(layer.module).double()(opened.record.input.double())
    tap_sums = layer.tap_sums(opened.record.input).double()
    expected = by_position(case, output).sum(-1)
    close(spatial_sums(layer.weight.double(), layer.bias, tap_sums, positions), expected)
    check_normal_form(layer, opened.record)


def test_averaged_relevance_vectors_are_input_times_gradient_of_the_spatial_sum(case, opened):
    """At the layer's input, for the images of one class, one at a time."""
    layer_input, *_ = passed_through(case, opened.network, opened.images, opened.targets)
    module, of_class = copy.deepcopy(opened.layer.module).double(), opened.targets == 2
    expected = torch.zeros(opened.layer.num_channels, opened.layer.num_inputs, dtype=torch.float64)
    for x in case.of_images(layer_input, of_class).split(case.rows_per_image):
        x = x.clone().requires_grad_()
        for channel in range(opened.layer.num_channels):
            (gradient,) = torch.autograd.grad(by_position(case, module(x))[0, channel].sum(), x)
            product = (x * gradient).detach().movedim(case.channel_dim, 0)
            expected[channel] += product.flatten(1).sum(1) / int(of_class.sum())
    means = opened.layer.tap_sums(case.of_images(opened.record.input, of_class)).double().mean(0, keepdim=True)
    for channel in range(opened.layer.num_channels):
        close(averaged_relevance_vectors(opened.layer.weight[channel], means)[0], expected[channel])


def test_an_output_position_by_position(case, opened):
    output = opened.layer.module(opened.record.input)
    assert torch.equal(opened.layer.by_position(output), by_position(case, output))


@pytest.mark.parametrize("count", [1, 6, 9])
def test_rows_make_maps_of_the_layers_input(case, opened, count):
    layer, before = opened.layer, copy.deepcopy(opened.layer.module.state_dict())
    rows, biases = random_rows(layer, count)
    layer.module.register_forward_hook(lambda _, __, output: output * 0)  # hooks are of the layer's own channels
    expected = maps_of(case, opened.record.input, rows, biases)
    close(layer.maps(rows, biases)(opened.record.input), expected)
    module = layer.with_rows(rows, biases)
    assert type(module) is type(layer.module)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    close(by_position(case, module(opened.record.input)), expected)
    close(layer.maps(rows, None)(opened.record.input), maps_of(case, opened.record.input, rows, None))
    assert all(torch.equal(value, before[name]) for name, value in layer.module.state_dict().items())


def test_the_layers_own_rows_make_its_own_maps(case, opened):
    layer = opened.layer
    close(layer.maps(layer.weight, layer.bias)(opened.record.input), opened.record.activation)
    close(maps_of(case, opened.record.input, layer.weight, layer.bias), opened.record.activation)


def test_places_are_those_found_by_hand(case, opened):
    assert opened.layer.num_positions == case.num_positions == opened.record.activation.shape[2]
    found = opened.layer.places()
    if case.places is None:
        assert found is None
    else:
        assert found.tolist() == [pytest.approx(place, nan_ok=True) for place in case.places]


@pytest.mark.parametrize("num_concepts", [2, 3])
def test_rows_of_a_split(case, opened, num_concepts):
    split = make_split(opened.layer, num_concepts)
    weight = case.weight_of(opened.layer.module)[CHANNEL]
    for rho in RHOS:
        owners = owners_loop(split.arvs, rho)
        expected = rows_loop(weight, owners, num_concepts)
        assert torch.equal(split.rows(rho), expected)
        assert torch.equal(split.shown_rows(rho), torch.stack([weight, *expected[:-1]]))
    assert len({tuple(owners_loop(split.arvs, rho)) for rho in RHOS}) > 2


@pytest.mark.parametrize("num_concepts", [2, 3])
def test_the_merge_is_the_original_channel(case, opened, num_concepts):
    layer, x = opened.layer, opened.record.input
    splits = [make_split(layer, num_concepts), make_split(layer, 2, channel=1)]
    expected = []
    for split, rho in zip(splits, (RHO, 0.9), strict=True):
        expected.append(maps_of(case, x, split.rows(rho), split.biases()))
        maps = layer.maps(split.rows(rho), split.biases())(x)
        close(maps, expected[-1])
        close(merge(maps, dim=1), opened.record.activation[:, split.channel])
    module = DisentangledLayer(layer, splits, rhos=[RHO, 0.9])
    close(module(x), layer.module(x))
    parts = by_position(case, module.parts(x))
    assert parts.shape[1] == num_concepts + 4
    assert module.rows_of == [[*range(num_concepts + 1)], [*range(num_concepts + 1, num_concepts + 4)]]
    for rows, maps in zip(module.rows_of, expected, strict=True):
        close(parts[:, rows], maps)
    with in_place_of(opened.network, layer, module):
        assert opened.network.get_submodule(case.layer) is module
        close(opened.network(opened.images), opened.record.logits)
    assert opened.network.get_submodule(case.layer) is layer.module


def test_what_is_a_concepts_alone_is_held_at_a_constant(case, opened):
    """Against the channel's own map with the concept's inputs left out."""
    layer, x, split = opened.layer, opened.record.input, make_split(opened.layer, 3)
    module = DisentangledLayer(layer, [split])
    rows, others = split.rows(), [channel for channel in range(layer.num_channels) if channel != CHANNEL]
    maps = maps_of(case, x, rows, split.biases())
    for constants in ({0: 0.5}, {1: -2.0, 3: 0.25}):
        with held(module, 0, constants):
            found = by_position(case, module(x))
        players = [*(one - maps[:, 3] for one in maps.unbind(1)[:3]), maps[:, 3]]
        expected = sum(one * 0 + constants[k] if k in constants else one for k, one in enumerate(players))
        close(found[:, CHANNEL], expected)
        close(found[:, others], opened.record.activation[:, others])


@pytest.mark.parametrize("num_concepts", [2, 3])
def test_the_objectives_of_every_rho_eq_6(case, opened, num_concepts):
    layer, x, split = opened.layer, opened.record.input, make_split(opened.layer, num_concepts)
    concepts = torch.arange(len(opened.images)) % num_concepts
    search = RhoSearch(split.weight, split.bias, split.arvs)
    apply = layer.maps(search.rows, search.biases)
    for part in (slice(0, 4), slice(4, 6)):
        search.add(apply(case.of_images(x, part)), concepts[part])
    for index, rho in enumerate(RHOS):
        owners = owners_loop(split.arvs, rho)
        rows = rows_loop(split.weight, owners, num_concepts)[:-1]
        biases = None if split.bias is None else split.biases()[:-1]
        maps = maps_of(case, x, rows, biases)
        terms = [objective_loop(maps[i].tolist(), concepts[i].item()) for i in range(len(concepts))]
        found = objective_terms(layer.maps(rows, biases)(x)[:, None], concepts)[:, 0]
        assert found.tolist() == [pytest.approx(values, rel=1e-3, abs=1e-5) for values in terms]
        means = [torch.tensor(terms, dtype=torch.float64)[concepts == k].mean(0) for k in range(num_concepts)]
        torch.testing.assert_close(search.objectives()[index], sum(means), rtol=1e-3, atol=1e-5)
        assert search.owners[index].tolist() == owners
    best = [RHOS[int(values.argmax())] for values in search.objectives().T]
    division = Arv(search.owners, search.objectives(), "positive", best[0], num_concepts)
    assert search.best() == best
    assert division.rhos_by_objective() == (dict(zip(OBJECTIVES, best, strict=True)), "positive")


@pytest.mark.parametrize("num_concepts", [2, 3])
def test_fractions_are_those_of_what_a_split_network_computes(case, opened, num_concepts):
    """Against a hook on the parts inside of a split network, as somebody would measure it."""
    layer, split, seen = opened.layer, make_split(opened.layer, num_concepts), {}
    network = with_splits(opened.network, case.layer, [split]).double()
    changed = network.get_submodule(case.layer)
    changed.parts.register_forward_hook(lambda _, __, output: seen.update(parts=output.clone()))
    changed.register_forward_hook(lambda _, __, output: seen.update(merged=output.clone()))
    network(opened.images.double())
    parts = by_position(case, seen["parts"])[:, changed.rows_of[0]].sum(-1)
    original = by_position(case, seen["merged"])[:, CHANNEL].sum(-1)
    close(original, opened.record.activation[:, CHANNEL].sum(-1))
    tap_sums = layer.tap_sums(opened.record.input).double()
    sums = spatial_sums(split.rows().double(), split.biases(), tap_sums, case.num_positions)
    close(sums, parts)
    found = fractions_of_original(merge(sums, dim=1), sums)
    assert found.shape == (len(opened.images), num_concepts + 1)
    for image, row in itertools.product(range(len(found)), range(num_concepts + 1)):
        expected = parts[image, row].item() / original[image].item()
        assert found[image, row] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_peaks_are_the_largest_values_and_where_they_are(case, opened):
    rows, biases = random_rows(opened.layer, 3)
    values, centres = peaks(opened.layer.maps(rows, biases)(opened.record.input), opened.layer.places())
    maps, places = maps_of(case, opened.record.input, rows, biases), case.places or [(0.5, 0.5)] * case.num_positions
    inside = [position for position in range(case.num_positions) if places[position] != NOWHERE]
    for image, row in itertools.product(range(len(maps)), range(3)):
        best = max(inside, key=lambda position: maps[image, row, position].item())
        assert values[image, row].item() == pytest.approx(maps[image, row, best].item(), rel=1e-4, abs=1e-5)
        assert centres[image, row].tolist() == pytest.approx(places[best])
