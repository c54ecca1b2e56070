"""What the report shows of each split of a channel: from the split file, and from what stage 4 has measured of it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import USUAL_OF_LAYERS
from utils.method.disentangling import Split
from utils.method.polysemanticity import cosine_similarities
from utils.report import page_svg
from utils.report.edit_tables import edit_rows, selectivity_text, strength_text
from utils.report.effect_tables import concept_rows
from utils.report.figure_files import plot_path
from utils.report.name_text import texts_of
from utils.report.page_commands import Commands
from utils.report.page_writer import Pictures
from utils.report.plots import density_limits
from utils.report.result_tables import result_rows
from utils.report.separation_headline import null_precision, primary_null
from utils.report.separation_tables import reached_by
from utils.report.split_figures import card_name, densities, shown_channels, shown_concepts
from utils.stages.edit_methods import METHODS
from utils.stages.image_set_nulls import ImageSetScores
from utils.store.edit_results import SELECTIVITY, Edits
from utils.store.effects import Effects
from utils.store.files import number_text
from utils.store.opened_splits import OpenedSplit
from utils.store.results import Results
from utils.store.scores import NEW, ORIGINAL, OWN_LOGIT, PROBE
from utils.store.separations import Separations, newest_rows
from utils.store.splits import SplitFile

SHOWN = (
    "separation",
    "quantitative",
    "effect",
    "edit",
    "feature_visualization",
    "channel_card",
    "map",
)  # each a flag --get_...
WIDEST_MAP = 1800  # pixels: its names are small
GRID = 24  # points of a density; drawings are small
EVALUATION = ("separation", "quantitative", "effect")  # the first where the user names the concepts
# a channel's groups first, then pairs, then classes that a user chose, then concepts without labels
ORDER = {"groups": 0, "pair": 1, "own choice": 2, "images": 3}


@dataclass(frozen=True)
class MeasuredSplit:
    """A split file and what stage 4 has measured of it.

    ``kind`` is one of ORDER: what its concepts are. ``separation`` are its rows of a separation, ``result`` its
    fractions; both are None if they were not measured. ``effects`` are its effects on logits, and ``edits`` what taking
    its concepts out does; both may be empty.
    """

    path: Path
    file: SplitFile
    kind: str
    separation: list[dict] | None
    result: dict | None
    effects: list[dict]
    edits: list[dict]

    @property
    def opened(self) -> OpenedSplit:
        return OpenedSplit(self.path, self.file, self.rho)

    @property
    def split(self) -> Split:
        return self.file.split

    @property
    def is_found(self) -> bool:
        """Whether its concepts were found in the images of the channel, and not named by the user."""
        return not SOURCES.get(self.file.source["name"]).is_named()

    @property
    def how_divided(self) -> str:
        """How its inputs are divided, in words."""
        words = self.split.division.report_words_at(self.rho)
        if self.kind == "images":
            words = f"by {SOURCES.get(self.file.source['name']).words}, {words}"
        weight = self.file.background
        if weight is not None:
            words += ", with everything else as a concept"
            words += "" if weight == 1 else f" (weight {number_text(weight)})"
        return f"{words}, {'only correctly classified' if self.file.settings['only_correct'] else 'all'} images"

    @property
    def rho(self) -> float | None:
        return self.split.rho if self.result is None else self.result["rho"]

    def names(self, scores: ImageSetScores | None) -> list[str]:
        """What its concepts are called: those without labels by the names that have passed, if there are ``scores``."""
        own_names = texts_of([concept.name for concept in self.split.own_concepts], scores)
        return own_names + [concept.name for concept in self.split.concepts[len(own_names) :]]

    def labels(self, scores: ImageSetScores | None = None) -> list[str]:
        """Names of ``c'_1 .. c'_K``, in the order of the split's rows."""
        return [f"c'{k}, for {name}" for k, name in enumerate(self.names(scores), start=1)]

    def styles(self) -> list[str]:
        """Style classes of ``c'_1 .. c'_K``."""
        styles = [page_svg.style_of(k) for k in range(len(self.split.own_concepts))]
        return [*styles, "rest"] if self.split.has_background else styles

    def concept_of(self) -> dict[int, int]:
        """The concept of each class, from 0: {output: k}."""
        return {output: k for k, concept in enumerate(self.split.classes) for output in concept}


