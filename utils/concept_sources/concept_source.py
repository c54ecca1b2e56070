"""Interface of a source of concepts: how it finds a channel's concepts, and assigns new images to them.

A new source is a subclass of ``ConceptSource``, or of ``ImageSets`` where its concepts are sets of images, in a file of
its own in this folder, named after it, and a line in ``registry.py``. Stages, tables, figures and pages get everything
that depends on the source from this class. ``--help`` imports the file: it names what takes long to import, torch above
all, by ``later``. ``tests/plugins/halves.py`` is an example; ``tests/plugins/test_source_contract.py`` has what every
source must pass.
"""

from abc import ABC, abstractmethod
from pathlib import Path

from utils.defaults import BACKGROUND_NAME
from utils.plugins import later


class ComparedSource(ABC):
    """A source of concepts as a comparison needs it.

    Class attributes
    ----------------
    name : str
        In the registry, ``--concepts_from`` and files.
    words : str
        In headings, after "concepts from" and "by".
    split_words : str
        In the table of a comparison, after "split by".
    summary : str
        Its part of the help of ``--concepts_from``; empty: stage 3 does not offer it.
    flags : tuple of Flag
        Its own, for stage 3. Two plug-ins that declare a flag of one name must mean the same by it.
    labelled : bool
        False: it finds the concepts of a channel. True: the user names them, which are classes; ``classes`` alone, as
        names of files and headings tell concepts with labels from others by their classes.
    needs_images : bool
        True: it needs a pass of the network over images. False: the stores have all that it needs.
    """

    name = words = split_words = summary = ""
    flags = ()
    labelled = needs_images = False

    @classmethod
    @abstractmethod
    def finder(cls, comparison):
        """What finds the concepts of the Cases of a Comparison: an object with ``sets(case, unit=0, number=None)``.

        Where the Sets have clusters, it has all that ``image_sets.ImageSetFinder`` has, best by being one.
        """

    @classmethod
    def defaults(cls):
        """Its default settings as plain values, which a comparison depends on; None where there are none."""
        return None

    @classmethod
    def own_units(cls):
        """Units that it has besides those of a split: {name in the table: (words, what makes Units of a finder)}."""
        return {}


class ConceptSource(ComparedSource):
    """A source of concepts of stage 3. An instance has the settings with which it looks for them.

    Class attributes
    ----------------
    usual_background : float or None
        Default weight of everything else as one more concept; None: the division's.
    map_words, map_note : str
        Which images a channel's map shows, for its title and below it.
    """

    usual_background = None
    map_words = map_note = ""

    # ------------------------------------------------------------------------------------------------------- stage 3

    @classmethod
    @abstractmethod
    def from_given(cls, given, study):
        """The source with the settings that were ``given``, {setting: value}, and defaults for the others.

        A comparison gives ``number`` (of concepts) and ``references`` (reference images) to all sources.
        """

    @abstractmethod
    def maker(self, study, channels):
        """A CandidateMaker for some channels: finds their concepts."""

    @classmethod
    def background_with(cls, division):
        """The default weight of everything else with a way of dividing inputs; None: there is no such concept."""
        return division.usual_background if cls.usual_background is None else cls.usual_background

    def manifest_stem(self, candidates, channels):
        """What the manifest of all splits of a run is named after; None if the run makes no manifest.

        Parameters
        ----------
        candidates : str or None
            The file of ``--candidates``.
        channels : sequence of int
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


class CandidateMaker(ABC):
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

    @abstractmethod
    def make(self, channel, concepts):
        """The Candidate of a channel; ``concepts`` are lists of outputs, none where concepts have no labels.

        UserError where there is none.
        """

    def closeness(self, candidate):
        """Highest cosine between two concepts, for the warning above gamma; -1: it is not checked."""
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
