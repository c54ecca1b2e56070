"""WordNet path similarity of pairs of classes (supplement, Fig. 4)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, spearmanr
from tqdm import tqdm

from utils.method.polysemanticity import ClassPairs

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import Synset  # nltk may be missing


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
