"""What a split's map shows, in words and pictures."""

import numpy as np

from utils.concept_sources.source_registry import SOURCES
from utils.report.map_figure import LEFT_OUT, OTHERS, MapPage, counted


def map_page(opened, run, found, reader, note):
    """The MapPage of a split.

    Parameters
    ----------
    opened : OpenedSplit
    run : str
    found : CircuitMap
    reader : MapReader
    note : str or None
        What is shown in place of patches.
    """
    file, split, concepts = opened.file, opened.file.split, found.images.concepts.numpy()
    source = SOURCES.get(file.source["name"])
    places = np.full(len(concepts), OTHERS)
    for place, k in enumerate(found.shown):
        places[concepts == k] = place
    places[concepts < 0] = LEFT_OUT
    indices = found.images.indices
    flat = [image for row in found.rows for image in row]
    patches = iter(reader.patches(split.channel, indices[flat]))
    return MapPage(
        title=f"Channel {split.channel}: {len(indices)} {source.map_words}",
        subtitle=f"{run}, layer {file.context['layer']}; dots and pictures are images in the colour of their concept, "
        "beside them the patches in which the channel is strongest",
        scores=found.scores.numpy(),
        shares=found.shares.numpy(),
        concepts=places,
        pictures=dict(zip(found.pictured, reader.pictures(indices[found.pictured]), strict=True)),
        numbers=[k + 1 for k in found.shown],
        names=[split.own_concepts[k].name for k in found.shown],
        sizes=[int((concepts == k).sum()) for k in found.shown],
        patches=[[next(patches) for _ in row] for row in found.rows],
        notes=[line for line in (_grey(places, concepts), source.map_note, note) if line],
    )


def _grey(places, concepts):
    """What is grey on the map; empty where nothing is."""
    others, dropped = (places == OTHERS).sum(), (places == LEFT_OUT).sum()
    smaller = len(np.unique(concepts[places == OTHERS]))
    parts = [f"grey: {counted(others)} of {smaller} smaller concept{'s' if smaller > 1 else ''}"] if others else []
    parts += [f"pale: {counted(dropped)} of no concept"] if dropped else []
    return "; ".join(parts)
