"""Candidates: the channels and concepts that stages 3 and 4 are asked to process, and stage 2's tables of them.

Stage 2 writes its pairs twice: as the published table, for people and their scripts, and as JSON with a checksum and
all settings. The groups of a channel's classes are in another JSON file of this kind. Users write text, one candidate
a line: ``channel: class[+class...], class[+class...], ...``, or a channel alone.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError, printable
from utils.method.grouping import ChannelGroups
from utils.method.polysemanticity import ClassPairs
from utils.store.files import damage_is_one_line, read_bytes, read_json, write_bytes, write_json

CANDIDATES_FORMAT = 1
HEADER = "Channel,Class1,Class2,CosineSimilarity"
CRITERIA = ("tau", "p", "only_correct", "min_images", "only_above_mean")  # settings that choose a channel's classes
STAGE_TWO_FOLDER = "results_get_cosine_similarities"  # in --output_dir
MOST_PAIRS = 100_000  # in a JSON file; more would not be split
TOKEN = re.compile(r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<sign>[:,;+#])|(?P<word>[^\s,:;+#"]+))')
COSINE = re.compile(r"-?[01]\.\d+|-?\d(\.\d+)?e-\d+")


@dataclass
class RequestedCandidate:
    """A channel and the classes of each concept: an int is a network output, text is what the user wrote.

    ``line`` is its file and line for messages, or None if it comes from flags.
    """

    channel: int
    concepts: list[list[int | str]]
    line: str | None = None


@dataclass
class RequestedCandidates:
    """The candidates of a file, and the ``settings`` of the stage 2 that found them, where they are known."""

    candidates: list[RequestedCandidate]
    settings: dict[str, Any] = field(default_factory=dict)


def pairs_path(
    output_dir: Path | str,
    run: str,
    *,
    tau: float,
    p: float,
    cosines: tuple[float, float],
    only_correct: bool,
    min_images: int,
    only_above_mean: bool = False,
) -> Path:
    """Path of stage 2's table, named after the settings that chose its pairs; ``cosines`` are the bounds."""
    low, high = cosines
    name = f"{run}_required{tau}_p{p}_cossim{low}to{high}"
    name += settings_suffix(only_correct, min_images, only_above_mean)
    return Path(output_dir) / STAGE_TWO_FOLDER / f"{name}.txt"


def settings_suffix(only_correct: bool, min_images: int, only_above_mean: bool) -> str:
    """Part of the names of stage 2's files: the settings that choose images and classes."""
    suffix = "_only_correct" if only_correct else ""
    suffix += f"_min{min_images}" if min_images > 1 else ""
    return suffix + ("_only_above_mean" if only_above_mean else "")


def write_pairs(path: Path, pairs: ClassPairs, name_of: Callable[[int], str], settings: dict[str, Any]) -> Path | None:
    """Write ClassPairs as the published table, and as candidates with a checksum next to it; return the latter's path.

    ``name_of`` gives the name of an output, ``settings`` are all settings of stage 2. More than ``MOST_PAIRS`` pairs
    are written as a table only, and None is returned.
    """
    rows = [f"{channel},{class1},{class2},{cosine:.6f}\n" for channel, class1, class2, cosine in pairs.rows()]
    write_bytes(path, "".join([HEADER, "\n", *rows]).encode())
    if len(pairs) > MOST_PAIRS:
        return None
    candidates = [
        {
            "channel": channel,
            "concepts": [[class1], [class2]],
            "names": [name_of(class1), name_of(class2)],
            "cosines": [[1.0, cosine], [cosine, 1.0]],
        }
        for channel, class1, class2, cosine in pairs.rows()
    ]
    return _write_candidates(path.with_suffix(".json"), settings, candidates)


def write_groups(
    path: Path, groups: Iterable[ChannelGroups], name_of: Callable[[list[int]], str], settings: dict[str, Any]
) -> Path | None:
    """Write ChannelGroups as candidates next to the table of pairs, ``path``; ``name_of`` gives the name of a concept.

    Channels with one group are left out. Returns the file's path, or None if no channel has two groups.
    """
    candidates = [
        {
            "channel": channel.channel,
            "concepts": channel.concepts,
            "names": [name_of(concept) for concept in channel.concepts],
            "cosines": channel.cosines.tolist(),
        }
        for channel in groups
        if len(channel.concepts) > 1
    ]
    path = _write_candidates(path.with_name(f"{path.stem}_groups.json"), settings, candidates)
    return path if candidates else None


