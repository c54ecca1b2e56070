"""Registries of plug-ins (ways of dividing inputs, sources of concepts), and the flags that plug-ins declare.

A plug-in is a class in a file of its own. This module and the plug-ins import quickly: torch is loaded on first use.
"""

import argparse
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from utils.errors import UserError, quoted


class Registry:
    """Plug-ins of one kind by name, in the order of the rows of tables.

    Parameters
    ----------
    kind : str
        What a plug-in is called in errors.
    targets : dict of name -> "module:class"
    """

    def __init__(self, kind: str, targets: dict[str, str]) -> None:
        self.kind = kind
        self._targets = dict(targets)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._targets)

    def get(self, name: str) -> Any:
        """The class of a name; UserError for an unknown name, which a stored file may contain."""
        if name not in self._targets:
            raise UserError(f"there is no {self.kind} {name!r}: there are {', '.join(self)}")
        module, _, attribute = self._targets[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def require(self, name: str, path: object) -> None:
        """Raise a UserError that names the file ``path`` if it was made by a plug-in that is not registered."""
        if name not in self._targets:
            raise UserError(
                f"{path} was made by the {self.kind} {name}, which is not registered here: there are {', '.join(self)}"
            )

    def all(self) -> list[Any]:
        """The classes of all names."""
        return [self.get(name) for name in self]

    def register(self, name: str, target: str) -> None:
        """Add a plug-in, as ``"module:class"``, after the registered ones."""
        self._targets[name] = target

    def unregister(self, name: str) -> None:
        """Remove a plug-in."""
        del self._targets[name]


class _Later:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def later(name: str) -> Any:
    """A module that is imported when one of its attributes is first used: ``torch = later("torch")`` in a plug-in."""
    return _Later(name)


# --------------------------------------------------------------------------------------------------------------------
# Flags


@dataclass(frozen=True)
class Checked:
    """A range of numbers: a type for argparse, which parses text, and a check of values that Python gives.

    ``kind`` is int or float, ``accept`` is true for the numbers in the range, ``description`` is for errors. ``words``
    are texts that are allowed besides.
    """

    kind: type
    accept: Callable[[Any], bool]
    description: str
    words: tuple[str, ...] = ()

    def __call__(self, text: str) -> Any:
        if text in self.words:
            return text
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.accept(value):
            raise argparse.ArgumentTypeError(f"must be {self._allowed}, not {quoted(text)}")
        return value

    def require(self, name: str, value: Any) -> None:
        """Raise UserError unless a value is a number in the range; ``name`` is that of its setting."""
        if isinstance(value, str) and value in self.words:
            return
        number = Integral if self.kind is int else Real
        if isinstance(value, bool) or not isinstance(value, number) or not self.accept(value):
            raise UserError(f"{name} must be {self._allowed}, not {value!r}")

    @property
    def _allowed(self) -> str:
        return " or ".join([self.description, *self.words])


def checked(kind: type, accept: Callable[[Any], bool], description: str, *, words: tuple[str, ...] = ()) -> Checked:
    """The range of numbers of type ``kind`` for which ``accept`` is true."""
    return Checked(kind, accept, description, words)


fraction = checked(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
positive_int = checked(int, lambda value: value >= 1, "a whole number from 1")
positive = checked(float, lambda value: 0 < value < float("inf"), "a number above 0")


@dataclass(frozen=True)
class Flag:
    """A flag that a plug-in declares: ``--name``, and its values, by ``parse`` (argparse's type) or ``choices``.

    Several plug-ins may declare the same flag: the help and type of the first one are used, and ``usual`` is this
    plug-in's default in words. ``help`` is a phrase, ``details`` are further sentences of ``--help all``. ``setting``
    is the name of the value among the plug-in's settings. ``does`` is a verb phrase for the error "--NAME {does}, which
    --split_by X does not have"; ``chooses`` is the help in stage 4, where the flag selects among stored splits.
    ``last`` is N of flags ``NAME1`` to ``NAMEN`` that are explained once: the help of the others is
    ``argparse.SUPPRESS``.
    """

    name: str
    help: str
    setting: str
    parse: Callable[[str], Any] = str
    choices: tuple | None = None
    metavar: str | None = None
    usual: str = ""
    does: str = ""
    chooses: str = ""
    details: str = ""
    last: int = 0


def flags_of(plugins: Iterable[Any]) -> dict[str, list[tuple[Any, Flag]]]:
    """The flags of some plug-ins by name, each with the plug-ins that declare it and their Flag."""
    flags: dict[str, list[tuple[Any, Flag]]] = {}
    for plugin in plugins:
        for flag in plugin.flags:
            flags.setdefault(flag.name, []).append((plugin, flag))
    return flags
