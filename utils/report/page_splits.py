"""What the report says of each split of a channel: from the split file, and from what stage 4 has measured of it."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import USUAL_OF_LAYERS
from utils.method.polysemanticity import cosine_similarities
from utils.report import page_svg
from utils.report.effect_tables import concept_rows
from utils.report.figure_files import plot_path
from utils.report.plots import density_limits
from utils.report.result_tables import result_rows
from utils.report.separation_tables import draws_reached
from utils.report.split_figures import densities, shown_channels, shown_concepts
from utils.report.verdicts import is_beyond, primary_null
from utils.store.files import number_text
from utils.store.scores import NEW, ORIGINAL, OWN_LOGIT, unit_of
from utils.store.separations import newest_rows
from utils.store.splits import SplitFile

GRID = 24  # points of a density; drawings are small
EVALUATION = ("separation", "quantitative", "effect")  # the first where concepts have labels
# A channel's groups first, then pairs, then what somebody chose, then concepts without labels
ORDER = {"groups": 0, "pair": 1, "own choice": 2, "images": 3}


@dataclass
class KnownSplit:
    """A split file; ``kind`` says what its concepts are. ``separation`` has its rows, ``result`` its fractions,
    ``effects`` what it does behind the layer: None or empty where that was not measured."""

    path: Path
    file: SplitFile
    kind: str
    separation: list | None
    result: dict | None
    effects: list

    @property
    def split(self):
        return self.file.split

    @property
    def how(self):
        """How its inputs are divided, in words."""
        how = self.split.division.report_words_at(self.rho)
        weight = self.file.background
        beside = "" if weight is None else ", beside everything else"
        beside += "" if weight in (None, 1) else f" (weight {number_text(weight)})"
        how = f"by {SOURCES.get(self.file.source['name']).words}, {how}" if self.kind == "images" else how
        return f"{how}{beside}, {'only correctly classified' if self.file.settings['only_correct'] else 'all'} images"

    @property
    def rho(self):
        return self.split.rho if self.result is None else self.result["rho"]

    def labels(self):
        """Names of ``c'_1 .. c'_K``, in the order of the split's rows."""
        return [f"c'{k}, for {concept.name}" for k, concept in enumerate(self.split.concepts, start=1)]

    def styles(self):
        """Style classes of ``c'_1 .. c'_K``."""
        own = [page_svg.style_of(k) for k in range(len(self.split.own_concepts))]
        return [*own, "rest"] if self.split.has_background else own

    def concept_of(self):
        """Which concept, from 0, a class is of: {output: k}."""
        return {output: k for k, concept in enumerate(self.split.classes) for output in concept}


class Measured:
    """All that stage 4 has measured, by split.

    Parameters
    ----------
    results : Results
    separations : Separations
    effects : Effects
    tau : float
        Of the fractions that are shown, where they were measured for several.
    """

    def __init__(self, results, separations, effects, tau):
        self.separations = separations.read_all()
        self._rows, self._results, self._effects = {}, {}, {}
        for _, row in newest_rows(self.separations):
            self._rows.setdefault(row["split"], []).append(row)
        for result in sorted(results.read_all(), key=lambda one: (one["tau"] == tau, one["evaluation"])):
            self._results[result["split"]] = result
        for effect in effects.read_all():
            self._effects.setdefault(effect["split"], []).append(effect)
        self.stale = sorted({*results.stale, *separations.stale, *effects.stale})

    def known(self, path, file, kind):
        """A KnownSplit with what was measured of it."""
        name = path.stem
        rows = sorted(self._rows.get(name, ()), key=lambda row: row["concept"])
        return KnownSplit(path, file, kind, rows or None, self._results.get(name), self._effects.get(name, []))


def kind_of(file, groups, pairs):
    """What a split's concepts are: the groups of its channel, a pair of its classes, somebody's own choice, or sets of
    images without labels.

    Parameters
    ----------
    file : SplitFile
    groups : list of lists of outputs
    pairs : set of (class1, class2)
        Under gamma.
    """
    concepts = file.split.classes
    if not all(concepts):
        return "images"
    if len(concepts) > 1 and sorted(concepts) == sorted(groups):
        return "groups"
    single = tuple(sorted(concept[0] for concept in concepts if len(concept) == 1))
    return "pair" if len(concepts) == 2 and single in pairs else "own choice"


