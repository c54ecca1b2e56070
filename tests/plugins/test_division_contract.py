"""What stages, tables, figures and pages rely on, of every way of dividing inputs; a toy one is among them."""

import re

import pytest
import torch

from tests import factories
from tests.helpers import as_layer
from tests.scripts import run_script
from tests.with_toys import registered
from utils.command_line import split_flags
from utils.command_line.parser import Parser
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS, USUAL, USUAL_OF_LAYERS, USUAL_WITHOUT_LABELS
from utils.divisions.nulls import NULLS
from utils.errors import UserError
from utils.method.disentangling import Candidate, Concept, merge
from utils.method.shares import second_moments
from utils.networks.opened_network import OpenedNetwork
from utils.networks.splitting import with_splits
from utils.store.scores import unit_of
from utils.store.separations import SCORED_UNITS
from utils.store.splits import SETTINGS, SPLIT_CONTEXT, SplitFile, StoredSplits, read_split, split_path, write_split

CHANNEL, NUM_INPUTS, NUM_CONCEPTS, UNITS = 9, 8, 3, 5
TOY = "softmax"
ALL = [*DIVISIONS, TOY]


class Inputs:
    """ConceptInputs of three concepts at random."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        centres = torch.randn(NUM_CONCEPTS, 1, NUM_INPUTS, 1, generator=generator)
        self._groups = [centre + torch.randn(12, NUM_INPUTS, 1, generator=generator) for centre in centres]

    def means(self):
        return torch.stack([group.double().mean(0) for group in self._groups])

    def groups(self):
        return self._groups, [1.0] * NUM_CONCEPTS

    def second_moments(self):
        return [second_moments(group) for group in self._groups], [1.0] * NUM_CONCEPTS


@pytest.fixture(params=ALL)
def way(request):
    with registered():
        yield DIVISIONS.get(request.param)


@pytest.fixture
def network():
    return factories.small()


@pytest.fixture
def split(way, network):
    """A split of a channel of a network, as stage 3 makes it."""
    layer = as_layer(network.last)
    layer.name, layer.map_size = "last", (4, 4)
    weight = layer.weight[CHANNEL].clone()
    arvs = (weight.double() * Inputs().means()).sum(-1)
    concepts = [Concept(f"concept {k}", [k]) for k in range(NUM_CONCEPTS)]
    candidate = Candidate(CHANNEL, concepts, weight, None, 16, arvs, arvs.mean(0), [[0], [1], [2]], SOURCE)
    opened = OpenedNetwork(network, layer, "fp32")
    divider = way.divider(
        way.settings_from({}), opened, inputs_of=lambda concepts, background: Inputs(), background=None
    )
    with divider:
        for key in candidate.keys:
            pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(key))
            divider.see([candidate], key, pixels)
        return candidate.split(divider.divide(candidate))


SOURCE = {"name": "classes", "state": {}}


def rule_of(way, rho):
    return way.rule(way.settings_from({}), Inputs(), rho)


def test_columns_of_shares_sum_to_one_at_every_rho(split):
    for rho in split.division.rhos or [None]:
        shares = split.shares(rho)
        assert shares.dtype == torch.float64 and shares.shape == (NUM_CONCEPTS + 1, NUM_INPUTS)
        assert (shares >= 0).all()
        torch.testing.assert_close(shares.sum(0), torch.ones(NUM_INPUTS).double(), rtol=0, atol=1e-12)
    assert torch.equal(split.shares(), split.shares(split.rho))


def test_the_merge_is_the_original_and_the_output_stays(split, network):
    torch.testing.assert_close(merge(split.rows(), dim=0), split.weight.double(), rtol=0, atol=1e-12)
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    divided = with_splits(network.double(), "last", [split])
    torch.testing.assert_close(divided(images), network(images), rtol=0, atol=1e-12)


def test_many_units_at_once_are_divided_as_each_by_itself(way, split):
    rule, weights = (
        rule_of(way, split.rho),
        torch.randn(UNITS, NUM_INPUTS, 1, dtype=torch.float64),
    )
    together = rule.shares(weights)
    assert together.shape == (NUM_CONCEPTS + 1, UNITS, NUM_INPUTS)
    alone = torch.cat([rule.shares(unit[None]) for unit in weights], dim=1)
    torch.testing.assert_close(together.double(), alone.double(), rtol=0, atol=1e-5)
    assert rule.rows(weights).shape == (NUM_CONCEPTS, UNITS, NUM_INPUTS, 1)


def test_the_rule_divides_the_channel_as_its_split(way, split):
    rows = rule_of(way, split.rho).rows(split.weight[None].double())[:, 0]
    torch.testing.assert_close(rows.double(), split.rows()[:-1], rtol=0, atol=0.02 * float(split.weight.abs().max()))


def test_a_division_goes_through_a_file(split, tmp_path):
    context = dict.fromkeys(SPLIT_CONTEXT) | {"num_channels": 12, "num_outputs": 4, "transform": {}}
    context |= {"classes": {str(output): output for output in range(4)}}
    path = split_path(tmp_path, "m", CHANNEL, split.classes, split.division.suffix_of(split.division.settings()))
    write_split(path, SplitFile(split, context, dict.fromkeys(SETTINGS), None, SOURCE, {}))
    read = read_split(path).split.division
    assert type(read) is type(split.division) and read.settings() == split.division.settings()
    assert read.rho == split.rho and read.rhos == split.division.rhos
    for rho in read.rhos or [None]:
        assert torch.equal(read.shares(rho), split.shares(rho))
    assert StoredSplits(tmp_path, "m").find(CHANNEL, split.classes) == [path]
    assert read.text() == split.division.text()


def test_another_order_of_the_inputs_has_as_many_for_each_concept(split):
    order = torch.randperm(NUM_INPUTS, generator=torch.Generator().manual_seed(1))
    permuted = split.division.permuted(order)
    assert torch.equal(permuted.shares(split.rho), split.shares()[:, order])
    assert permuted.settings() == split.division.settings()


def test_nulls_have_as_many_concepts_and_columns_in_the_table(way, split):
    rule, orders = (
        rule_of(way, split.rho),
        torch.stack([torch.randperm(NUM_INPUTS) for _ in range(UNITS)]),
    )
    assert way.primary_null in way.nulls and set(way.nulls) <= set(NULLS)
    for null in way.nulls:
        rows = null.rows(rule, split.weight.double(), split.shares(), orders)
        assert rows.shape == (NUM_CONCEPTS, UNITS, NUM_INPUTS, 1)
        assert unit_of(null) in SCORED_UNITS and null.words and null.phrase
    assert way.primary_null.draws_column


def test_names_of_files_tell_settings_apart(way):
    assert re.fullmatch(way.suffix_pattern, way.usual_suffix())


def test_no_two_ways_have_a_suffix_in_common():
    with registered():
        for one in DIVISIONS.all():
            assert [
                other.name for other in DIVISIONS.all() if re.fullmatch(other.suffix_pattern, one.usual_suffix())
            ] == [one.name]


@pytest.mark.parametrize("name", ALL)
def test_the_registry_knows_a_class_by_its_own_name(name):
    with registered():
        assert DIVISIONS.get(name).name == name


def test_there_are_words_for_everything_that_is_shown(way, split):
    settings = way.settings_from({})
    assert all([way.words, way.report_words, way.summary, way.describe(settings), split.division.text()])
    assert way.report_words in split.division.report_words_at(split.rho)
    best, used = split.division.rhos_by_objective()
    assert set(best) == set(way.objective_names) and (used in best) == bool(best)
    assert (split.division.quality() is None) == (not best)
    assert split.division.kept_apart().keys() <= settings.keys()


def test_one_concept_may_stand_alone_beside_the_usual_background_of_the_way_that_a_flag_asks_for(monkeypatch):
    with registered():
        monkeypatch.setattr(DIVISIONS.get(TOY), "usual_background", 1.0)
        parser = Parser("")
        split_flags.add_concept_flags(parser)
        split_flags.add_division_flags(parser)
        one_concept = ["--classes_for_concept1", "1"]
        args = parser.parse_args([*one_concept, "--sharpness", "2"])
        assert split_flags.given_concepts(args) == (["1"],)
        source = SOURCES.get("classes")
        division = split_flags.division_of(args, source)
        assert (division.name, split_flags.given_to(division, args)) == (TOY, {"sharpness": 2.0})
        assert split_flags.background_of(args, source, division) == 1.0
        with pytest.raises(UserError, match="--classes_for_concept2 must be given"):
            split_flags.given_concepts(parser.parse_args(one_concept))


def test_flag_words_choose_the_settings_again(way):
    words = way.flag_words(way.settings_from({}))
    flags, values = words[::2], words[1::2]
    given = {flag.setting: value for flag in way.flags for name, value in zip(flags, values, strict=True)
             if name == f"--{flag.name}"}  # fmt: skip
    assert len(given) == len(flags) and way.settings_from(given) == way.settings_from({})


@pytest.mark.parametrize("name", ALL)
def test_help_lists_the_flags(name, tmp_path):
    with registered():
        flags = [flag.name for flag in DIVISIONS.get(name).flags]
    for script in ("disentangle_channel.py", "get_results.py"):
        text = run_script("tests/with_toys.py", script, "--help", "all", cwd=tmp_path).stdout
        assert all(f"--{flag}" in text for flag in flags) and name in text


def test_what_is_usual_is_registered():
    assert {USUAL, USUAL_OF_LAYERS, USUAL_WITHOUT_LABELS} <= set(DIVISIONS)
    assert DIVISIONS.get(USUAL).usual_suffix() == ""
