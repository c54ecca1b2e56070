"""Stage 4's comparison: which methods there are, what each needs, and what they are made of."""

from dataclasses import dataclass
from functools import cached_property

from utils.method.unlabelled import ByCircuits, ByConceptVectors, usual_references
from utils.stages.comparison_methods import (
    ByRule,
    ByShares,
    Directions,
    FromClasses,
    FromPredictions,
    FromStore,
    Logits,
    Original,
    Splits,
)
from utils.stages.comparison_pure import Neurons
from utils.stages.unlabelled import by_concept_vectors


@dataclass
class Method:
    """A method in tables: what it is called in ``words``, which of the ``sources`` of concepts it has (None: none).

    What it needs: ``labels``; ``images``, a pass of the network, where all else has what is in the stores. Whether it
    ``changes_weights`` of the network, and whether that has the ``same_output`` with the units in the channel's place.
    ``make`` makes of Sources what gives Units of a Case.
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


def _splits(words, source, **needs):
    """The two ways to split by a source, as two methods."""
    how = {"labels": False, "images": False, **needs, "changes_weights": True, "same_output": True}
    return {
        source: Method(f"split by {words}", source, **how, make=lambda of: Splits(getattr(of, source), of.rule)),
        f"{source}_least_squares": Method(
            f"split by {words}, least squares", source, **how, make=lambda of: Splits(getattr(of, source), of.shares)
        ),
    }


_READ = {"changes_weights": False, "same_output": True}  # units that are in the network
_BESIDE = {"labels": False, "changes_weights": False, "same_output": False}
METHODS = {
    "original": Method("original channel", None, False, False, **_READ, make=lambda of: Original()),
    "logit": Method("the class's own logit", None, True, False, **_READ, make=lambda of: Logits()),
    **_splits("classes", "classes", labels=True),
    **_splits("predicted classes", "predicted_classes"),
    **_splits("circuits", "circuits"),
    **_splits("PURE's clusters", "pure", images=True),
    **_splits("concept vectors' clusters", "concept_vectors"),
    "virtual_neurons": Method(
        "PURE's virtual neurons", "pure", images=True, **_BESIDE, make=lambda of: Neurons(of.pure)
    ),
    "directions": Method(
        "concept vectors themselves", "concept_vectors", images=False, **_BESIDE,
        make=lambda of: Directions(of.concept_vectors),
    ),
}  # fmt: skip


class Sources:
    """What methods are made of, each once, and only what is asked for.

    Parameters
    ----------
    store : ImportanceStore
        Of training images, complete.
    inputs : StoredInputs
        Of the same.
    labels : Labels
    mean_inputs : Tensor [T, C_in, taps], float64
        Of classes.
    cases : Cases
    only_correct : bool
        Whether only correctly classified images may be references.
    rho : float
    asked : dict
        ``number`` of concepts and of ``references``, where they are not the methods' own.
    open_pure : function that returns a FromPure with VirtualNeurons
    """

    def __init__(self, store, inputs, labels, mean_inputs, cases, *, only_correct, rho, asked, open_pure):
        self._store, self._inputs, self._labels, self._cases = store, inputs, labels, cases
        self._only_correct, self._asked, self._open_pure = only_correct, asked, open_pure
        self.rule, self.shares, self.classes = ByRule(rho), ByShares(inputs), FromClasses(mean_inputs)

    def _settings(self, kind):
        return {"references": usual_references(kind, self._store.meta["num_images"]), **self._asked}

    def _from_store(self, method):
        return FromStore(method, self._store, self._inputs, self._cases.all_weights(), self._only_correct)

    @cached_property
    def circuits(self):
        return self._from_store(ByCircuits(**self._settings(ByCircuits)))

    @cached_property
    def predicted_classes(self):
        return FromPredictions(self.circuits, self._labels)

    @cached_property
    def concept_vectors(self):
        layer = *self._store.read_layer(), self._store.meta["positions"]
        return self._from_store(by_concept_vectors(*layer, self._inputs, **self._settings(ByConceptVectors)))

    @cached_property
    def pure(self):
        return self._open_pure()
