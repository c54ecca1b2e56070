"""How ways of dividing inputs and sources of concepts are registered, and the flags that they declare.

A plug-in is a class in a file of its own. This module and the plug-ins import quickly: torch is loaded on first use.
"""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from utils.errors import UserError, quoted


class Registry:
    """Plug-ins of one kind by name, in the order in which tables have them.

    Parameters
    ----------
    what : str
        What one is called, in errors.
    places : dict of name -> "module:class"
    """

    def __init__(self, what, places):
        self.what, self._places = what, dict(places)

    def __iter__(self):
        """The names."""
        return iter(self._places)

    def get(self, name):
        """The class of a name; UserError where there is none: a file may have it from elsewhere."""
        if name not in self._places:
            raise UserError(f"there is no {self.what} {name!r}: there are {', '.join(self._places)}")
        module, _, attribute = self._places[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def require(self, name, path):
        """Raise a UserError that names the file where there is no plug-in of the name that it has."""
        if name not in self._places:
            raise UserError(
                f"{path} was made by the {self.what} {name}, which is not registered here: there are {', '.join(self)}"
            )

    def all(self):
        """The classes of all names."""
        return [self.get(name) for name in self._places]

    def register(self, name, place):
        """Add a plug-in, as ``"module:class"``, after those that are there."""
        self._places[name] = place

    def unregister(self, name):
        """Take a plug-in away again."""
        del self._places[name]


class _Later:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(importlib.import_module(self._name), attribute)


def later(name):
    """A module that is imported when something of it is first used: a plug-in says ``torch = later("torch")``."""
    return _Later(name)


# --------------------------------------------------------------------------------------------------------------------
# Flags


def checked(kind, accept, what):
    """A type for argparse: a number of a ``kind`` that is accepted; else an error that says it must be ``what``."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"must be {what}, not {quoted(text)}")
        return value

    return parse


fraction = checked(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
positive_int = checked(int, lambda value: value >= 1, "a whole number from 1")
positive = checked(float, lambda value: 0 < value < float("inf"), "a number above 0")


@dataclass(frozen=True)
class Flag:
    """A flag that a plug-in declares: ``--name``, and its values, by ``parse`` (argparse's type) or ``choices``.

    Several plug-ins may declare the same flag: the first one's help and type are used, and ``usual`` is this plug-in's
    default in words. ``setting`` is the name of the value among the plug-in's settings. ``does`` is a verb phrase for
    the error "--NAME {does}, which --split_by X does not have"; ``chooses`` is the help of stage 4, where the flag
    chooses among splits.
    """

    name: str
    help: str
    setting: str
    parse: Callable = str
    choices: tuple | None = None
    metavar: str | None = None
    usual: str = ""
    does: str = ""
    chooses: str = ""


def flags_of(plugins):
    """All flags of some plug-ins: {name: [(plug-in, Flag) of each that has it]}."""
    found = {}
    for plugin in plugins:
        for flag in plugin.flags:
            found.setdefault(flag.name, []).append((plugin, flag))
    return found
