"""WordNet: the synsets of classes whose folders are WordNet ids, and the synsets above them, read with nltk."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from utils.errors import UserError
from utils.store.files import damage_is_one_line

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import Synset  # nltk may be missing

DOWNLOAD_SECONDS = 60
HOW_TO_GET_IT = "python -m nltk.downloader wordnet (or set NLTK_DATA to the nltk_data folder that holds it)"
AGAIN = f"delete it and get it again with {HOW_TO_GET_IT}"


def class_synsets(classes: dict[str, int], *, needed_by: str, may_download: bool) -> dict[int, Synset]:
    """The WordNet 3.0 noun that each class's folder is named by.

    Parameters
    ----------
    classes
        The output of each folder; folders such as ``n02124075``: a noun and its offset.
    needed_by
        What needs WordNet, the beginning of each message.
    may_download
        Whether nltk downloads a corpus that is not where it looks.

    Returns
    -------
    dict
        The synset of each output.

    Raises
    ------
    UserError
        A folder is not a WordNet id, nltk or the corpus is missing, or the corpus is damaged.
    """
    for folder in classes:
        if not re.fullmatch(r"n[0-9]{8}", folder):
            raise UserError(f"{needed_by}: class folder {folder!r} is no WordNet id such as n02124075")
    try:
        from nltk.corpus.reader import WordNetCorpusReader
    except ImportError as error:
        raise UserError(f"{needed_by}: it needs nltk: pip install nltk") from error
    corpus = _find_corpus()
    if corpus is None and may_download:
        _download_corpus()
        corpus = _find_corpus()
    if corpus is None:
        tried = " and cannot download it" if may_download else ""
        raise UserError(f"{needed_by}: nltk finds no WordNet corpus{tried}; get it with {HOW_TO_GET_IT}")
    with damage_is_one_line(corpus, AGAIN):
        reader = WordNetCorpusReader(corpus, None)
        if reader.get_version() != "3.0":
            raise ValueError(f"it is WordNet {reader.get_version()}, not 3.0")
        synsets = {folder: reader.synset_from_pos_and_offset("n", int(folder[1:])) for folder in classes}
        for synset in filter(None, synsets.values()):
            synset.max_depth()  # reads all synsets up to the root, so that damage is found now
    unknown = [folder for folder, synset in synsets.items() if synset is None]
    if unknown:
        raise UserError(f"{needed_by}: class folder {unknown[0]} is no noun of the WordNet 3.0 in {corpus}")
    return {classes[folder]: synset for folder, synset in synsets.items()}


def _find_corpus() -> Any:
    """The path of WordNet in nltk's data, unpacked or in a zip file; None if it is missing."""
    import nltk

    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        with damage_is_one_line("corpora/wordnet.zip of nltk's data", AGAIN), suppress(LookupError):
            return nltk.data.find(name)
    return None


def _download_corpus() -> None:
    """Let nltk download WordNet to where it looks for it, if it can.

    In a separate process: nltk waits for minutes when a firewall blocks it, and it prints errors even in quiet mode.
    """
    print(f"nltk has no WordNet corpus: downloading it (10 MB, at most {DOWNLOAD_SECONDS} s)", file=sys.stderr)
    command = [sys.executable, "-m", "nltk.downloader", "-q", "wordnet"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DOWNLOAD_SECONDS)


class NamedClasses(NamedTuple):
    """A name, and the classes that it means, as outputs."""

    name: str
    outputs: frozenset[int]


def classes_below(synsets: dict[int, Synset]) -> list[NamedClasses]:
    """The synsets above classes, with the classes below each: those of several classes, the fewest classes first.

    Of synsets with the same classes only the lowest counts, the one of the longest path to the root: it is the most
    specific.

    Parameters
    ----------
    synsets
        The synset of each output.
    """
    below: dict[Synset, set[int]] = {}
    for output, synset in synsets.items():
        for above in {step for path in synset.hypernym_paths() for step in path}:
            below.setdefault(above, set()).add(output)
    lowest: dict[frozenset[int], Synset] = {}
    for synset in sorted(below, key=lambda synset: (synset.max_depth(), synset.name())):
        lowest[frozenset(below[synset])] = synset
    several = [
        NamedClasses(synset.lemma_names()[0].replace("_", " "), outputs)
        for outputs, synset in lowest.items()
        if len(outputs) > 1
    ]
    return sorted(several, key=lambda named: (len(named.outputs), sorted(named.outputs)))
