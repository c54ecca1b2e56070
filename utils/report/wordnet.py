"""WordNet path similarity of classes whose folders are WordNet ids (supplement, Fig. 4), read with nltk."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, spearmanr
from tqdm import tqdm

from utils.errors import UserError
from utils.method.polysemanticity import ClassPairs
from utils.store.files import damage_is_one_line

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import Synset  # nltk may be missing

DOWNLOAD_SECONDS = 60
HOW_TO_GET_IT = "python -m nltk.downloader wordnet (or set NLTK_DATA to the nltk_data folder that holds it)"
AGAIN = f"delete it and get it again with {HOW_TO_GET_IT}"


def class_synsets(classes: dict[str, int]) -> dict[int, Synset]:
    """The WordNet 3.0 noun that each class's folder is named by.

    The corpus is looked for where nltk looks, and downloaded by nltk where it is missing.

    Parameters
    ----------
    classes
        The output of each folder; folders such as ``n02124075``: a noun and its offset.

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
            raise UserError(f"--plot_wordnet: class folder {folder!r} is no WordNet id such as n02124075")
    try:
        from nltk.corpus.reader import WordNetCorpusReader
    except ImportError as error:
        raise UserError("--plot_wordnet needs nltk: pip install nltk") from error
    corpus = _find_corpus() or _download_corpus()
    with damage_is_one_line(corpus, AGAIN):
        reader = WordNetCorpusReader(corpus, None)
        if reader.get_version() != "3.0":
            raise ValueError(f"it is WordNet {reader.get_version()}, not 3.0")
        synsets = {folder: reader.synset_from_pos_and_offset("n", int(folder[1:])) for folder in classes}
        for synset in filter(None, synsets.values()):
            synset.max_depth()  # reads all synsets up to the root, so that damage is found now
    unknown = [folder for folder, synset in synsets.items() if synset is None]
    if unknown:
        raise UserError(f"--plot_wordnet: class folder {unknown[0]} is no noun of the WordNet 3.0 in {corpus}")
    return {classes[folder]: synset for folder, synset in synsets.items()}


def _find_corpus() -> Any:
    """The path of WordNet in nltk's data, unpacked or in a zip file; None if it is missing."""
    import nltk

    for name in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        with damage_is_one_line("corpora/wordnet.zip of nltk's data", AGAIN), suppress(LookupError):
            return nltk.data.find(name)
    return None


def _download_corpus() -> Any:
    """Let nltk download WordNet to where it looks for it; UserError if that fails.

    In a separate process: nltk waits for minutes when a firewall blocks it, and it prints errors even in quiet mode.
    """
    print(f"nltk has no WordNet corpus: downloading it (10 MB, at most {DOWNLOAD_SECONDS} s)", file=sys.stderr)
    command = [sys.executable, "-m", "nltk.downloader", "-q", "wordnet"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DOWNLOAD_SECONDS)
    corpus = _find_corpus()
    if corpus is None:
        raise UserError(
            f"--plot_wordnet: nltk finds no WordNet corpus and cannot download it; get it with {HOW_TO_GET_IT}"
        )
    return corpus


def path_similarities(pairs: ClassPairs, synsets: dict[int, Synset]) -> list[float]:
    """Path similarity, 1 / (1 + length of the shortest path between two synsets), of the classes of each pair.

    Parameters
    ----------
    pairs
    synsets
        The synset of each class's output.
    """
    similarity = cache(lambda class1, class2: synsets[class1].path_similarity(synsets[class2]))
    return [
        similarity(*pair[1:3])
        for pair in tqdm(pairs.rows(), total=len(pairs), desc="WordNet paths", unit=" pairs", delay=2)
    ]


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation; None for fewer than three points, or if either is constant."""
    if np.size(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def most_surprising(pairs: ClassPairs, similarities: list[float], count: int = 3) -> list[list[int]]:
    """Pairs of high cosine that are far apart in WordNet, and of low cosine that are close; each two classes once.

    High and low, far and close mean above and below the medians of all pairs.

    Parameters
    ----------
    pairs
    similarities
    count
        The number of pairs of either kind.

    Returns
    -------
    high, low : lists of int
        Positions in ``pairs``, the largest difference of the two ranks first; at most ``count`` each.
    """
    cosines = pairs.cosine.numpy()
    similar = np.array(similarities)
    difference = rankdata(cosines) - rankdata(similar)
    high = (cosines > np.median(cosines)) & (similar < np.median(similar))
    low = (cosines < np.median(cosines)) & (similar > np.median(similar))
    order = np.argsort(-difference, kind="stable")
    classes = list(zip(pairs.class1.tolist(), pairs.class2.tolist(), strict=True))
    chosen = []
    for positions in (order[high[order]], order[::-1][low[order[::-1]]]):
        distinct: dict[tuple[int, int], int] = {}
        for position in positions.tolist():
            distinct.setdefault(classes[position], position)
        chosen.append(list(distinct.values())[:count])
    return chosen
