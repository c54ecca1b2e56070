"""Names of files."""

import hashlib
import json
import re


def run_name(model, layer_flag):
    """RUN: the model's name, and the layer's where it is not ``last_conv``, fit for a file name."""
    name = model if layer_flag == "last_conv" else f"{model}_{layer_flag}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def split_name(run, channel, concepts):
    """Name of a channel and its concepts: ``RUN_channel1660_530_938``; classes of one concept joined by ``-``.

    ``concepts`` are lists of outputs; or, where they have no labels, what ``image_sets_name`` makes of them.
    """
    if isinstance(concepts, str):
        return f"{run}_channel{channel}_{concepts}"
    classes = "_".join("-".join(map(str, concept)) for concept in concepts)
    if len(classes) > 100:
        classes = f"{len(concepts)}concepts_{hashlib.sha256(classes.encode()).hexdigest()[:16]}"
    return f"{run}_channel{channel}_{classes}"


def image_sets_name(method, *what):
    """Name of concepts without labels: ``circuits_5f0c...``, with a digest of all (plain values) that makes others."""
    return f"{method}_{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}"


SUFFIXES = r"(_only_correct)?(_absolute|_contrast)?(_least_squares)?(_background[0-9.e+-]*)?"


def split_suffix(*, only_correct, objective, split_by, background):
    """What follows in the name of a split: everything that makes another split of the same channel and concepts.

    ``objective`` means nothing to least squares; ``background`` is a weight, or None without one.
    """
    suffix = "_only_correct" if only_correct else ""
    suffix += f"_{objective}" if objective != "positive" and split_by == "arv" else ""
    suffix += f"_{split_by}" if split_by != "arv" else ""
    if background is None:
        return suffix
    return f"{suffix}_background" + ("" if background == 1 else number_text(background))


def number_text(value):
    """A number as short as it can be written without another one: 1 for 1.0."""
    return str(value).removesuffix(".0")
