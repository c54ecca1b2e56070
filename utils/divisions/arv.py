"""The paper's way: each input belongs to one concept or is shared, by ARVs (Ineq. 5) and a factor rho (Eq. 6).

Stage 3 reads all training images of the concepts, evaluates three objectives for every rho, and keeps the owners of the
inputs at every rho. The equations are in ``utils.method.disentangling`` and ``utils.method.rho``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from utils.divisions.division import ConceptInputs, Divider, Division, InputsOf, Rule
from utils.divisions.nulls import SHARES, WEIGHTS
from utils.errors import UserError
from utils.plugins import Flag, later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.method.disentangling import Candidate
    from utils.method.rho import RhoSearch
    from utils.networks.opened_network import OpenedNetwork

torch = later("torch")
disentangling = later("utils.method.disentangling")
rho_search = later("utils.method.rho")
recording = later("utils.networks.recording")

OBJECTIVES = ("positive", "absolute", "contrast")  # in the order of the columns of ``objectives``
USUAL_OBJECTIVE = "positive"


class Arv(Division):
    """Owners of the inputs at every rho of the grid, and the objectives that chose one rho.

    Parameters
    ----------
    owners : uint8 Tensor [20, C_in]
        The owner of each input at each rho: 0 shared, k concept k.
    objectives : Tensor [20, 3], float64
        The values that choose rho, in the order of ``OBJECTIVES``.
    objective : str
        Name of the requested objective.
    rho : float
        The rho that this objective chose.
    num_concepts : int
        K.
    """

    name = "arv"
    words = "arv"
    report_words = "by the paper's rule"
    summary = "arv (the paper's Ineq. 5: each input belongs to one concept, or is shared by all)"
    flags = (
        Flag(
            "rho_objective",
            help="what the choice of rho maximises",
            setting="objective",
            choices=OBJECTIVES,
            does="chooses rho",
            chooses="if there are several splits: the one whose rho this objective chose",
            usual=USUAL_OBJECTIVE,
            details="positive: the ratio of a concept's own new channel to the others, positive activations only, as "
            "in the published code; absolute: the same of absolute activations, Eq. 6 as printed; contrast: difference "
            "by sum instead of the ratio.",
        ),
    )
    suffix_pattern = "(_absolute|_contrast)?"
    nulls = (WEIGHTS, SHARES)
    primary_null = WEIGHTS
    objective_names = OBJECTIVES

    def __init__(self, owners: Tensor, objectives: Tensor, objective: str, rho: float, num_concepts: int) -> None:
        self.owners = owners
        self.objectives = objectives
        self.objective = objective
        self._rho = rho
        self.num_concepts = num_concepts

    @classmethod
    def settings_from(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {"objective": given.get("objective") or USUAL_OBJECTIVE}

    @classmethod
    def suffix_of(cls, settings: dict[str, Any]) -> str:
        return "" if settings["objective"] == USUAL_OBJECTIVE else f"_{settings['objective']}"

    @classmethod
    def flag_words(cls, settings: dict[str, Any]) -> list[Any]:
        return ["--rho_objective", settings["objective"]]

    @classmethod
    def describe(cls, settings: dict[str, Any]) -> str:
        return f"rho by the objective {settings['objective']}"

    @classmethod
    def divider(
        cls,
        settings: dict[str, Any],
        network: OpenedNetwork,
        *,
        inputs_of: InputsOf,
        background: float | None,
    ) -> ArvDivider:
        return ArvDivider(network, settings["objective"])

    @classmethod
    def rule(cls, settings: dict[str, Any], inputs: ConceptInputs, rho: float | None = None) -> ArvRule:
        return ArvRule(inputs.means(), rho)

    @property
    def rhos(self) -> tuple[float, ...]:
        return rho_search.RHOS

    @property
    def rho(self) -> float:
        return self._rho

    def owners_at(self, rho: float | None = None) -> Tensor:
        """The owner of each input, LongTensor [C_in]; ``rho``: default the chosen one."""
        return self.owners[self.rhos.index(self.rho if rho is None else rho)].long()

    def shares(self, rho: float | None = None) -> Tensor:
        return disentangling.shares_of_owners(self.owners_at(rho), self.num_concepts).double()

    def permuted(self, order: Tensor) -> Arv:
        return Arv(self.owners[:, order], self.objectives, self.objective, self.rho, self.num_concepts)

    def settings(self) -> dict[str, Any]:
        return {"objective": self.objective}

    def state(self) -> dict[str, Any]:
        return {
            "rhos": list(self.rhos),
            "objective_names": list(OBJECTIVES),
            "owners": self.owners,
            "objectives": self.objectives,
            "objective": self.objective,
            "rho": self.rho,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], arvs: Tensor) -> Arv:
        if state["rhos"] != list(rho_search.RHOS) or state["objective_names"] != list(OBJECTIVES):
            raise ValueError("its rhos or objectives are not those of this program")
        return cls(state["owners"], state["objectives"], state["objective"], state["rho"], len(arvs))

    def kept_apart(self) -> dict[str, Any]:
        """Empty: tables summarise splits by different objectives together."""
        return {}

    def report_words_at(self, rho: float) -> str:
        return f"{self.report_words}, rho {rho:g} ({self.objective})"

    def text(self) -> str:
        """The objectives for every rho, how many inputs each concept has there, and which rho each would choose.

        ``positive`` is shown relative to its largest value, which depends on the images whose denominator is almost
        only the 1e-5 that was added. It cannot be compared between splits.
        """
        best, _ = self.rhos_by_objective()
        largest = float(self.objectives[:, 0].max())
        sizes = [f"|S_{k}|" for k in range(1, self.num_concepts + 1)]
        lines = [f"\n  rho  positive   absolute   contrast   {'  '.join(f'{size:>6}' for size in sizes)}  shared"]
        for rho, values in zip(self.rhos, self.objectives.double(), strict=True):
            counts = self.owners_at(rho).bincount(minlength=self.num_concepts + 1).tolist()
            row = "  ".join(f"{number:6d}" for number in [*counts[1:], counts[0]])
            shown = f"{values[0] / (largest or 1):8.2%}", f"{values[1]:8.4g}", f"{values[2]:8.4f}"
            marks = ["*" if best[name] == rho else " " for name in OBJECTIVES]
            objectives = "  ".join(f"{value}{mark}" for value, mark in zip(shown, marks, strict=True))
            lines.append(f" {rho:.2f}  {objectives}  {row}{' <- chosen' if rho == self.rho else ''}")
        by_each = ", ".join(f"{name} {rho:.2f}" for name, rho in best.items())
        lines += [
            f"* rho by each objective: {by_each}; used: {self.objective}",
            f"positive: in per cent of its largest value, {largest:.2g}; it is dominated by images in which the other "
            "channels are\nsilent, so that the denominator is only the added 1e-5",
        ]
        return "\n".join(lines)

    def rhos_by_objective(self) -> tuple[dict[str, float], str]:
        return dict(zip(OBJECTIVES, rho_search.best_rhos(self.objectives), strict=True)), self.objective

    def quality(self) -> float:
        """The contrast at the chosen rho."""
        return float(self.objectives[self.rhos.index(self.rho), OBJECTIVES.index("contrast")])


class ArvDivider(Divider):
    """Divides by Ineq. 5, at the rho of Eq. 6; sees all training images of the concepts."""

    sees_images = True
    progress = "choosing rho"

    def __init__(self, network: OpenedNetwork, objective: str) -> None:
        self.network = network
        self.objective = objective
        self._recorder = recording.Recorder(network.module, network.layer)
        self._searches: dict[int, RhoSearch] = {}
        self._group: Any = None  # the one that is being read
        self._maps: dict[int, Callable[[Tensor], Tensor]] = {}  # of its candidates

    def __enter__(self) -> ArvDivider:
        self._recorder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._recorder.__exit__(*error)

    def see(self, candidates: Sequence[Candidate], key: Any, pixels: Tensor) -> None:
        if key != self._group:
            self._group = key
            self._maps = {}
        with self.network.arithmetic():
            x = self._recorder.forward(pixels).input  # may have several rows for an image
        added = []
        with torch.no_grad():
            for candidate in candidates:
                search = self._search(candidate)
                if id(candidate) not in self._maps:
                    self._maps[id(candidate)] = self.network.layer.maps(search.rows, search.biases)
                concepts = torch.full((len(pixels),), candidate.concept_of(key))
                added.append((search, search.terms(self._maps[id(candidate)](x), concepts), concepts))
        for search, terms, concepts in added:  # not above: the first copy waits for the device
            search.add_terms(terms, concepts, key)

    def _search(self, candidate: Candidate) -> RhoSearch:
        if id(candidate) not in self._searches:
            num_own = len(candidate.own_concepts)
            search = rho_search.RhoSearch(candidate.weight, candidate.bias, candidate.arvs, num_own)
            self._searches[id(candidate)] = search
        return self._searches[id(candidate)]

    def divide(self, candidate: Candidate) -> Arv:
        search = self._search(candidate)
        del self._searches[id(candidate)]
        objectives = search.objectives()
        if not objectives.isfinite().all():
            why = "is NaN or infinite" if search.has_images() else "has no readable training image of a concept"
            raise UserError(f"rho cannot be chosen: channel {candidate.channel} {why} (concepts {candidate.groups})")
        rho = search.best()[OBJECTIVES.index(self.objective)]
        return Arv(search.owners.to(torch.uint8), objectives, self.objective, rho, len(candidate.concepts))


class ArvRule(Rule):
    """Ineq. 5 for many units at once, each by its own ARVs.

    Parameters
    ----------
    mean_inputs : Tensor [K, C_in, taps], float64
        Mean tap sums of each concept; a background is the last one.
    rho : float
    """

    def __init__(self, mean_inputs: Tensor, rho: float | None) -> None:
        self.mean_inputs = mean_inputs
        self.rho = rho

    def shares(self, weights: Tensor, targets: Tensor | None = None) -> Tensor:
        """BoolTensor [K + 1, B, C_in]; Ineq. 5 does not support ``targets``."""
        if targets is not None:
            raise ValueError("Ineq. 5 divides a unit by its own ARVs: it has no targets")
        arvs = torch.einsum("bit,kit->kbi", weights, self.mean_inputs)
        return disentangling.shares_of_owners(disentangling.split_sources(arvs, self.rho), len(self.mean_inputs))
