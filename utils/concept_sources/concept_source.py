"""Interface of a source of concepts: how it finds a channel's concepts, and assigns new images to them.

A new source is a subclass of ``ConceptSource``, or of ``ImageSets`` where its concepts are sets of images, in its own
file in this folder, named after it, and a line in ``source_registry.py``. Stages, tables, figures and pages get
everything that depends on the source from this class. ``--help`` imports the file, so modules that take long to import,
torch above all, are imported by ``later``. ``tests/plugins/halves.py`` is an example; every source must pass
``tests/plugins/test_source_contract.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from utils.defaults import BACKGROUND_NAME, COMPARISON_DRAWS
from utils.errors import UserError
from utils.plugins import Flag, later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import ComparedChannel, Comparison, ConceptSets, UnitMaker
    from utils.concept_sources.image_sets import Clusters, MapImages
    from utils.divisions.division import Division
    from utils.method.disentangling import Candidate, Concept
    from utils.store.importance_store import ImportanceStore
    from utils.store.opened_splits import OpenedSplit
    from utils.store.study import Study

torch = later("torch")
disentangling = later("utils.method.disentangling")
polysemanticity = later("utils.method.polysemanticity")

ARV_TOLERANCE = 1e-6  # between those of a split and those of the store, relative


class ConceptFinder(ABC):
    """Finds the concepts of the channels of a Comparison, and of their permuted weights.

    ``draws`` is the number of draws of each null of its units, at most COMPARISON_DRAWS.
    """

    draws = COMPARISON_DRAWS

    @abstractmethod
    def sets(self, channel: ComparedChannel, draw: int = 0, number: int | None = None) -> ConceptSets:
        """The ConceptSets of a channel's weights at a draw, exactly ``number`` of them where it is given.

        UserError if there are none. If the sets have clusters, the finder is an ``ImageSetFinder``; sets without
        clusters are the same at every draw.
        """


class UnitClusters(Protocol):
    """Clusters of the reference images of units with the axes ``[channel, draw]``."""

    def of_number(self, index: int, draw: int, number: int) -> Clusters:
        """Exactly ``number`` clusters of a unit's reference images; UserError if there are none."""


class ComparedSource(ABC):
    """A source of concepts as a comparison needs it.

    Class attributes
    ----------------
    name
        In the registry, ``--concepts_from`` and files.
    words
        In headings, after "concepts from" and "by".
    split_words
        In the table of a comparison, after "split by".
    summary
        Its part of the help of ``--concepts_from``; empty: stage 3 does not offer it.
    flags
        Its own, for stage 3. Two plug-ins that declare a flag of one name must mean the same by it.
    labelled
        False: it finds the concepts of a channel. True: the user names them, as classes. Only ``classes`` is labelled,
        because names of files and headings identify labelled concepts by their classes.
    needs_images
        True: it needs a pass of the network over images. False: the stores have all that it needs.
    compared
        Whether a comparison of methods has it.
    splits_channels
        Whether the inputs of channels are divided among its concepts. False: the comparison has its own units alone.
    """

    name: str
    words: str
    split_words: str
    summary = ""
    flags: tuple[Flag, ...] = ()
    labelled = False
    needs_images = False
    compared = True
    splits_channels = True

    @classmethod
    @abstractmethod
    def finder(cls, comparison: Comparison) -> Any:
        """The ConceptFinder of a Comparison's channels; a source that does not split them has whatever its own units
        need."""

    @classmethod
    def defaults(cls) -> dict[str, Any] | None:
        """Its default settings as plain values, which a comparison depends on; None if there are none."""
        return None

    @classmethod
    def own_units(cls) -> dict[str, tuple[str, Callable[[Any], UnitMaker]]]:
        """Units that it has besides those of a split: {name in the table: (words, the UnitMaker of its finder)}."""
        return {}


