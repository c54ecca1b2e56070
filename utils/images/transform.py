"""The evaluation transform."""

from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from utils import defaults
from utils.images.resizing import FILTERS


@dataclass(frozen=True)
class Transform:
    """The evaluation transform: resize the shorter side, crop the centre, normalise.

    Sizes in pixels; ``mean`` and ``std`` for each colour channel, of values in 0..1. Called with a PIL image, as
    torchvision's transforms are, it returns the network's input.
    """

    resize_size: int = defaults.RESIZE_SIZE
    crop_size: int = defaults.CROP_SIZE
    interpolation: str = defaults.INTERPOLATION
    mean: tuple[float, ...] = defaults.MEAN
    std: tuple[float, ...] = defaults.STD

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        sizes = f"resize to {self.resize_size}, crop {self.crop_size}, {self.interpolation}"
        return f"{sizes}, mean {mean}, std {std}"

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL image of any mode as the network takes it and the stages read it: float32 Tensor [3, H, W]."""
        return self.normalise(self.crop(image.convert("RGB"))[None], torch.device("cpu"))[0].contiguous()

    def crop(self, image: Image.Image) -> Tensor:
        """Resize and crop an RGB PIL image: uint8 Tensor [H, W, 3]."""
        image = TF.resize(image, [self.resize_size], InterpolationMode(self.interpolation))
        return torch.from_numpy(np.array(TF.center_crop(image, [self.crop_size])))

    def normalise(self, images: Tensor, device: torch.device) -> Tensor:
        """Move a batch of crops, uint8 [B, H, W, 3], to ``device``: float32 [B, 3, H, W], channels last in memory."""
        images = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        return images.sub_(_by_colour(self.mean, device)).div_(_by_colour(self.std, device))


def checked_transform(values: Any) -> Transform:
    """A Transform, or a mapping with its fields, as a Transform; ValueError unless all of its values are possible."""
    names = [field.name for field in fields(Transform)]
    refusal = ValueError(f"must be a dictionary of {', '.join(names)}, all possible")
    try:
        given = asdict(values) if isinstance(values, Transform) else {name: values[name] for name in names}
        mean = tuple(float(value) for value in given["mean"])
        std = tuple(float(value) for value in given["std"])
        has_only_fields = isinstance(values, Transform) or set(values) == set(names)
        interpolation_is_known = given["interpolation"] in FILTERS
    except (KeyError, TypeError, ValueError) as error:
        raise refusal from error
    sizes = (given["resize_size"], given["crop_size"])
    sizes_are_possible = all(type(size) is int for size in sizes) and sizes[0] >= sizes[1] >= 1
    colours_are_possible = len(mean) == len(std) == 3 and bool(np.isfinite([*mean, *std]).all()) and min(std) > 0
    if not (has_only_fields and interpolation_is_known and sizes_are_possible and colours_are_possible):
        raise refusal
    return Transform(**{**given, "mean": mean, "std": std})


@cache
def _by_colour(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Three values as a Tensor [3, 1, 1], made once: a copy in every batch would wait for the device."""
    return torch.tensor(values, device=device).view(3, 1, 1)
