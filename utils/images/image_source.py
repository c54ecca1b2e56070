"""Images and how they are read, for any number of passes over them."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from utils.images.batches import ImageBatches, ImageFiles, Loading, batches_of
from utils.images.folders import ImageList
from utils.images.transform import Transform

Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True)
class ImageSource:
    """Images, and how a network gets them.

    ``images`` are listed, and read with ``transform`` as ``loading`` says, ``batch_size`` at a time where they come in
    order; ``files`` makes the dataset of pictures that PIL or torchvision decode, from the list, the transform and the
    function that decodes.
    """

    images: ImageList
    transform: Transform
    batch_size: int
    loading: Loading
    files: Callable[..., ImageFiles] = ImageFiles

    def batches(self, plan: list[list[int]], description: str | None) -> ImageBatches:
        """The batches of a plan: the indices of the images of each. ``description`` is that of the progress bar."""
        return ImageBatches(self.images, self.transform, plan, description, self.loading, files=self.files)

    def in_order(self, indices: Iterable[int], description: str | None) -> ImageBatches:
        """The images at some indices, in the order of these."""
        return self.batches(batches_of(indices, self.batch_size), description)


@dataclass(frozen=True)
class PlannedBatch(Generic[Group]):
    """A batch that is to be read: the group that its images are of, their indices, and whether it ends the group."""

    group: Group
    indices: list[int]
    is_last: bool


def batches_by_group(groups: Mapping[Group, Iterable[int]], batch_size: int) -> list[PlannedBatch[Group]]:
    """The batches of some groups of images, each of one group; an empty group has none."""
    return [
        PlannedBatch(group, batch, is_last=number == len(batches))
        for group, batches in ((group, batches_of(indices, batch_size)) for group, indices in groups.items())
        for number, batch in enumerate(batches, start=1)
    ]
