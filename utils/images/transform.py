"""The evaluation transform."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from utils import defaults


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


@cache
def _by_colour(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Three values as a Tensor [3, 1, 1], made once: a copy in every batch would wait for the device."""
    return torch.tensor(values, device=device).view(3, 1, 1)
