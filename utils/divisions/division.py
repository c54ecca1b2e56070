"""Interface of a way of dividing inputs: Division (the result), Divider (makes it), Rule (applies it to any unit).

A new way is a subclass of ``Division`` in its own file in this folder, named after it, and a line in
``division_registry.py``. Stages, tables, figures and pages get everything that depends on the way from this class.
``--help`` imports the file, so modules that take long to import, torch above all, are imported by ``later``.
``tests/plugins/softmax.py`` is an example; every way must pass ``tests/plugins/test_division_contract.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from utils.plugins import Flag, later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.divisions.nulls import Null
    from utils.method.disentangling import Candidate, Concept
    from utils.networks.opened_network import OpenedNetwork

torch = later("torch")
disentangling = later("utils.method.disentangling")


class ConceptInputs(Protocol):
    """The tap sums of a channel's concepts in the stored training images. A background is the last concept.

    A Rule asks for one of the three. In a comparison the groups and moments have a background and the means do not.
    """

    def means(self) -> Tensor:
        """Mean tap sums of each concept: [K, C_in, taps], float64. The weights of the groups are not used."""

    def groups(self) -> tuple[list[Tensor], list[float]]:
        """Tap sums of single images, [n, C_in, taps] for each concept, and the weight of each concept."""

    def second_moments(self) -> tuple[Sequence[Tensor], list[float]]:
        """The mean outer product of the groups' tap sums for each concept, and the weight of each concept.

        Tensors [C_in * taps, C_in * taps], float64. Of a background they take less time than its group.
        """


InputsOf = Callable[["list[Concept]", "float | None"], ConceptInputs]


class Division(ABC):
    """How the inputs of one channel are divided among its K concepts, for every rho if there are several.

    Class attributes
    ----------------
    name
        In the registry, ``--split_by`` and files.
    words
        In tables and figures.
    report_words
        In a report, beginning with "by".
    summary
        Its part of the help of ``--split_by``.
    suffix_pattern
        A regular expression that matches everything that ``suffix_of`` can return.
    nulls
        The nulls with which a separation compares it.
    primary_null
        The one of these that decides; it has a ``draws_column``.
    flags
        Its own, for stage 3; stage 4 chooses among splits by them. Two plug-ins that declare a flag of one name must
        mean the same by it.
    usual_background
        Default weight of the background (everything else as one more concept); None: no background.
    weighs_background
        Whether weights of the background other than 0 and 1 are allowed.
    usual_irrelevant
        Default number of irrelevant channels that a separation draws; None: all of them, unless that takes too long.
    background_note
        Text after "all training images" where a background is described.
    objective_names
        Names of the objectives by which rho can be chosen; empty if there is no rho.
    """

    name: str
    words: str
    report_words: str
    summary: str
    suffix_pattern: str
    nulls: tuple[Null, ...]
    primary_null: Null
    flags: tuple[Flag, ...] = ()
    usual_background: float | None = None
    weighs_background = False
    usual_irrelevant: int | None = None
    background_note = ""
    objective_names: tuple[str, ...] = ()

    # ------------------------------------------------------------------------------------------- before it is made

    @classmethod
    @abstractmethod
    def settings_from(cls, given: dict[str, Any]) -> dict[str, Any]:
        """All settings by name: the values of its flags that were ``given``, {setting: value}, and the defaults."""

    @classmethod
    @abstractmethod
    def suffix_of(cls, settings: dict[str, Any]) -> str:
        """The part of a split's file name that depends on the way and its settings; empty for the usual one."""

    @classmethod
    def usual_suffix(cls) -> str:
        """``suffix_of`` its usual settings."""
        return cls.suffix_of(cls.settings_from({}))

    @classmethod
    def suffix_in_tables(cls, settings: dict[str, Any]) -> str:
        """The part of the name of a file of results: different wherever results are ``kept_apart``."""
        return cls.usual_suffix()

    @classmethod
    def words_of(cls, settings: dict[str, Any]) -> str:
        """``words`` with these settings, for the heading of a table: different wherever results are ``kept_apart``."""
        return cls.words

    @classmethod
    def flag_words(cls, settings: dict[str, Any]) -> list[Any]:
        """The flags, as words, that tell its settings from others of the same way."""
        return []

    @classmethod
    @abstractmethod
    def describe(cls, settings: dict[str, Any]) -> str:
        """How inputs are divided with these settings, for the first lines of stage 3."""

    @classmethod
    @abstractmethod
    def divider(
        cls,
        settings: dict[str, Any],
        network: OpenedNetwork,
        *,
        inputs_of: InputsOf,
        background: float | None,
    ) -> Divider:
        """The Divider of stage 3.

        Parameters
        ----------
        settings
            From ``settings_from``.
        network
            Its layer of interest has the channels that are divided.
        inputs_of
            A function of Concepts and the background's weight (None: no background) that returns their ConceptInputs.
        background
            The weight of the background; None: no background.
        """

    @classmethod
    @abstractmethod
    def rule(cls, settings: dict[str, Any], inputs: ConceptInputs, rho: float | None = None) -> Rule:
        """The Rule that divides any unit among the concepts of ``inputs`` (ConceptInputs).

        ``rho`` is one of ``rhos``; ignored if there are none.
        """

    # ---------------------------------------------------------------------------------------------- as a split has it

    @property
    def rhos(self) -> tuple[float, ...]:
        """The values of rho, with a division for each: ``RHOS`` of the method; empty: there is a single division."""
        return ()

    @property
    def rho(self) -> float | None:
        """The chosen one of ``rhos``, or None."""
        return None

    @abstractmethod
    def shares(self, rho: float | None = None) -> Tensor:
        """Each concept's share of each input, and last the residual's: Tensor [K + 1, C_in], float64.

        Columns sum to 1. ``rho``: default the chosen one.
        """

    @abstractmethod
    def permuted(self, order: Tensor) -> Division:
        """The same division with the inputs permuted by ``order``, LongTensor [C_in].

        Each concept keeps its number of inputs, or its shares.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Its settings, as ``settings_from`` has them."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The Division as plain values and tensors, for a split file."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: dict[str, Any], arvs: Tensor) -> Division:
        """The Division of a ``state``, for concepts of these ARVs [K, C_in]; ValueError if it is not usable."""

    # ------------------------------------------------------------------------------------------------- what is said

    @abstractmethod
    def kept_apart(self) -> dict[str, Any]:
        """Plain values: results are put in one table only if these are equal."""

    def report_words_at(self, rho: float) -> str:
        """``report_words`` of this division."""
        return self.report_words

    @abstractmethod
    def text(self) -> str:
        """How the inputs are divided, for the screen of stage 3."""

    def rhos_by_objective(self) -> tuple[dict[str, float], str | None]:
        """{objective: the rho that it chooses}, and the objective that was used; {} and None if there is no rho.

        For the closing table of stage 3.
        """
        return {}, None

    def quality(self) -> float | None:
        """How well the concepts are separated on their training images, at best the number of concepts; or None."""
        return None


class Divider(ABC):
    """Divides the inputs of stage 3's candidates.

    Class attributes
    ----------------
    sees_images : bool
        True: within its context it sees all training images of the concepts, batch by batch. False: it sees none.
    progress : str
        Its work in words: the text of the progress bar, of images if it sees them, else of splits.
    """

    sees_images = False
    progress = "splits"

    def __enter__(self) -> Divider:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def see(self, candidates: Sequence[Candidate], key: Any, pixels: Tensor) -> None:
        """Process a batch of images of a group, [B, 3, H, W], for the candidates that contain the group.

        Groups come one after another, in any order; what is made of a candidate must not depend on it.
        """
        return None

    @abstractmethod
    def divide(self, candidate: Candidate) -> Division:
        """The Division of a Candidate, after all of its images have been seen; UserError if there is none."""


class Rule(ABC):
    """Divides any units of a layer, each independently, among the concepts of one channel."""

    @abstractmethod
    def shares(self, weights: Tensor, targets: Tensor | None = None) -> Tensor:
        """Each concept's share of each input: Tensor [K + 1, B, C_in], the residual's last.

        Parameters
        ----------
        weights : Tensor [B, C_in, taps], float64
            Weights of the units.
        targets : Tensor [B, C_in, taps], optional
            What the new channels of each unit should sum to, for rules that support it; default: the unit.
        """

    def shares_of_each(self, following: Iterable[Any], weights: Tensor) -> Tensor:
        """The shares of each unit of ``weights`` [B, C_in, taps] by a rule of its own: [K + 1, B, C_in].

        The first unit is divided by this rule, each other one by its own of the ``following`` B - 1 rules. These are of
        the same class and have as many concepts; they may be made when they are asked for. A way of dividing that can
        be solved for many rules at once overrides this.
        """
        pairs = zip(chain([self], following), weights.split(1), strict=True)
        return torch.cat([rule.shares(weight) for rule, weight in pairs], 1)

    def rows(self, weights: Tensor, targets: Tensor | None = None) -> Tensor:
        """``c'_1 .. c'_K`` of the units: Tensor [K, B, C_in, taps]."""
        return disentangling.disentangled_rows(weights, self.shares(weights, targets))[:-1]
