"""Stage 4's comparison: which methods there are, what each needs, and the k units that it makes, beside its nulls.

There is a method for each source of concepts and each way of dividing inputs, and for what a source has besides.
"""

from dataclasses import dataclass

import torch

from utils.concept_sources.cases import OWNERS, REFERENCES, SAME_SETS, TARGET, WEIGHTS, Units, draws_of, orders
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS
from utils.divisions.nulls import FITTED
from utils.method.disentangling import disentangled_rows


class Original:
    """The channel as it is."""

    def of(self, case):
        return {"": [case.units(case.weights[:1])], WEIGHTS: [case.units(one[None]) for one in case.weights[1:]]}


class Logits:
    """The network's own logits, of a concept the largest of its classes: labels have matched them."""

    def of(self, case):
        logits = case.validation.logits
        validation = torch.stack([torch.stack([logits[one] for one in own]).amax(0) for own in case.classes])
        return {"": [Units(case.own.float(), validation)]}


class Splits:
    """A unit's inputs divided among concepts: ``finder`` finds them, ``division`` divides, at ``rho`` if it has any."""

    def __init__(self, finder, division, rho):
        self.finder, self.division, self.rho = finder, division, rho

    def of(self, case):
        weight, sets = case.weights[0], self.finder.sets(case)
        rule, number = self._rule(sets), len(sets.concepts)
        shares = rule.shares(weight[None])[:, 0]
        found = {"": [self._units(case, weight, shares, sets, sets.clusters)]}

        def of_permuted_weights(unit):
            own, permuted = self.finder.sets(case, unit, number), case.weights[unit]
            return self._units(case, permuted, self._rule(own).shares(permuted[None])[:, 0], own, own.clusters)

        found[WEIGHTS] = draws_of(of_permuted_weights)
        if sets.clusters is not None:  # labels are the same sets for all weights
            found[SAME_SETS] = self._permuted(case, sets, rule)
        if FITTED in self.division.nulls:
            found[TARGET] = self._permuted(case, sets, rule, weight.expand_as(case.weights[1:]))
        among = orders("owners", case.channel, len(weight))
        found[OWNERS] = [self._units(case, weight, shares[:, order], sets, None) for order in among]
        if sets.clusters is not None:
            others = map(self.finder.sets_of, self.finder.partitioned(case.place, case.channel))
            found[REFERENCES] = [
                self._units(case, weight, self._rule(one).shares(weight[None])[:, 0], one, one.clusters)
                for one in others
            ]
        return found

    def _rule(self, sets):
        return self.division.rule(self.division.settings_from({}), sets, self.rho)

    def _permuted(self, case, sets, rule, targets=None):
        """Units of the permuted weights, divided among the channel's own sets."""
        weights = case.weights[1:]
        shares = rule.shares(weights, targets).unbind(1)
        return [self._units(case, one, own, sets, None) for one, own in zip(weights, shares, strict=True)]

    def _units(self, case, weight, shares, sets, clusters):
        return case.units(disentangled_rows(weight, shares)[: len(sets.concepts)], clusters)


# --------------------------------------------------------------------------------------------------------------------
# The table of methods


@dataclass
class Method:
    """A method in tables: what it is called in ``words``, which source of concepts it has (None: none).

    What it needs: ``labels``; ``images``, a pass of the network, where all else has what is in the stores. Whether it
    ``changes_weights`` of the network, and whether that has the ``same_output`` with the units in the channel's place.
    ``make`` makes of a Comparison what gives Units of a Case.
    """

    words: str
    source: str | None
    labels: bool
    images: bool
    changes_weights: bool
    same_output: bool
    make: object

    def needs(self):
        """The words and what it needs, as plain values."""
        return {name: value for name, value in vars(self).items() if name not in ("make", "source")}


def comparison_methods():
    """All methods by name, in the order of the table: {name: Method}."""
    read = {"changes_weights": False, "same_output": True}  # units that are in the network
    found = {
        "original": Method("original channel", None, False, False, **read, make=lambda _: Original()),
        "logit": Method("the class's own logit", None, True, False, **read, make=lambda _: Logits()),
    }
    sources = SOURCES.all()
    for source in sources:
        found |= {f"{source.name}{suffix}": method for suffix, method in _splits_by(source)}
    for source in sources:
        needs = {"labels": source.labelled, "images": source.needs_images}
        for name, (words, units) in source.own_units().items():
            found[name] = Method(
                **{"words": words, "source": source.name, **needs, "changes_weights": False, "same_output": False},
                make=lambda comparison, source=source, units=units: units(comparison.finder(source)),
            )
    return found


def _splits_by(source):
    """The methods that split by a source, each way of dividing: (suffix of the name, Method)."""
    needs = {"labels": source.labelled, "images": source.needs_images}
    for division in DIVISIONS.all():
        suffix = division.usual_suffix()
        words = f"split by {source.split_words}" + (f", {division.words}" if suffix else "")
        make = lambda comparison, division=division: Splits(comparison.finder(source), division, comparison.rho)  # noqa: E731
        yield suffix, Method(words, source.name, **needs, changes_weights=True, same_output=True, make=make)