class MeasuredSplits:
    """All results of stage 4, by split.

    Parameters
    ----------
    results : Results
    separations : Separations
    effects : Effects
    edits : Edits
    tau : float
        The tau of the fractions that are shown, if they were measured for several.
    """

    def __init__(self, results: Results, separations: Separations, effects: Effects, edits: Edits, tau: float) -> None:
        self.separations = separations.read_all()
        self._rows: dict[str, list[dict]] = {}
        self._results: dict[str, dict] = {}
        self._effects: dict[str, list[dict]] = {}
        for _, row in newest_rows(self.separations):
            self._rows.setdefault(row["split"], []).append(row)
        for result in sorted(results.read_all(), key=lambda result: (result["tau"] == tau, result["evaluation"])):
            self._results[result["split"]] = result
        for effect in effects.read_all():
            self._effects.setdefault(effect["split"], []).append(effect)
        self._edits = {edit["split"]: edit for edit in edits.read_all()}
        self.stale = sorted({*results.stale, *separations.stale, *effects.stale, *edits.stale})

    def of_split(self, path: Path, file: SplitFile, kind: str) -> MeasuredSplit:
        """A MeasuredSplit with what was measured of it."""
        name = path.stem
        rows = sorted(self._rows.get(name, ()), key=lambda row: row["concept"])
        edits = [self._edits[name]] if name in self._edits else []
        return MeasuredSplit(
            path, file, kind, rows or None, self._results.get(name), self._effects.get(name, []), edits
        )


def kind_of(file: SplitFile, groups: list[list[int]], pairs: set[tuple[int, ...]]) -> str:
    """What a split's concepts are: the groups of its channel, a pair of its classes, a user's own choice, or sets of
    images without labels.

    Parameters
    ----------
    file : SplitFile
    groups
        Groups of the channel's classes, as lists of outputs.
    pairs
        Pairs (class1, class2) of the channel under gamma.
    """
    concepts = file.split.classes
    if not all(concepts):
        return "images"
    if len(concepts) > 1 and sorted(concepts) == sorted(groups):
        return "groups"
    single = tuple(sorted(concept[0] for concept in concepts if len(concept) == 1))
    return "pair" if len(concepts) == 2 and single in pairs else "own choice"


def in_order(splits: list[MeasuredSplit], only_correct: bool, split_by: str | None) -> list[MeasuredSplit]:
    """The splits of a channel; the first one is the one that its page shows.

    Splits into the channel's groups come first, then those made of the images that stage 2 has counted, then those
    divided by ``split_by``, or, if that is None, in the way that is usual for whole layers.
    """

    def key(split: MeasuredSplit) -> tuple:
        divided_otherwise = split.split.division.name != (split_by or USUAL_OF_LAYERS)
        counts_others = split.file.settings["only_correct"] != only_correct
        return ORDER[split.kind], counts_others, divided_otherwise, split.path.name

    return sorted(splits, key=key)


def describe_split(
    measured: MeasuredSplit,
    output_dir: Path | str,
    commands: Commands,
    pictures: Pictures,
    *,
    scores: ImageSetScores | None = None,
) -> dict:
    """The values of a MeasuredSplit that a page shows, for its template.

    Parameters
    ----------
    measured
    output_dir
        Folder of the figures of splits.
    commands
    pictures
        Copies figures into the report.
    scores
        Of concepts without labels beside permuted weights.
    """
    names = measured.names(scores)
    visualization = _figure_path(output_dir, measured, "visualization")
    map_path = Path(output_dir) / "plots" / f"{measured.path.stem}_map.png"
    cards = [_figure_path(output_dir, measured, card_name(of_all=of_all)) for of_all in (True, False)]
    card = next((path for path in cards if path.is_file()), None)
    styles = measured.styles()
    return {
        "file": measured.path.name,
        "kind": measured.kind,
        "found": measured.is_found,
        "how": measured.how_divided,
        "concepts": _concept_rows(measured, names, styles),
        "inputs": len(measured.split.weight),
        "assignment": measured.result["assignment"] if measured.result else None,
        "separation": [_separation_row(row, styles) for row in measured.separation or ()],
        "fractions": _fractions(measured, measured.result, names) if measured.result else None,
        "effects": [_effect(effect, names) for effect in measured.effects],
        "edits": [[_edit_row(row, names) for row in edit_rows(edit)] for edit in measured.edits],
        "own_names": names[: len(measured.split.own_concepts)],
        "visualization": pictures.copied(visualization) if visualization.is_file() else None,
        "finds_from_store": SOURCES.get(measured.file.source["name"]).finds_from_store,
        "map": pictures.copied(map_path, widest=WIDEST_MAP) if map_path.is_file() else None,
        "card": None if card is None else os.path.relpath(card, pictures.folder),
        "commands": _commands_of(measured, commands),
    }


