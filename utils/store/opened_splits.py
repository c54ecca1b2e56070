"""A split as stage 4 opens it: the split file, and the requested rho."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from utils.method.disentangling import image_groups, in_order
from utils.store.splits import SplitFile


@dataclass
class OpenedSplit:
    """A split file's ``path`` and content, and the requested ``rho``."""

    path: Path
    file: SplitFile
    rho: float | None

    @cached_property
    def outputs(self) -> list[int]:
        """All classes of all concepts, sorted."""
        return sorted(output for concept in self.file.split.classes for output in concept)

    @cached_property
    def groups(self) -> list[list[Any]]:
        """For each concept with images of its own, the keys of its groups of images: its classes, or an image set."""
        return image_groups(self.file.split.own_concepts, self.path.stem)

    @cached_property
    def keys(self) -> list[Any]:
        """The keys of the groups of images of all concepts, in the order in which the images are read."""
        return in_order(chain.from_iterable(self.groups))

    def which_rho(self) -> str:
        """The rho in words, as the beginning of a longer text; empty if there is no rho."""
        if self.rho is None:
            return ""
        return f"rho {self.rho}{' (the chosen one)' if self.rho == self.file.split.rho else ''}, "
