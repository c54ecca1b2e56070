"""Splits as stage 4 looks at them: a split file, and the rho that was asked for."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

from utils.method.disentangling import image_groups, in_order
from utils.store.splits import SplitFile


@dataclass
class OpenedSplit:
    """A split file's ``path`` and content, and the ``rho`` asked for."""

    path: Path
    file: SplitFile
    rho: float | None

    @cached_property
    def outputs(self):
        """All classes of all concepts, sorted."""
        return sorted(output for concept in self.file.split.classes for output in concept)

    @cached_property
    def groups(self):
        """The groups of images of each concept that has some: its classes, or an image set."""
        return image_groups(self.file.split.own_concepts, self.path.stem)

    @cached_property
    def keys(self):
        """All groups of images of all concepts, in the order in which they are read."""
        return in_order(chain.from_iterable(self.groups))

    def which_rho(self):
        """The rho in words, before others; nothing where there is none."""
        if self.rho is None:
            return ""
        return f"rho {self.rho}{' (the chosen one)' if self.rho == self.file.split.rho else ''}, "
