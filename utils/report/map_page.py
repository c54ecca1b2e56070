"""What a split's map shows, in words and pictures."""

import numpy as np

from utils.report.map_figure import LEFT_OUT, OTHERS, MapPage, counted

WHAT = {
    "classes": "training images of its concepts, by their circuits",
    "circuits": "training images of largest spatial sum, by their circuits",
    "pure": "training images of largest maximum over space, by PURE's circuits",
    "concept_vectors": "training images of largest spatial sum, by the spatial means of all channels of the layer",
}


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
    places = np.full(len(concepts), OTHERS)
    for place, k in enumerate(found.shown):
        places[concepts == k] = place
    places[concepts < 0] = LEFT_OUT
    indices = found.images.indices
    flat = [image for row in found.rows for image in row]
    patches = iter(reader.patches(split.channel, indices[flat]))
    return MapPage(
        title=f"Channel {split.channel}: {len(indices)} {WHAT[file.source['from']]}",
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
        notes=[line for line in (_grey(places, concepts), _which(file.source["from"]), note) if line],
    )


def _grey(places, concepts):
    """What is grey on the map; empty where nothing is."""
    others, dropped = (places == OTHERS).sum(), (places == LEFT_OUT).sum()
    smaller = len(np.unique(concepts[places == OTHERS]))
    parts = [f"grey: {counted(others)} of {smaller} smaller concept{'s' if smaller > 1 else ''}"] if others else []
    parts += [f"pale: {counted(dropped)} of no concept"] if dropped else []
    return "; ".join(parts)


def _which(origin):
    """Which images of concepts that are classes are shown; empty where the title says it."""
    return "of each concept the images in which the channel's spatial sum is largest" if origin == "classes" else ""
