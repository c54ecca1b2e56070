"""Resize and crop a batch of images of different sizes on any device, as PIL does it with one image.

Resizing is linear and separable: each row of the crop is a weighted sum of some rows of the image, and the same for
columns. So a whole batch, padded with zeros, is resized and cropped by two batched matrix products.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from utils.images.transform import Transform


def _box(x: Tensor) -> Tensor:
    return (x.abs() < 0.5).to(x.dtype)


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


# for each interpolation the filter, and the distance from its centre at which it ends
FILTERS = {"nearest": (_box, 0.5), "bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}


def resized_sizes(sizes: Tensor, resize_size: int) -> Tensor:
    """Sizes after the shorter side is resized to ``resize_size``, the longer one rounded down: float64 [B, 2]."""
    sizes = sizes.double()
    return (resize_size * sizes / sizes.amin(1, keepdim=True)).floor()


@dataclass(frozen=True)
class CropWindows:
    """The parts of B images from which their crops are computed. Axes: rows, columns; units: pixels of the image.

    Parameters
    ----------
    first, sizes : Tensor [B, 2]
        First pixel and size of each part.
    centres : Tensor [B, 2, crop]
        Position in the part of each pixel of the crop.
    stretch : Tensor [B, 2]
        How much wider than a pixel the filter is, which avoids aliasing.
    """

    first: Tensor
    sizes: Tensor
    centres: Tensor
    stretch: Tensor

    def to(self, device: torch.device) -> "CropWindows":
        return CropWindows(*(values.to(device) for values in vars(self).values()))


def crop_windows(sizes: Tensor, transform: "Transform") -> CropWindows:
    """Where the crops of an evaluation transform lie in images of the given sizes, on the CPU.

    Parameters
    ----------
    sizes : LongTensor [B, 2]
        Heights and widths in pixels.
    transform : Transform
        Its ``crop_size`` must not exceed its ``resize_size``.
    """
    resized = resized_sizes(sizes, transform.resize_size)
    scales = sizes / resized
    offsets = ((resized - transform.crop_size) / 2).round()  # half to even, as Python's round
    centres = (offsets[..., None] + torch.arange(transform.crop_size) + 0.5) * scales[..., None]
    stretch = scales.clamp(min=1)
    if transform.interpolation == "nearest":  # the pixel that holds the centre
        centres = centres.floor() + 0.5
        stretch = torch.ones_like(scales)
    reach = FILTERS[transform.interpolation][1] * stretch
    first = (centres[..., 0] - reach).floor().clamp(min=0)
    last = torch.minimum((centres[..., -1] + reach).ceil(), sizes)
    # float64 up to here; positions within the window are small enough for float32
    return CropWindows(first.long(), (last - first).long(), (centres - first[..., None]).float(), stretch.float())


def cut_and_pad(images: list[Tensor], windows: CropWindows) -> Tensor:
    """Copy the windows of B images into one batch.

    Parameters
    ----------
    images : list of uint8 Tensor [3, height, width]
        All on one device.
    windows : CropWindows
        On the CPU.

    Returns
    -------
    uint8 Tensor [B, H, 3, W]
        The H x W of the largest window, zeros around the smaller ones; the layout that ``resize_windows`` multiplies.
    """
    height, width = windows.sizes.amax(0).tolist()
    batch = torch.zeros(len(images), height, 3, width, dtype=torch.uint8, device=images[0].device)
    corners = windows.first.tolist()
    sizes = windows.sizes.tolist()
    parts = [
        part[:, :rows, :columns] for part, (rows, columns) in zip(batch.transpose(1, 2).unbind(), sizes, strict=True)
    ]
    cut = [
        image[:, top : top + rows, left : left + columns]
        for image, (top, left), (rows, columns) in zip(images, corners, sizes, strict=True)
    ]
    torch._foreach_copy_(parts, cut)  # one call: each call keeps the other threads waiting for a moment
    return batch


def interpolation_weights(windows: CropWindows, axis: int, length: int, interpolation: str) -> Tensor:
    """The weight of each pixel of a window in each pixel of the crop, along one axis.

    Parameters
    ----------
    windows : CropWindows
        Windows of B images.
    axis : int
        0 for rows, 1 for columns.
    length : int
        Length of the padded windows.
    interpolation : str
        ``nearest``, ``bilinear`` or ``bicubic``.

    Returns
    -------
    float32 Tensor [B, crop, length]
        Sums to 1 over the last dimension; 0 in the padding.
    """
    centres = windows.centres[:, axis, :, None]
    stretch = windows.stretch[:, axis, None, None]
    sizes = windows.sizes[:, axis, None, None]
    pixels = torch.arange(length, device=centres.device)
    filter_of, _ = FILTERS[interpolation]
    weights = filter_of((pixels + 0.5 - centres) / stretch) * (pixels < sizes)
    return weights / weights.sum(2, keepdim=True)


def resize_windows(batch: Tensor, windows: CropWindows, interpolation: str) -> Tensor:
    """The crops: windows resized, columns first and rounded to whole levels after each axis, as PIL does it.

    Parameters
    ----------
    batch : uint8 Tensor [B, H, 3, W]
        From ``cut_and_pad``.
    windows : CropWindows
        On the same device.
    interpolation : str

    Returns
    -------
    uint8 Tensor [B, crop, crop, 3]
    """
    count, height, colours, width = batch.shape
    rows = interpolation_weights(windows, 0, height, interpolation)
    columns = interpolation_weights(windows, 1, width, interpolation)
    narrow = _levels(batch.view(count, height * colours, width).float() @ columns.mT)
    crops = _levels(rows @ narrow.view(count, height, -1))
    return crops.view(count, -1, colours, columns.shape[1]).transpose(2, 3).to(torch.uint8)


def _levels(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)