def _write_candidates(path: Path, settings: dict[str, Any], candidates: list[dict[str, Any]]) -> Path:
    write_json(path, {"format": CANDIDATES_FORMAT, "settings": settings, "candidates": candidates})
    return path


def read_candidates(path: Path | str) -> RequestedCandidates:
    """Read ``--candidates``: stage 2's JSON or table, or text.

    A line of text is ``channel: class[+class...], class[+class...], ...``; or the words of the published table
    (channel, two classes, optionally a cosine); or a channel alone, whose concepts come from another source. Empty
    lines are ignored, and so is the rest of a line after a ``#``. A class whose name contains whitespace or any of
    ``,:;+#"`` is written as a JSON string.

    Raises
    ------
    UserError
        A file that is missing, damaged or without candidates; a line of text that is not a candidate.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--candidates {path}: there is no such file")
    text = read_bytes(path).decode("utf-8-sig", errors="backslashreplace")
    candidates = _read_json(path) if text.lstrip().startswith("{") else RequestedCandidates(_parse_lines(path, text))
    if not candidates.candidates:
        raise UserError(f"--candidates {path}: it has no candidates")
    return candidates


def _read_json(path: Path) -> RequestedCandidates:
    advice = "run get_cosine_similarities.py again"
    content = read_json(path, advice)
    with damage_is_one_line(path, advice):
        if content.get("format") != CANDIDATES_FORMAT:
            raise ValueError("it is of another version of this program")
    entries = content["candidates"]
    candidates = [RequestedCandidate(entry["channel"], entry["concepts"], str(path)) for entry in entries]
    return RequestedCandidates(candidates, content["settings"])


def _parse_lines(path: Path, text: str) -> list[RequestedCandidate]:
    candidates = []
    for number, line in enumerate(text.splitlines(), start=1):
        source = f"--candidates {path}, line {number}"
        try:
            candidate = _parse(line)
        except ValueError as error:
            shown = printable(line.strip()[:60])
            raise UserError(f"{source} is not of the form 'channel: class, class' ({shown}): {error}") from error
        if candidate is not None:
            candidates.append(RequestedCandidate(*candidate, source))
    return candidates


def _tokens(line: str) -> Iterator[tuple[str, str]]:
    """(sign, "") or ("", word) for each token of a line up to a comment; a quoted name is a word."""
    line = line.rstrip()
    position = 0
    while position < len(line):
        match = TOKEN.match(line, position)
        if match is None:
            raise ValueError("a quotation mark is not closed")
        if match["sign"] == "#":
            return
        word = json.loads(match["quoted"]) if match["quoted"] else match["word"]
        yield match["sign"] or "", word or ""
        position = match.end()


def _parse(line: str) -> tuple[int, list[list[int | str]]] | None:
    """(channel, concepts) of a line of text; None if the line is empty, a comment or the table's header."""
    tokens = list(_tokens(line))
    if not tokens or line.strip() == HEADER:
        return None
    (_, first), *rest = tokens
    if not re.fullmatch(r"[0-9]{1,9}", first):
        raise ValueError("it does not begin with a channel")
    if rest and rest[0][0] == ":":
        return int(first), _concepts(rest[1:])
    if not rest:
        return int(first), []
    words = [word for sign, word in rest if not sign]
    if any(sign not in ("", ",", ";") for sign, _ in rest) or len(words) not in (2, 3):
        raise ValueError("a channel and two classes are expected")
    if len(words) == 3 and not COSINE.fullmatch(words[2]):
        raise ValueError("after the two classes there may only be a cosine")
    return int(first), [[words[0]], [words[1]]]


def _concepts(tokens: Iterable[tuple[str, str]]) -> list[list[int | str]]:
    """The concepts of ``class+class, class, ...``, in which names and signs alternate."""
    concepts: list[list[int | str]] = [[]]
    expected = "a class"
    for sign, word in tokens:
        if (not sign) != (expected == "a class") or sign not in ("", ",", "+"):
            hint = "" if sign else " (write a name of several words in quotation marks, or with _)"
            raise ValueError(f"{expected} is expected in place of {sign or word!r}{hint}")
        if sign == ",":
            concepts.append([])
        elif not sign:
            concepts[-1].append(word)
        expected = "a class" if sign else "a comma or +"
    if expected == "a class":
        raise ValueError("a class is missing at its end")
    return concepts
