"""A concept taken out of a split network, against weights changed by hand."""

import copy

import pytest
import torch
from torch import nn

from tests import factories
from tests.splits import fitted_split, random_split
from utils.method.disentangling import Concept
from utils.networks.ablation import ablated, held, number_of_concept
from utils.networks.splitting import network_concepts, with_splits


def split_network(kernel=1, fitted=False):
    """A network with channels 2 and 5 of its last layer split, those splits, and the layer's original weight."""
    network = factories.make(8, 12, kernel, padding=kernel // 2, bias=True)
    make = fitted_split if fitted else random_split
    splits = [make(network.last, 2, 3), make(network.last, 5, 2, seed=1)]
    return network, with_splits(network, "last", splits), splits


def by_hand(network, split, k, value):
    """The network whose channel has everything but what is concept k's alone, and ``value`` in its place."""
    other = copy.deepcopy(network)
    shares = split.shares()
    weight = split.weight.double() * (1 - shares[k].double())[:, None]
    other.last.weight = nn.Parameter(other.last.weight.clone(), requires_grad=False)
    other.last.weight[split.channel] = weight.float().view(other.last.weight.shape[1:])
    other.last.bias[split.channel] += value
    return other


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("to", ["mean", "zero", 0.7, -3])
def test_what_is_the_concepts_alone_becomes_a_constant(to, kernel, fitted):
    network, changed, splits = split_network(kernel, fitted)
    images = torch.randn(4, 3, 24, 24)
    before = changed(images)
    for split in splits:
        for k in range(len(split.concepts)):
            alone = (split.shares()[k].double() * split.mean_arv).sum() / split.positions
            value = float(alone) if to == "mean" else {"zero": 0.0}.get(to, to)
            with ablated(changed, split.channel, k + 1, to=to):
                found = changed(images)
            torch.testing.assert_close(found, by_hand(network, split, k, value)(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(changed(images), before)


def test_a_concept_is_named_by_number_or_name_and_mistakes_are_said():
    _, changed, _ = split_network()
    images = torch.randn(2, 3, 24, 24)
    with ablated(changed, 2, 2) as network:
        assert network is changed
        by_number = changed(images)
    with ablated(changed, 2, "concept 1"):
        assert torch.equal(changed(images), by_number)
    for arguments, message in (
        ((3, 1), "channel 3 is not split"),
        ((2, 4), "channel 2 has no concept 4: it has 1 to 3, concept 0, concept 1, concept 2"),
        ((2, "dog"), "no concept 'dog'"),
        ((2, 1, "median"), "to='median' is not 'mean', 'zero' or a number"),
        ((2, 1, "mean", "stem"), "channel 2 is not split in stem"),
    ):
        with pytest.raises(ValueError, match=message), ablated(changed, *arguments):
            pass


def test_a_channel_that_is_split_in_two_layers_needs_the_layer():
    network = factories.make(8, 12, 1)
    splits = [random_split(network.last, 2), random_split(network.stem[0], 2)]
    changed = with_splits(network, ["last", "stem.0"], splits)
    with (
        pytest.raises(ValueError, match=r"channel 2 is split in stem\.0, last: say which layer"),
        ablated(changed, 2, 1),
    ):
        pass
    with ablated(changed, 2, 1, layer="last"):
        changed(torch.randn(1, 3, 24, 24))


def test_all_parts_at_their_means_are_the_channel_at_its_mean():
    """The whole channel is then its mean over all positions of the training images, bias included."""
    _, changed, _ = split_network()
    constants = {k: 0.5 * k for k in range(4)}  # of three concepts and the residual
    seen = []
    changed.last.register_forward_hook(lambda module, inputs, output: seen.append(output[:, 2]))
    with held(changed.last, 0, constants):
        changed(torch.randn(2, 3, 24, 24))
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], sum(constants.values())))


def test_channels_are_addressed_by_meaning():
    _, changed, splits = split_network()
    table = network_concepts(changed)
    assert [one["row"] for one in table] == list(range(7))
    assert {one["layer"] for one in table} == {"last"}
    assert table[1] == {"layer": "last", "row": 1, "channel": 2, "part": 2, "name": "concept 1", "classes": [1]}
    assert [one["part"] for one in table] == [1, 2, 3, 0, 1, 2, 0]
    assert table[-1]["name"] == "residual" and table[-1]["channel"] == 5
    seen = []
    changed.last.parts.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    changed(torch.randn(2, 3, 24, 24))
    (x, output), row = seen[0], splits[0].rows()[1].float()
    expected = torch.einsum("bihw,i->bhw", x, row[:, 0]) + splits[0].bias
    torch.testing.assert_close(output[:, 1], expected)
    assert network_concepts(factories.make(8, 12, 1)) == []


def test_a_concept_is_meant_by_one_of_its_classes_or_by_what_its_name_begins_with():
    concepts = [Concept("cat + dog", [0, 1]), Concept("dog sled", [2]), Concept("circuit 1 (cat)", [], [1], "images")]
    asked = ("cat + dog", "dog", "cat", "circuit 1", 3)
    assert [number_of_concept(one, concepts, 9) for one in asked] == [0, 0, 0, 2, 2]
    twice = [Concept("circuit 1 (cat)", []), Concept("circuit 1 (dog)", [])]
    with pytest.raises(ValueError, match="has no concept 'circuit 1'"):
        number_of_concept("circuit 1", twice, 9)


def test_a_class_is_named_as_leniently_as_on_the_command_line():
    concepts = [Concept("digital clock + cat", [530, 7]), Concept("cauliflower", [938]), Concept("everything else", [])]
    asked = ("Digital_Clock", "n03196217", "530", "7", "CAT", "n07715103", "938", "everything-else")
    assert [number_of_concept(one, concepts, 9) for one in asked] == [0, 0, 0, 0, 0, 1, 1, 2]
    assert number_of_concept(1, concepts, 9) == 0  # a number that is no text counts concepts
    for unknown in ("1", "clock", 530):
        with pytest.raises(ValueError, match=f"channel 9 has no concept {unknown!r}"):
            number_of_concept(unknown, concepts, 9)
    twice = [Concept("Barn", [3]), Concept("barn", [4])]
    assert [number_of_concept(one, twice, 9) for one in ("Barn", "barn")] == [0, 1]
    with pytest.raises(ValueError, match="has no concept 'BARN'"):
        number_of_concept("BARN", twice, 9)