def in_order(splits, only_correct, split_by):
    """The splits of a channel, the one first that its page shows.

    Those of its groups come first, made of the images that stage 2 has counted, and of these those divided as a report
    asks for, or by ``split_by``.
    """

    def key(one):
        asked = one.split.division.name != (split_by or USUAL_OF_LAYERS)
        return ORDER[one.kind], one.file.settings["only_correct"] != only_correct, asked, one.path.name

    return sorted(splits, key=key)


def describe_split(known, output_dir, commands, pictures):
    """What a page says of a KnownSplit, for its template.

    Parameters
    ----------
    known : KnownSplit
    output_dir : Path
    commands : Commands
    pictures : Pictures
        Copies figures into the report.
    """
    split, path = known.split, known.path
    cosines = cosine_similarities(split.arvs).tolist()
    at = {"split": path.stem, "rho": known.rho}
    visualization, card = (plot_path(output_dir, at, what) for what in ("visualization", "card"))
    visualization, card = (stem.with_name(f"{stem.name}.png") for stem in (visualization, card))
    styles = known.styles()
    return {
        "file": path.name,
        "kind": known.kind,
        "how": known.how,
        "concepts": [
            {
                "number": k + 1,
                "name": concept.name,
                "style": styles[k],
                "closest": max((cosines[k][j] for j in range(len(cosines)) if j != k), default=np.nan),
                "share": float(split.shares(known.rho)[k].sum()),
            }
            for k, concept in enumerate(split.concepts)
        ],
        "inputs": len(split.weight),
        "assignment": known.result["assignment"] if known.result else None,
        "separation": [_separation_row(row, styles) for row in known.separation or ()],
        "fractions": _fractions(known) if known.result else None,
        "effects": [_effect(effect) for effect in known.effects],
        "own_names": [concept.name for concept in split.own_concepts],
        "visualization": pictures.copied(visualization) if visualization.is_file() else None,
        "card": os.path.relpath(card, pictures.folder) if card.is_file() else None,
        "commands": {
            "split": commands.split(known),
            "evaluate": commands.evaluate(path, *(f"--get_{wish}" for wish in EVALUATION[known.kind == "images" :])),
            **{wish: commands.evaluate(path, f"--get_{wish}") for wish in
               ("separation", "quantitative", "effect", "feature_visualization", "channel_card")},
        },
    }  # fmt: skip


def _separation_row(row, styles):
    null = primary_null(row)
    reference = unit_of(null).ap
    values = {name: row[name] for name in ("images", "name", "prevalence", "p_irrelevant", "q_irrelevant")}
    values |= {"before": row[ORIGINAL.ap], "after": row[NEW.ap], "reference": row[reference]}
    values |= {"auroc_before": row[ORIGINAL.auroc], "auroc": row[NEW.auroc], "logit": row[OWN_LOGIT.ap]}
    values |= {"reached": draws_reached(row)[null.draws_column], "beyond": is_beyond(row), "number": row["concept"]}
    values["null"] = null.short
    style = styles[row["concept"] - 1]
    figure = None if np.isnan(row[NEW.ap]) else page_svg.before_after(
        row[ORIGINAL.ap], row[NEW.ap], row[reference], style)  # fmt: skip
    return {**values, "style": style, "figure": figure}


def _fractions(known):
    """For the images of each concept: bars, densities, and whether the split is clean; of many concepts the largest."""
    result, own = known.result, known.styles()
    rows, channels = result_rows(result), shown_channels(result)
    drawn = dict(zip(shown_concepts(result), densities(result, GRID), strict=True))
    limits, _ = density_limits(list(drawn.values()))
    styles, labels = [own[k - 1] for k in channels], [f"c'{k}" for k in channels]
    parts = []
    for k, (samples, (grid, curves)) in drawn.items():
        row, bars = rows[k], None
        if row.summary.counted:
            summary = row.summary.of([*(number - 1 for number in channels), -1])
            bars = page_svg.fractions(summary, [*labels, "r"], [*styles, "residual"])
        values = {"name": row.name, "number": k + 1, "style": own[k], "clean": row.clean, "bars": bars}
        values |= {"counted": row.summary.counted, "images": row.summary.images}
        values["densities"] = page_svg.densities(samples, grid, curves, ["original", *styles], limits)
        parts.append(values)
    return {"tau": result["tau"], "parts": parts, "left_out": len(rows) - len(parts)}


def _effect(effect):
    rows = concept_rows(effect)
    return {"to": effect["to"], "rows": rows, "background": effect["background"] is not None}
