"""Interface of a way of dividing inputs: Division (the result), Divider (makes it), Rule (applies it to any unit).

A new way is a subclass of ``Division`` in a file of its own in this folder, named after it, and a line in
``registry.py``. Stages, tables, figures and pages get everything that depends on the way from this class. ``--help``
imports the file: it names what takes long to import, torch above all, by ``later``. ``tests/plugins/softmax.py`` is an
example, and ``tests/plugins/test_division_contract.py`` has what every way must pass.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from utils.plugins import later

disentangling = later("utils.method.disentangling")


class ConceptInputs(Protocol):
    """The tap sums of a channel's concepts in the stored training images. A background is the last concept.

    A Rule asks for one of the two. In a comparison the groups have a background and the means do not.
    """

    def means(self):
        """Mean tap sums of each concept: Tensor [K, C_in, taps], float64. The weights of the groups do not count."""

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
        In a report, beginning with "by".
    summary : str
        What ``--help`` says of it.
    suffix_pattern : str
        A regular expression that matches all that ``suffix_of`` can return.
    flags : tuple of Flag
        Its own, for stage 3; stage 4 chooses among splits by them. Two plug-ins that declare a flag of one name must
        mean the same by it.
    usual_background : float or None
        Default weight of everything else as one more concept; None: there is no such concept.
    weighs_background : bool
        True if weights other than 0 and 1 are allowed.
    usual_irrelevant : int or None
        Default number of irrelevant channels that a separation draws; None: all of them.
    background_note : str
        Text after "all training images" where a background is described.
    nulls : tuple of Null
        What a separation compares it with.
    primary_null : Null
        The one of these that decides; one with a ``draws_column``.
    objectives : tuple of str
        Names of what rho was chosen by; empty where there is no rho.
    """

    name = words = report_words = summary = ""
    suffix_pattern = ""
    flags = ()
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
        """All settings by name: the values of its flags that were ``given``, {setting: value}, and the defaults."""

    @classmethod
    @abstractmethod
    def suffix_of(cls, settings):
        """The part of a split's file name that depends on the way and its settings; empty for the usual one."""

    @classmethod
    def usual_suffix(cls):
        """``suffix_of`` its usual settings."""
        return cls.suffix_of(cls.settings_from({}))

    @classmethod
    def suffix_in_tables(cls, settings):
        """The part of the name of a file of results: different wherever results are ``kept_apart``."""
        return cls.usual_suffix()

    @classmethod
    def words_of(cls, settings):
        """``words`` with these settings, for the heading of a table: different wherever results are ``kept_apart``."""
        return cls.words

    @classmethod
    def flag_words(cls, settings):
        """The flags, as words, that tell its settings from others of the same way."""
        return []

    @classmethod
    @abstractmethod
    def describe(cls, settings):
        """How inputs are divided with these settings, for the first lines of stage 3."""

    @classmethod
    @abstractmethod
    def divider(cls, settings, *, network, layer, precision, inputs_of, background):
        """The Divider of stage 3.

        Parameters
        ----------
        settings : dict
            Of ``settings_from``.
        network : nn.Module
            Frozen, on its device.
        layer : Layer
        precision : str
            Of the network's arithmetic.
        inputs_of : function of (Concepts, weight of everything else or None) that returns ConceptInputs
        background : float or None
            The weight of everything else as one more concept.
        """

    @classmethod
    @abstractmethod
    def rule(cls, settings, inputs, rho=None):
        """The Rule that divides any unit among the concepts of ``inputs`` (ConceptInputs).

        ``rho`` is one of ``rhos``; without meaning where there are none.
        """

    # ---------------------------------------------------------------------------------------------- as a split has it

    @property
    def rhos(self):
        """The values of rho with a division each, ``RHOS`` of the method; empty: there is one division."""
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
        """The same division with the inputs permuted by ``order``, LongTensor [C_in].

        Each concept keeps its number of inputs, or its shares.
        """

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

    @abstractmethod
    def kept_apart(self):
        """Plain values: results are put in one table only if these are equal."""

    def report_words_at(self, rho):
        """``report_words`` of this division."""
        return self.report_words

    @abstractmethod
    def text(self):
        """How the inputs are divided, for the screen of stage 3."""

    def rhos_by_objective(self):
        """{objective: the rho that it chooses}, and the objective that was used; {} and None where there is no rho.

        For the closing table of stage 3.
        """
        return {}, None

    def quality(self):
        """How well the concepts are told apart on their training images, at best the number of concepts; or None."""
        return None


class Divider(ABC):
    """Divides the inputs of stage 3's candidates. Within its context it sees their training images, batch by batch.

    Class attributes
    ----------------
    sees_images : bool
        True: it sees all training images of the concepts. False: only those used to show equality.
    progress : str
        What the pass over the images is for, on its progress bar.
    """

    sees_images = False
    progress = "images to show equality on"

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
