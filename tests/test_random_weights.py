"""The benchmark of re-initialised networks: what is drawn anew, the thresholds, and all stages on a small network."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import random_weights
from benchmarks.random_weights import gamma_of_pairs, largest_taus, over_seeds, separated_network, tau_of_relations
from benchmarks.reinitialised import (
    Part,
    estimate_statistics,
    executed_modules,
    modules_of,
    norms_behind,
    reinitialise,
)
from tests.factories import small
from tests.oracles import load
from tests.pictures import batches
from tests.scripts import COMPUTE, NETWORK, SMALL_IMAGES
from utils.errors import UserError
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.method.importance import relevant_classes, relevant_in_images
from utils.method.polysemanticity import gamma_polysemantic
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork

SIZE = 24


def with_two_norms():
    network = small()
    network.stem = nn.Sequential(network.stem[0], nn.BatchNorm2d(8), network.stem[1])
    return network.eval().requires_grad_(False)


def drawn(part, seed=0):
    """A network that is re-initialised in a part, and the names of the BatchNorms that are estimated anew."""
    network = with_two_norms()
    order = executed_modules(network, SIZE)
    names = modules_of(part, network, "last", order)
    reinitialise(network, names, seed)
    names_of = {module: name for name, module in network.named_modules()}
    return network, [names_of[norm] for norm in norms_behind(network, names, order)]


def changed(network, other):
    pairs = zip(network.state_dict().items(), other.state_dict().values(), strict=True)
    return {name for (name, value), of_other in pairs if not torch.equal(value, of_other)}


def test_a_part_alone_is_drawn_anew_and_equal_seeds_make_equal_weights():
    network, norms = drawn(Part.LAYER)
    assert changed(network, with_two_norms()) == {"last.weight"}
    assert norms == ["head.0"]
    network, norms = drawn(Part.CLASSIFIER)
    assert changed(network, with_two_norms()) == {"classifier.weight", "classifier.bias"}
    assert norms == []
    network, norms = drawn(Part.EVERYTHING)
    assert {name for name in changed(network, with_two_norms()) if "weight" in name} >= {
        *("stem.0.weight", "last.weight", "classifier.weight")
    }
    assert norms == ["stem.1", "head.0"]
    assert not changed(network, drawn(Part.EVERYTHING)[0])
    assert changed(network, drawn(Part.EVERYTHING, seed=1)[0])


def test_what_else_is_drawn_does_not_depend_on_it():
    network = small()
    state = torch.random.get_rng_state()
    reinitialise(network, ["last"], 5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_module_that_cannot_be_drawn_anew_is_named():
    network = with_two_norms()
    network.last.register_parameter("scale", nn.Parameter(torch.ones(1)))
    network.stem.register_parameter("scale", nn.Parameter(torch.ones(1)))
    assert modules_of(Part.LAYER, network, "last", ["last"]) == ["last"]
    with pytest.raises(UserError, match=r"stem \(Sequential\) has weights but no reset_parameters"):
        modules_of(Part.EVERYTHING, network, "last", ["last"])


def test_statistics_are_the_means_over_batches_of_those_norms_alone(finished):
    network = with_two_norms()
    opened = OpenedNetwork(network, find_layer(network, "last", SIZE), "fp32")
    images = list_images(finished / "data" / "train")
    transform = Transform(SIZE, SIZE)
    cut = [[0, 5, 10, 15], [1, 6, 11, 16]]
    estimate_statistics(opened, [network.head[0]], batches(images, transform, cut))
    pixels = [batch.pixels for batch in batches(images, transform, cut)]
    outputs = [network.last(network.stem(of_batch)).transpose(0, 1).flatten(1).double() for of_batch in pixels]
    mean = torch.stack([of_batch.mean(1) for of_batch in outputs]).mean(0)
    variance = torch.stack([of_batch.var(1) for of_batch in outputs]).mean(0)
    torch.testing.assert_close(network.head[0].running_mean.double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(network.head[0].running_var.double(), variance, rtol=1e-4, atol=1e-6)
    assert changed(network, with_two_norms()) == {f"head.0.{name}" for name in ("running_mean", "running_var")} | {
        "head.0.num_batches_tracked"
    }
    assert not any(module.training for module in network.modules())
    assert network.head[0].momentum == with_two_norms().head[0].momentum


@pytest.fixture
def importances():
    """Relative importances [n, C], positive sums and targets of images of three classes; some without importance."""
    torch.manual_seed(3)
    relative = (0.04 * torch.rand(1, 9) + 0.01 * torch.randn(40, 9)).half()
    sums = torch.rand(40) + 0.1
    sums[3] = 0
    targets = torch.tensor([0, 1, 1, 4, 4, 4, 4, 4]).repeat(5)
    return relative, sums, targets


def relations_at(tau, importances, p):
    relative, sums, targets = importances
    is_relevant = relevant_in_images(relative, sums, tau)
    counts = torch.stack([is_relevant[targets == target].sum(0) for target in range(5)])
    return int(relevant_classes(counts, torch.bincount(targets, minlength=5), p).sum())


@pytest.mark.parametrize("p", [0.5, 0.75, 1.0])
def test_no_tau_comes_nearer_to_a_number_of_relations(importances, p):
    relative, sums, targets = importances
    taus = largest_taus(relative.masked_fill(sums[:, None] <= 0, -torch.inf), targets, p)
    grid = [float(value) for value in relative[relative > 0].unique()]
    by_tau = {relations_at(value, importances, p) for value in grid}
    for number in range(1, 28):
        tau = tau_of_relations(taus, number)
        assert abs(relations_at(tau, importances, p) - number) == min(abs(other - number) for other in by_tau if other)


def test_a_network_without_positive_importances_has_no_tau():
    with pytest.raises(UserError, match="no channel is relevant for a class at any tau"):
        tau_of_relations(torch.zeros(3, 4).half(), 2)


@pytest.mark.parametrize("number", [0, 1, 4, 6, 9])
def test_as_many_pairs_lie_below_the_gamma(number):
    cosines = torch.tensor([0.9, 0.2, -0.3, 0.99, 0.4, 0.41])
    assert gamma_polysemantic(cosines, gamma_of_pairs(cosines, number)).sum() == min(number, 6)


def test_no_pairs_have_no_gamma():
    assert gamma_of_pairs(torch.empty(0), 3) == -1


def test_values_over_seeds():
    assert over_seeds([0.25], ".2f") == "0.25"
    assert over_seeds([1.0, 2.0, 6.0], ".1f") == "3.0 (1.0 to 6.0)"
    assert over_seeds([np.nan, 2.0], ".0f") == "2 (2 to 2)"
    assert over_seeds([np.nan, np.nan], ".0f") == "–"


def test_a_network_of_which_nothing_was_measured_has_no_means():
    separated = separated_network(0.5, [])
    assert (separated.channels, separated.concepts, separated.above) == (0, 0, 0)
    assert np.isnan([separated.split, separated.null, separated.share_above, separated.gain.mean]).all()


@pytest.fixture
def tables(finished, tmp_path, capsys, without_figures):
    """Runs the benchmark on the small network: the rows of its tables."""
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--data_dir", finished / "data", "--batch_size", 8, "--draws", 20)
    flags += ("--proportion_attribution_required", 0.05, "--p", 0.5, "--gamma", 0.9, "--seeds", 2)
    flags += ("--folder", tmp_path / "networks", "--statistics_images", 16)

    def start():
        args = random_weights.get_args_parser().parse_args([*map(str, flags)])
        random_weights.main(random_weights.settings_from(args, None))
        rows = [
            line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", capsys.readouterr().out, re.MULTILINE)
        ]
        return [row for row in rows if "---" not in row]

    return start


def test_all_stages_of_a_small_network_and_again_from_what_is_stored(tables, finished, tmp_path):
    rows = tables()
    heads = [number for number, row in enumerate(rows) if len(row) > 2 and row[1] in ("accuracy", "gamma", "0.1")]
    assert [rows[number][0] for number in heads] == [
        *("found", "pairs with a cosine below", "gamma 0.9 for all"),
        *("found, gamma for as many pairs", "gamma for as many pairs"),
    ]
    found = dict(zip(rows[0], rows[1], strict=True))
    assert found["found"] == "trained"
    pixels, targets = load(finished, "val")
    accuracy = (small()(pixels).argmax(1) == targets).double().mean().item()
    assert found["accuracy"] == f"{accuracy:.3f}"
    assert [row[0] for row in rows[2:5]] == [f"re-initialised: {part.value}, 2 seeds" for part in Part]
    folders = {path.parent.name for path in tmp_path.rglob("weights.pth")}
    assert folders == {f"{part}_{seed}" for part in ("classifier", "everything", "layer") for seed in (0, 1)}
    separated = rows[heads[2] : heads[3]]
    assert float(separated[1][separated[0].index("AP split")]) > float(separated[1][separated[0].index("AP original")])
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert tables() == rows
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("chunk_*.npz")}.items() <= written.items()