def _figure_path(output_dir: Path | str, measured: MeasuredSplit, kind: str) -> Path:
    """The picture that stage 4 draws of a split, whether it exists or not."""
    stem = plot_path(output_dir, {"split": measured.path.stem, "rho": measured.rho}, kind)
    return stem.with_name(f"{stem.name}.png")


def _concept_rows(measured: MeasuredSplit, names: list[str], styles: list[str]) -> list[dict]:
    """A row for each concept: its name, the cosine of the closest other ARV, and how many inputs are its own."""
    cosines = cosine_similarities(measured.split.arvs).tolist()
    shares = measured.split.shares(measured.rho)
    return [
        {
            "number": k + 1,
            "name": name,
            "style": styles[k],
            "closest": max((cosines[k][j] for j in range(len(cosines)) if j != k), default=np.nan),
            "share": float(shares[k].sum()),
        }
        for k, name in enumerate(names)
    ]


def _commands_of(measured: MeasuredSplit, commands: Commands) -> dict[str, str]:
    """The commands that make a split again, and that measure or draw each of its results that a page shows."""
    measures = EVALUATION[measured.is_found :]
    return {
        "split": commands.split(measured),
        "evaluate": commands.evaluate(measured, *(f"--get_{measure}" for measure in measures)),
        **{shown: commands.evaluate(measured, f"--get_{shown}") for shown in SHOWN},
    }


def _separation_row(row: dict, styles: list[str]) -> dict:
    before = row[ORIGINAL.ap]
    after = row[NEW.ap]
    reference = null_precision(row)
    style = styles[row["concept"] - 1]
    return {
        **{name: row[name] for name in ("images", "name", "prevalence", "p_null", "q_null")},
        **{name: row[name] for name in ("irrelevant", "p_irrelevant", "q_irrelevant")},
        "before": before,
        "after": after,
        "reference": reference,
        "probe": row[PROBE.ap],
        "logit": row[OWN_LOGIT.ap],
        "pearson_before": row[ORIGINAL.pearson],
        "pearson": row[NEW.pearson],
        "auroc_before": row[ORIGINAL.auroc],
        "auroc": row[NEW.auroc],
        "reached": reached_by(row),
        "number": row["concept"],
        "null": primary_null(row).words,
        "style": style,
        "figure": None if np.isnan(after) else page_svg.before_after(before, after, reference, style),
    }


def _fractions(measured: MeasuredSplit, result: dict, names: list[str]) -> dict:
    """For the images of each concept: bars, densities, and whether the split is clean; of many concepts the largest."""
    all_styles = measured.styles()
    rows = result_rows(result)
    channels = shown_channels(result)
    drawn = dict(zip(shown_concepts(result), densities(result, GRID), strict=True))
    limits, _ = density_limits(list(drawn.values()))
    styles = [all_styles[k - 1] for k in channels]
    labels = [f"c'{k}" for k in channels]
    parts = []
    for k, (samples, (grid, curves)) in drawn.items():
        row = rows[k]
        bars = None
        if row.summary.counted:
            summary = row.summary.of([*(number - 1 for number in channels), -1])
            bars = page_svg.fractions(summary, [*labels, "r"], [*styles, "residual"])
        parts.append(
            {
                "name": names[k],
                "number": k + 1,
                "style": all_styles[k],
                "clean": row.clean,
                "bars": bars,
                "counted": row.summary.counted,
                "images": row.summary.images,
                "densities": page_svg.densities(samples, grid, curves, styles=["original", *styles], limits=limits),
            }
        )
    return {"tau": result["tau"], "parts": parts, "left_out": len(rows) - len(parts)}


def _effect(effect: dict, names: list[str]) -> dict:
    called = {**effect, "concept_names": names[: len(effect["concept_names"])]}
    return {"to": effect["to"], "rows": concept_rows(called), "background": effect["background"] is not None}


def _edit_row(row: dict, names: list[str]) -> dict:
    return {
        **row,
        "name": names[row["concept"] - 1],
        "words": METHODS.get(row["method"]).words,
        "strength_text": strength_text(row),
        **{f"{name}_text": selectivity_text(row[name], row[f"{name}_is_least"]) for name in SELECTIVITY.values()},
    }
