"""The contract of a source of concepts: how it finds those of a channel, and which new images are theirs.

A new source is a subclass of ``ConceptSource``, or of ``ImageSets`` where its concepts are sets of images, in a file of
its own beside this one, and a line in ``registry.py``. Stages, tables, figures and pages ask it for all that differs
from one source to another. The file is imported by ``--help``: what takes time to import it names by ``later``.
"""

from abc import ABC, abstractmethod
from pathlib import Path

from utils.defaults import BACKGROUND_NAME
from utils.plugins import later


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

    def manifest_stem(self, candidates, channels):
        """What the manifest of all splits of a run is named after; None where these are no layer.

        Parameters
        ----------
        candidates : str or None
            The file of ``--candidates``.
        channels : list of int
            That were named beside it, or instead.
        """
        return Path(candidates).stem if candidates and not channels else None

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


# --------------------------------------------------------------------------------------------------------------------
# What makes Candidates of channels, wherever their concepts come from.


torch = later("torch")
disentangling = later("utils.method.disentangling")
polysemanticity = later("utils.method.polysemanticity")


class CandidateMaker:
    """What all concepts of a layer's channels have in common: the layer, and the mean over all training images.

    With a background, that mean is one more concept, the last one. ``mean_inputs`` [T, C_in, taps] and ``images`` [T]
    are of the images of each class that count, ``mean_input`` [C_in, taps] of all images.
    """

    def __init__(self, study):
        self.study, self.background = study, study.background
        self.weight, self.bias = study.weight_and_bias
        mean_inputs, images = study.class_store.require_means()
        which = int(study.only_correct)
        self.mean_inputs, self.images = mean_inputs[which, 0], images[which, 0]
        everything, numbers = mean_inputs[0, 0], images[0, 0].double()
        present = numbers > 0
        self.mean_input = torch.einsum("t,tip->ip", numbers[present] / numbers.sum(), everything[present])

    def make(self, channel, concepts):
        """The Candidate of a channel; ``concepts`` are lists of outputs, none where concepts have no labels.

        UserError where there is none.
        """
        raise NotImplementedError

    def closeness(self, candidate):
        """How close the two closest concepts are, as a cosine that is to be below gamma; -1 where that is no matter."""
        return -1.0

    def candidate(self, channel, concepts, arvs, named_by, source):
        """The Candidate of a channel; ``arvs`` [K, C_in] are its Concepts'."""
        weight = self.weight[channel].clone()
        bias = None if self.bias is None else self.bias[channel].clone()
        mean_arv = polysemanticity.averaged_relevance_vectors(weight, self.mean_input[None])[0]
        if self.background is not None:
            concepts = [*concepts, disentangling.Concept(BACKGROUND_NAME, [], kind="background")]
            arvs = torch.cat([arvs, mean_arv[None]])
        positions = self.study.meta["positions"]
        return disentangling.Candidate(
            channel, concepts, weight, bias, positions, arvs, mean_arv, named_by=named_by, source=source
        )
