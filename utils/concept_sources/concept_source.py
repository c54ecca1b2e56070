"""The contract of a source of concepts: how it finds those of a channel, and which new images are theirs.

A new source is a subclass of ``ConceptSource``, or of ``ImageSets`` where its concepts are sets of images, in a file of
its own beside this one, and a line in ``registry.py``. Stages, tables, figures and pages ask it for all that differs
from one source to another. The file is imported by ``--help``: what takes time to import it names by ``later``.
"""

from abc import ABC, abstractmethod


class ConceptSource(ABC):
    """Where the concepts of channels come from. An instance has the settings with which they are looked for.

    Class attributes
    ----------------
    name : str
        In the registry, ``--concepts_from`` and files.
    words : str
        In headings, after "concepts from" and "by".
    split_words : str
        In the table of a comparison, after "split by".
    summary : str
        What ``--help`` says of it; empty for one that stage 3 does not offer.
    flags : tuple of Flag
        Its own, for stage 3.
    labelled : bool
        Whether its concepts are classes that somebody names; else it finds them for a channel alone.
    needs_labels, needs_images : bool
        Whether it needs labels, and a pass of the network over images; all else it has from the stores.
    usual_background : float or None
        The weight of everything else as one more concept where nobody gives one; None: as the division has it.
    map_words, map_note : str
        Which images a channel's map shows, for its title and below it.
    """

    name = words = split_words = summary = ""
    flags = ()
    labelled = needs_labels = needs_images = False
    usual_background = None
    map_words = map_note = ""

    # ------------------------------------------------------------------------------------------------------- stage 3

    @classmethod
    @abstractmethod
    def from_given(cls, given, study):
        """The source with the values of its flags that were ``given`` ({setting: value}), for a Study."""

    @abstractmethod
    def maker(self, study, channels):
        """A CandidateMaker for some channels: finds their concepts."""

    def manifest_stem(self, candidates_path, channels):
        """What the manifest of all splits of a run is named after; None where these are no layer.

        Parameters
        ----------
        candidates_path : Path or None
            Of ``--candidates``.
        channels : list of int
            That were named beside it, or instead.
        """
        return candidates_path.stem if candidates_path is not None and not channels else None

    # ------------------------------------------------------------------------------------------------------- stage 4

    @classmethod
    def assigned(cls, opened, store, study):
        """The validation images of the concepts of splits: {key of an image set: LongTensor of indices, ascending}.

        Parameters
        ----------
        opened : list of OpenedSplit
            By this source.
        store : ImportanceStore
            Of validation images, complete.
        study : Study
        """
        return {}

    @classmethod
    @abstractmethod
    def map_images(cls, opened, study):
        """A function of one of some OpenedSplits, by this source, that returns the MapImages of its map."""

    @classmethod
    def assignment(cls, state):
        """Which validation images the concepts of a split have, in words; None where labels say it."""
        return None

    # ---------------------------------------------------------------------------------------------------- comparison

    @classmethod
    def defaults(cls):
        """Its default settings as plain values, which a comparison depends on; None where there are none."""
        return None

    @classmethod
    @abstractmethod
    def finder(cls, comparison):
        """What finds the concepts of the Cases of a Comparison: an object with ``sets(case, unit=0, number=None)``."""

    @classmethod
    def own_units(cls):
        """Units that it has besides those of a split: {name in the table: (words, what makes Units of a finder)}."""
        return {}

    # ---------------------------------------------------------------------------------------------------- what is said

    @classmethod
    def settings_words(cls, state):
        """The settings of a split's ``state`` in words, a list."""
        names = {flag.name: flag.name.replace("_", " ") for flag in cls.flags}
        return [f"{words} {state[name]}" for name, words in names.items() if state.get(name) is not None]

    @classmethod
    def flag_words(cls, state):
        """The settings of a split's ``state`` as flags, with which stage 3 finds the same concepts again."""
        found = []
        for flag in cls.flags:
            found += [f"--{flag.name}", state[flag.name]] if state.get(flag.name) is not None else []
        return found
