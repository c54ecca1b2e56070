"""A miniature WordNet as nltk reads it."""

from types import SimpleNamespace

import nltk

# Hypernyms first; a toy dog is an animal and an artifact
NOUNS = {
    "entity": [],
    "animal": ["entity"],
    "dog": ["animal"],
    "cat": ["animal"],
    "artifact": ["entity"],
    "car": ["artifact"],
    "sports_car": ["car"],
    "toy_dog": ["dog", "artifact"],
}


def write_database(folder, version="3.0", nouns=NOUNS):
    """Write a WordNet of these nouns as nltk reads it; return the class folder that each is the id of."""
    corpus = folder / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for kind in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{kind}", f"index.{kind}", f"{kind}.exc"):
            (corpus / name).write_bytes(b"")
    (corpus / "index.sense").write_bytes(b"")
    (corpus / "data.adj").write_text(f"  1 WordNet {version} Copyright 2006 by nobody  \n")
    (corpus / "lexnames").write_text("".join(f"{i:02d}\t{name}\t1\n" for i, name in enumerate(["a", "b", "c", "d"])))
    data, index, offsets = "  1 A miniature  \n", "", {}
    for noun, hypernyms in nouns.items():
        offsets[noun] = len(data)
        pointers = "".join(f"@ {offsets[hypernym]:08d} n 0000 " for hypernym in hypernyms)
        data += f"{offsets[noun]:08d} 03 n 01 {noun} 0 {len(hypernyms):03d} {pointers}| a {noun}  \n"
        index += f"{noun} n 1 1 @ 1 0 {offsets[noun]:08d}  \n"
    (corpus / "data.noun").write_text(data)
    (corpus / "index.noun").write_text(index)
    return {noun: f"n{offset:08d}" for noun, offset in offsets.items()}


def install(folder, monkeypatch):
    """Write the miniature where nltk looks: its folder, that of the corpus, and the class folders of its nouns."""
    monkeypatch.setattr(nltk.data, "path", [str(folder / "nltk_data")])
    ids = write_database(folder / "nltk_data")
    return SimpleNamespace(folder=folder / "nltk_data", corpus=folder / "nltk_data/corpora/wordnet", ids=ids)