class ConceptSource(ComparedSource):
    """A source of concepts of stage 3. An instance has the settings with which it finds concepts.

    Class attributes
    ----------------
    usual_background
        Default weight of the background (everything else as one more concept); None: the division's default.
    concept_flag
        The beginning of flags ``--images_for_concept1`` and so on, of which each names a concept as
        ``--classes_for_concept1`` names one by classes, and which imply the source; empty: it has none.
    map_words, map_note
        The images that a channel's map shows, in words: in its title, and below it.
    finds_from_store
        Whether it finds concepts of any units from the store alone, by a class method ``clusters_of_units`` as
        StoredImageSets has it: units of other sources would need passes of the network.
    """

    finds_from_store = False
    usual_background: float | None = None
    concept_flag = ""
    map_words: str
    map_note = ""

    # ------------------------------------------------------------------------------------------------------- stage 3

    @classmethod
    @abstractmethod
    def from_given(cls, given: dict[str, Any], study: Study) -> ConceptSource:
        """The source with the settings that were ``given``, {setting: value}, and defaults for the others.

        A comparison gives ``number`` (of concepts) and ``references`` (reference images) to all sources.
        """

    @abstractmethod
    def maker(self, study: Study, channels: Sequence[int]) -> CandidateMaker:
        """The maker of the Candidates of some channels, which finds their concepts."""

    @classmethod
    def is_named(cls) -> bool:
        """Whether the user names the concepts of a channel; else the source finds them in the channel's images."""
        return cls.labelled or bool(cls.concept_flag)

    @classmethod
    def background_with(cls, division: type[Division]) -> float | None:
        """The default weight of the background with a way of dividing inputs; None: there is no background."""
        return division.usual_background if cls.usual_background is None else cls.usual_background

    def manifest_stem(
        self, candidates: str | None, channels: Sequence[int], concepts: Sequence[list[int]] = ()
    ) -> str | None:
        """The stem of the manifest of all splits of a run; None if the run makes no manifest.

        Parameters
        ----------
        candidates
            The file of ``--candidates``.
        channels
            Channels that were given with this file or instead of it.
        concepts
            The classes of each concept, of the first channel; none of a concept that is no set of classes.
        """
        return Path(candidates).stem if candidates and not channels else None

    # ------------------------------------------------------------------------------------------------------- stage 4

    @classmethod
    def assigned(cls, opened: list[OpenedSplit], store: ImportanceStore, study: Study) -> dict[Any, Tensor]:
        """The validation images of the concepts of splits: {key of an image set: LongTensor of indices, ascending}.

        Parameters
        ----------
        opened
            Splits by this source.
        store
            A complete store of validation images.
        study
            Has the training images that the splits were made from.
        """
        return {}

    @classmethod
    def not_evaluated(cls, concepts: list[Concept], state: dict[str, Any]) -> list[str]:
        """The names of those of a split's own concepts that have no validation images because none were given.

        ``state`` is that of the split.
        """
        return []

    @classmethod
    @abstractmethod
    def map_images(cls, opened: list[OpenedSplit], study: Study) -> Callable[[OpenedSplit], MapImages]:
        """A function that returns the MapImages of each of some splits by this source."""

    @classmethod
    def assignment(cls, state: dict[str, Any]) -> str | None:
        """How validation images are assigned to the concepts of a split, in words; None if labels determine it."""
        return None

    # ------------------------------------------------------------------------------------------------------ in words

    @classmethod
    def settings_words(cls, state: dict[str, Any]) -> list[str]:
        """The settings of a split's ``state`` in words."""
        names = {flag.name: flag.name.replace("_", " ") for flag in cls.flags}
        return [f"{words} {state[name]}" for name, words in names.items() if state.get(name) is not None]

    @classmethod
    def flag_words(cls, state: dict[str, Any]) -> list[Any]:
        """The settings of a split's ``state`` as flags, with which stage 3 finds the same concepts again."""
        words: list[Any] = []
        for flag in cls.flags:
            if state.get(flag.name) is not None:
                words += [f"--{flag.name}", state[flag.name]]
        return words


# --------------------------------------------------------------------------------------------------------------------
# Candidates of channels, for all sources


class CandidateMaker(ABC):
    """Makes Candidates of a layer's channels, with everything else as the last concept where there is a background.

    ``mean_inputs`` [T, C_in, taps] and ``images`` [T] are the mean tap sums of each class and the numbers of its usable
    images; ``mean_input`` [C_in, taps] are the mean tap sums of all training images.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.background = study.background
        self.weight, self.bias = study.weight_and_bias
        mean_inputs, images = study.class_store.require_means()
        self.mean_inputs = mean_inputs[int(study.only_correct), 0]
        self.images = images[int(study.only_correct), 0]
        self.mean_input = study.mean_input

    @abstractmethod
    def make(self, channel: int, concepts: list[list[int]]) -> Candidate:
        """The Candidate of a channel; ``concepts`` are lists of classes, none where the source finds them.

        UserError if there is none.
        """

    def mean_inputs_of(self, concepts: list[Concept]) -> Tensor:
        """Mean tap sums of concepts with their own images, [K, C_in, taps] float64: of classes the mean of theirs."""
        return torch.stack([self.mean_inputs[concept.classes].mean(0) for concept in concepts])

    def means_of(self, opened: OpenedSplit) -> Tensor:
        """Mean tap sums of all concepts of a split, its background included: [K, C_in, taps], float64.

        UserError if its ARVs are not those of the training images in the store.
        """
        split = opened.file.split
        means = self.mean_inputs_of(split.own_concepts)
        if split.has_background:
            means = torch.cat([means, self.mean_input[None]])
        arvs = polysemanticity.averaged_relevance_vectors(split.weight, means)
        if not torch.allclose(arvs, split.arvs, rtol=ARV_TOLERANCE):
            raise UserError(f"{opened.path} was made of other training images: run disentangle_channel.py again")
        return means

    def closeness(self, candidate: Candidate) -> float:
        """Highest cosine between two concepts, for the warning above gamma; -1: it is not checked."""
        return -1.0

    def candidate(
        self,
        channel: int,
        concepts: list[Concept],
        arvs: Tensor,
        *,
        named_by: list[list[int]] | str,
        source: dict[str, Any],
    ) -> Candidate:
        """The Candidate of a channel; ``arvs`` [K, C_in] are those of its concepts."""
        weight = self.weight[channel].clone()
        mean_arv = polysemanticity.averaged_relevance_vectors(weight, self.mean_input[None])[0]
        if self.background is not None:
            concepts = [*concepts, disentangling.Concept(BACKGROUND_NAME, [], kind="background")]
            arvs = torch.cat([arvs, mean_arv[None]])
        return disentangling.Candidate(
            channel=channel,
            concepts=concepts,
            weight=weight,
            bias=None if self.bias is None else self.bias[channel].clone(),
            positions=self.study.meta["positions"],
            arvs=arvs,
            mean_arv=mean_arv,
            named_by=named_by,
            source=source,
        )
