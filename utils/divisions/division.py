"""The contract of a way of dividing inputs: the Division that a split keeps, its Divider, and its Rule for any units.

A new way is a subclass of ``Division`` in a file of its own beside this one, and a line in ``registry.py``. Stages,
tables, figures and pages ask it for all that differs from one way to another. The file is imported by ``--help``: what
takes time to import (torch above all) it imports where it computes.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from utils.plugins import later

disentangling = later("utils.method.disentangling")


class ConceptInputs(Protocol):
    """What the stored training images tell of a channel's concepts: K of them, a background the last one."""

    def means(self):
        """Mean tap sums of each concept, whatever its images weigh: Tensor [K, C_in, taps], float64."""

    def groups(self):
        """Tap sums of single images, a Tensor [n, C_in, taps] for each concept, and the weight of each: two lists."""


class Division(ABC):
    """How the inputs of one channel are divided among its K concepts, at every rho where there are several.

    Class attributes
    ----------------
    name : str
        In the registry, ``--split_by`` and files.
    words : str
        In tables and figures.
    report_words : str
        In a report, to go on after "by"; ``report_words_at`` has the rho as well.
    summary : str
        What ``--help`` says of it.
    suffixes : tuple of str
        All that ``suffix_of`` can return, in small letters.
    flags : tuple of Flag
        Its own, for stage 3; stage 4 chooses among splits by them.
    usual_background : float or None
        The weight of everything else as one more concept where nobody gives one; None: there is no such concept.
    weighs_background : bool
        Whether that weight means anything but 0 and 1.
    usual_irrelevant : int or None
        How many irrelevant channels a separation draws where nobody says; None: all of them.
    background_note : str
        What stands behind "all training images" where a background is described.
    nulls : tuple of Null
        What a separation compares it with.
    primary_null : Null
        The one of these that decides.
    objectives : tuple of str
        What rho was searched by, where it was.
    """

    name = words = report_words = summary = ""
    suffixes = flags = ()
    usual_background = None
    weighs_background = False
    usual_irrelevant = None
    background_note = ""
    nulls = ()
    primary_null = None
    objectives = ()

    # ------------------------------------------------------------------------------------------- before it is made

    @classmethod
    @abstractmethod
    def settings_from(cls, given):
        """All settings by name, of the values of its flags that were ``given`` ({setting: value}): a dictionary."""

    @classmethod
    @abstractmethod
    def suffix_of(cls, settings):
        """What names of split files say of its settings; empty with the usual settings of the usual way."""

    @classmethod
    def usual_suffix(cls):
        """``suffix_of`` its usual settings."""
        return cls.suffix_of(cls.settings_from({}))

    @classmethod
    def flag_words(cls, settings):
        """The flags, as words, that tell its settings from others of the same way."""
        return []

    @classmethod
    @abstractmethod
    def describe(cls, settings):
        """How splits are made, in words, for the first lines of stage 3."""

    @classmethod
    @abstractmethod
    def divider(cls, settings, **study):
        """A Divider for stage 3; ``study`` are its keyword arguments."""

    @classmethod
    @abstractmethod
    def rule(cls, inputs, rho=None):
        """The Rule for any units and the concepts of ``inputs`` (ConceptInputs), at a rho where there are several."""

    # ---------------------------------------------------------------------------------------------- as a split has it

    @property
    def rhos(self):
        """Where there are several divisions, the values of rho that tell them apart; else empty."""
        return ()

    @property
    def rho(self):
        """The chosen one of ``rhos``, or None."""
        return None

    @abstractmethod
    def shares(self, rho=None):
        """What share of each input is a concept's alone, and last the residual's: Tensor [K + 1, C_in], float64.

        Columns sum to 1. ``rho``: default the chosen one.
        """

    @abstractmethod
    def permuted(self, order):
        """The same with its inputs in another order, LongTensor [C_in]: as many inputs for each concept."""

    @abstractmethod
    def settings(self):
        """Its settings, as ``settings_from`` has them."""

    @abstractmethod
    def state(self):
        """All of it as plain values and tensors, for a split file."""

    @classmethod
    @abstractmethod
    def from_state(cls, state, arvs):
        """The Division of a ``state``, for concepts of these ARVs [K, C_in]; ValueError where it cannot be one."""

    # ------------------------------------------------------------------------------------------------- what is said

    def kept_apart(self):
        """Plain values in which results that are summed up in one table agree."""
        return {}

    def report_words_at(self, rho):
        """``report_words`` of this division."""
        return self.report_words

    @abstractmethod
    def text(self):
        """How the inputs are divided, for the screen of stage 3."""

    def rhos_by_objective(self):
        """Where rho was searched: {objective: the rho it chooses}, and which objective was asked for; else {} and None.

        Columns of the closing table of stage 3.
        """
        return {}, None

    def quality(self):
        """How well the concepts are told apart on their training images, at best the number of concepts; or None."""
        return None


class Divider(ABC):
    """Divides the inputs of stage 3's candidates; a context in which it may see their training images.

    Parameters
    ----------
    settings : dict
        Of ``Division.settings_from``.
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    precision : str
        Of the network's arithmetic.
    inputs_of : function of (Concepts, weight of everything else or None) that returns ConceptInputs
        From what the store has of the training images.
    background : float or None
        The weight of everything else as one more concept.
    """

    sees_images = False  # all of the concepts' training images; else those alone on which equality is shown
    progress = "images to show equality on"  # what its pass over images is for

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def see(self, candidates, key, pixels):
        """Take in a batch of images of a group, [B, 3, H, W], for the candidates that have it."""
        return None

    @abstractmethod
    def divide(self, candidate):
        """The Division of a Candidate all images of which have been seen; UserError where there is none."""


class Rule(ABC):
    """Divides any units of a layer, each by itself, among the concepts of one channel."""

    @abstractmethod
    def shares(self, weights, targets=None):
        """What share of each input is whose: Tensor [K + 1, B, C_in], the residual last.

        Parameters
        ----------
        weights : Tensor [B, C_in, taps], float64
            Of the units.
        targets : Tensor [B, C_in, taps], optional
            What the new channels of each unit are to add up to, for rules that can be asked for it; default: the unit.
        """

    def rows(self, weights, targets=None):
        """``c'_1 .. c'_K`` of the units: Tensor [K, B, C_in, taps]."""
        return disentangling.disentangled_rows(weights, self.shares(weights, targets))[:-1]
