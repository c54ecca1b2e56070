"""Candidates: channels and their concepts that stages 3 and 4 are asked for, and stage 2's tables of them.

Stage 2 writes the pairs that it finds twice: the published table, for people and their scripts, and a JSON with a
checksum and all settings. The groups of a channel's classes are in another such JSON. People write text: a line
``channel: class[+class...], class[+class...], ...`` each, or a channel alone.
"""

import json
import re
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from utils.errors import UserError, printable
from utils.store.files import damage_is_one_line, read_bytes, read_json, write_bytes, write_json

CANDIDATES_FORMAT = 1
HEADER = "Channel,Class1,Class2,CosineSimilarity"
MOST_PAIRS = 100_000  # in a JSON; nobody splits more
TOKEN = re.compile(r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<sign>[:,;+#])|(?P<word>[^\s,:;+#"]+))')
COSINE = re.compile(r"-?[01]\.\d+|-?\d(\.\d+)?e-\d+")


@dataclass
class AskedCandidate:
    """A channel and the classes of each concept: an int is a network output, text is what somebody wrote.

    ``line`` says where it stands, or is None for flags.
    """

    channel: int
    concepts: list
    line: str | None = None


@dataclass
class AskedCandidates:
    """What is asked for, and the ``settings`` of stage 2 that it comes from, where they are known."""

    candidates: list
    settings: dict = field(default_factory=dict)


def pairs_path(output_dir, run, *, tau, p, cosines, only_correct, min_images, only_above_mean=False):
    """Path of stage 2's table, named after the settings that chose its pairs; ``cosines`` are the bounds."""
    low, high = cosines
    name = f"{run}_required{tau}_p{p}_cossim{low}to{high}"
    name += settings_suffix(only_correct, min_images, only_above_mean)
    return Path(output_dir) / "results_get_cosine_similarities" / f"{name}.txt"


def settings_suffix(only_correct, min_images, only_above_mean):
    """What names of stage 2's files say of the classes that count."""
    suffix = "_only_correct" if only_correct else ""
    suffix += f"_min{min_images}" if min_images > 1 else ""
    return suffix + ("_only_above_mean" if only_above_mean else "")


def write_pairs(path, pairs, names, settings):
    """Write ClassPairs as the published table, and as candidates with a checksum beside it; return the latter's path.

    ``names`` has the name of each output, ``settings`` all that stage 2 was asked. The JSON is not written (None) for
    more pairs than anybody splits.
    """
    rows = [f"{channel},{class1},{class2},{cosine:.6f}\n" for channel, class1, class2, cosine in pairs.rows()]
    write_bytes(path, "".join([HEADER, "\n", *rows]).encode())
    if len(pairs) > MOST_PAIRS:
        return None
    candidates = [
        {
            "channel": channel,
            "concepts": [[class1], [class2]],
            "names": [names(class1), names(class2)],
            "cosines": [[1.0, cosine], [cosine, 1.0]],
        }
        for channel, class1, class2, cosine in pairs.rows()
    ]
    return _write_candidates(path.with_suffix(".json"), settings, candidates)


def write_groups(path, groups, names, settings):
    """Write ChannelGroups as candidates beside the table of pairs, ``path``; ``names`` and ``settings`` as there.

    Channels with one group are left out. Returns the file's path, or None where no channel has two.
    """
    candidates = [
        {
            "channel": one.channel,
            "concepts": one.concepts,
            "names": [names(concept) for concept in one.concepts],
            "cosines": one.cosines.tolist(),
        }
        for one in groups
        if len(one.concepts) > 1
    ]
    path = _write_candidates(path.with_name(f"{path.stem}_groups.json"), settings, candidates)
    return path if candidates else None


def _write_candidates(path, settings, candidates):
    write_json(path, {"format": CANDIDATES_FORMAT, "settings": settings, "candidates": candidates})
    return path


def read_candidates(path):
    """Read ``--candidates``: stage 2's JSON or table, or text.

    Text: ``channel: class[+class...], class[+class...], ...``, or the words of the published table (channel, two
    classes, perhaps a cosine), or a channel alone, whose concepts come from elsewhere. Empty lines and what follows a
    ``#`` do not count. A class whose name has whitespace or any of ``,:;+#"`` is written as a JSON string.

    Returns
    -------
    AskedCandidates
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--candidates {path}: there is no such file")
    text = read_bytes(path).decode("utf-8-sig", errors="backslashreplace")
    if text.lstrip().startswith("{"):
        return _read_json(path)
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"--candidates {path}, line {number}"
        try:
            candidate = _parse(line)
        except ValueError as error:
            raise UserError(
                f"{where} is no 'channel: class, class' ({printable(line.strip()[:60])}): {error}"
            ) from error
        found += [AskedCandidate(*candidate, where)] if candidate else []
    if not found:
        raise UserError(f"--candidates {path}: there is no candidate in it")
    return AskedCandidates(found)


def _read_json(path):
    advice = "run get_cosine_similarities.py again"
    content = read_json(path, advice)
    with damage_is_one_line(path, advice):
        if content.get("format") != CANDIDATES_FORMAT:
            raise ValueError("it is of another version of this program")
        found = [AskedCandidate(one["channel"], one["concepts"], f"{path}") for one in content["candidates"]]
        numbers = chain.from_iterable([one.channel, *chain.from_iterable(one.concepts)] for one in found)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a channel or class is no whole number from 0")
        if not all(one.concepts and all(one.concepts) for one in found):
            raise ValueError("a candidate has a concept without classes")
    if not found:
        raise UserError(f"--candidates {path}: there is no candidate in it")
    return AskedCandidates(found, content["settings"])


def _tokens(line):
    """The signs, words and quoted names of a line, up to a comment."""
    at, line = 0, line.rstrip()
    while at < len(line):
        match = TOKEN.match(line, at)
        if match is None:
            raise ValueError("a quotation mark is not closed")
        if match["sign"] == "#":
            return
        yield match["sign"], json.loads(match["quoted"]) if match["quoted"] else match["word"]
        at = match.end()


def _parse(line):
    """(channel, concepts) of a line of text; None where it says nothing."""
    tokens = list(_tokens(line))
    if not tokens or line.strip() == HEADER:
        return None
    (_, first), *rest = tokens
    if first is None or not re.fullmatch(r"[0-9]{1,9}", first):
        raise ValueError("it does not begin with a channel")
    if rest and rest[0][0] == ":":
        return int(first), _concepts(rest[1:])
    if not rest:
        return int(first), []
    words = [word for sign, word in rest if sign is None]
    if any(sign not in (None, ",", ";") for sign, _ in rest) or len(words) not in (2, 3):
        raise ValueError("a channel and two classes are wanted")
    if len(words) == 3 and not COSINE.fullmatch(words[2]):
        raise ValueError("what follows the two classes is no cosine")
    return int(first), [[words[0]], [words[1]]]


def _concepts(tokens):
    """The concepts of ``class+class, class, ...``: names and signs take turns."""
    concepts, expected = [[]], "a class"
    for sign, word in tokens:
        if (sign is None) != (expected == "a class") or sign not in (None, ",", "+"):
            hint = "" if sign else " (a name of several words is written in quotation marks, or with _)"
            raise ValueError(f"{expected} is wanted where {sign or word!r} stands{hint}")
        if sign == ",":
            concepts.append([])
        elif sign is None:
            concepts[-1].append(word)
        expected = "a class" if sign else "a comma or +"
    if expected == "a class":
        raise ValueError("a class is missing at its end")
    return concepts
