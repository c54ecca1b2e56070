"""The content of a split's map, in words and pictures."""

import numpy as np

from utils.concept_sources.source_registry import SOURCES
from utils.report.image_set_text import NOTE, ScoredSplit, count_in_words, score_in_words
from utils.report.map_figure import LEFT_OUT, OTHERS, MapPage, counted
from utils.report.name_text import shown_names
from utils.stages.circuit_map import CircuitMap, MapReader
from utils.stages.image_set_nulls import ImageSetScores
from utils.store.opened_splits import OpenedSplit


def map_page(
    opened: OpenedSplit,
    run: str,
    circuit_map: CircuitMap,
    reader: MapReader,
    *,
    scores: ImageSetScores | None,
    note: str | None,
) -> MapPage:
    """The MapPage of a split.

    Parameters
    ----------
    opened, run, circuit_map, reader
    scores
        Of concepts without labels beside permuted weights, or None.
    note
        What is shown instead of patches, or None.
    """
    split = opened.file.split
    source = SOURCES.get(opened.file.source["name"])
    concepts = circuit_map.images.concepts.numpy()
    groups = np.full(len(concepts), OTHERS)
    for group, k in enumerate(circuit_map.shown):
        groups[concepts == k] = group
    groups[concepts < 0] = LEFT_OUT
    indices = circuit_map.images.indices
    flat = [image for row in circuit_map.rows for image in row]
    patches = iter(reader.patches(split.channel, indices[flat].tolist()))
    beside_nulls = "; ".join(
        filter(None, [count_in_words([ScoredSplit.of(opened.file, scores)]), NOTE if scores is not None else ""])
    )
    names = shown_names([concept.name for concept in split.own_concepts], scores)
    notes = (_grey_images(groups, concepts), source.map_note, note, beside_nulls)
    return MapPage(
        title=f"Channel {split.channel}: {len(indices)} {source.map_words}",
        subtitle=f"{run}, layer {opened.file.context['layer']}; dots and pictures are images in the colour of their "
        "concept; right: patches in which the channel is strongest",
        scores=circuit_map.scores.numpy(),
        shares=circuit_map.shares.numpy(),
        concepts=groups,
        pictures=dict(zip(circuit_map.pictured, reader.pictures(indices[circuit_map.pictured]), strict=True)),
        numbers=[k + 1 for k in circuit_map.shown],
        names=[names[k].heading for k in circuit_map.shown],
        name_notes=[names[k].note for k in circuit_map.shown],
        sizes=[int((concepts == k).sum()) for k in circuit_map.shown],
        stands_out=["" if scores is None else score_in_words(scores, k) for k in circuit_map.shown],
        patches=[[next(patches) for _ in row] for row in circuit_map.rows],
        notes=[line for line in notes if line],
    )


def _grey_images(groups: np.ndarray, concepts: np.ndarray) -> str:
    """The meaning of grey images on the map; empty if there are none."""
    others = (groups == OTHERS).sum()
    dropped = (groups == LEFT_OUT).sum()
    smaller = len(np.unique(concepts[groups == OTHERS]))
    parts = [f"grey: {counted(others)} of {smaller} smaller concept{'s' if smaller > 1 else ''}"] if others else []
    parts += [f"pale: {counted(dropped)} of no concept"] if dropped else []
    return "; ".join(parts)
