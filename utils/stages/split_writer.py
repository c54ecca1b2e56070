"""Stage 3's files: which splits are there and equal, and what is written of a new one."""

from pathlib import Path

import torch

from utils.errors import UserError
from utils.store.files import number_text, split_suffix
from utils.store.manifests import describe_splits, manifest_path, read_manifest, write_manifest
from utils.store.splits import (
    SETTINGS,
    SPLIT_CONTEXT,
    SplitFile,
    digest_of,
    find_splits,
    read_split,
    split_path,
    write_split,
)


class SplitWriter:
    """Writes the splits of one run of stage 3, and knows which are there and equal.

    Parameters
    ----------
    store_dir : str
    run : str
    meta : dict
        Of the training store.
    settings : dict
        What stages 2 and 3 were asked, as far as it is known.
    divider : ByRho or ByLeastSquares
    background : float or None
        The weight of everything else as one more concept.
    """

    def __init__(self, store_dir, run, meta, settings, divider, background):
        self.folder, self.run = Path(store_dir) / "models_disentangled", run
        self.divider, self.background = divider, background
        self.context = {key: meta[key] for key in SPLIT_CONTEXT}
        self.settings = {key: settings.get(key) for key in SETTINGS}

    @property
    def suffix(self):
        """What follows the channel and its concepts in the names of these splits."""
        how = {"objective": self.divider.objective, "split_by": self.divider.split_by, "background": self.background}
        return split_suffix(only_correct=self.settings["only_correct"], **how)

    def path(self, candidate):
        return split_path(self.folder, self.run, candidate.channel, candidate.named_by, self.suffix)

    def selectors(self, candidates):
        """The flags with which stage 4 takes these splits, where others of the same channels and concepts are there."""
        several = any(len(find_splits(self.folder, self.run, one.channel, one.named_by)) > 1 for one in candidates)
        words = ["--split_by", self.divider.split_by]
        words += ["--background", number_text(self.background or 0)] if several or self.background else []
        if several:
            words += ["--only_correct" if self.settings["only_correct"] else "--no-only_correct"]
            words += ["--rho_objective", self.divider.objective] if self.divider.objective else []
        return words

    def is_there(self, candidate):
        """Whether the split is stored already, made of the same in the same way; says so."""
        try:
            file = read_split(self.path(candidate))
        except UserError:  # missing, damaged or of another version: it is made anew
            return False
        split, how = file.split, ("only_correct", "precision", "decoding", "batch_size")
        plain = (file.context, [file.settings[key] for key in how], digest_of(file.source), file.background)
        asked = (self.context, [self.settings[key] for key in how], digest_of(self._source(candidate)), self.background)
        plain += (split.split_by, split.objective, split.concepts, split.positions)
        asked += (self.divider.split_by, self.divider.objective, candidate.concepts, candidate.positions)
        equal = plain == asked and all(
            torch.equal(getattr(split, name), getattr(candidate, name)) for name in ("weight", "arvs", "mean_arv")
        )
        if equal:
            print(f"there already: {self.path(candidate)}")
            known = {key: value for key, value in self.settings.items() if value is not None}
            if file.settings != {**file.settings, **known}:  # thresholds of stage 2, which change nothing else
                file.settings |= known
                write_split(self.path(candidate), file)
        return equal

    def write(self, candidate, split, check):
        """Write a split, with its EqualityCheck: its path, and the SplitFile; UserError where it is not equal."""
        if not check.is_equal():
            raise UserError("the split network does not equal the original: the split was not stored")
        proof = described(check)
        file = SplitFile(split, self.context, self.settings, self.background, self._source(candidate), proof)
        write_split(self.path(candidate), file)
        return self.path(candidate), file

    def _source(self, candidate):
        """Where a candidate's concepts came from, and how its inputs are divided."""
        return {**candidate.source, **self.divider.source}

    def read_all(self, candidates):
        """The SplitFiles of candidates that were written: {Path: SplitFile}."""
        return {path: read_split(path) for path in map(self.path, candidates)}

    def make_a_layer(self, candidates):
        """Whether these candidates can be in one network: no channel twice."""
        return len({one.channel for one in candidates}) == len(candidates)

    def manifest_path(self, stem):
        return manifest_path(self.folder, self.run, stem, self.suffix)

    def layer_is_there(self, path, files):
        """Whether the manifest of these splits, as they are, is stored already; says so."""
        try:
            there = read_manifest(path) == describe_splits(files)
        except UserError:  # missing, damaged or of another version: it is made anew
            return False
        if there:
            print(f"there already: {path}")
        return there

    def write_layer(self, path, files, check):
        """Write the manifest of splits, with the EqualityCheck of all of them at once."""
        if not check.is_equal():
            raise UserError("the network with all splits at once does not equal the original: no manifest was stored")
        write_manifest(path, files, described(check))


def described(check):
    """An EqualityCheck as plain values."""
    return {
        "images": check.images,
        "changed_predictions": check.changed_predictions,
        "precision": check.precision,
        "errors": list(check.errors()),
        "fp32_errors": list(check.fp32_errors()),
    }
