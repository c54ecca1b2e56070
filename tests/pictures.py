"""Pictures in folders, and batches of them."""

import numpy as np
import torch
from PIL import Image

from tests.factories import COLOURS
from utils.images.batches import ImageBatches, Loading
from utils.images.folders import list_images
from utils.images.transform import Transform

FOLDERS = ("ant", "bee", "cat", "dog")
CPU = torch.device("cpu")
SMALL = Transform(32, 28)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6

# name: size, mode, options of PIL's encoder
PLAIN = {
    "baseline.jpg": ((60, 45), "RGB", {}),
    "exif.jpg": ((60, 45), "RGB", {"exif": ROTATED}),
    "grey.jpg": ((45, 60), "L", {}),
    "odd.jpg": ((47, 31), "RGB", {"subsampling": 0}),
    "one_pixel.jpg": ((1, 1), "RGB", {}),
    "progressive.JPEG": ((53, 80), "RGB", {"progressive": True}),
    "restarts.jpg": ((60, 45), "RGB", {"restart_marker_blocks": 1}),
    "tall.jpg": ((9, 300), "RGB", {}),
    "tiny.jpeg": ((10, 9), "RGB", {}),
    "wide.jpg": ((400, 13), "RGB", {"subsampling": 1}),
}
LEFT_TO_PIL = {
    "cmyk.jpg": ((40, 50), "CMYK", {}),
    "palette.png": ((33, 44), "P", {}),
    "png_by_another_name.jpg": ((33, 44), "RGB", {"format": "PNG"}),
    "rgba.png": ((50, 40), "RGBA", {}),
    "x.tif": ((50, 40), "RGB", {}),
}


def write_image(path, class_index, seed, size=28):
    """A noisy picture whose colour and stripes tell its class."""
    random = np.random.default_rng([class_index, seed])
    pixels = random.normal(COLOURS[class_index], 40, (size, size, 3))
    pixels[:: class_index + 2] *= 0.4
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def write_images(folder, train=6, val=4, folders=FOLDERS):
    for split, count in (("train", train), ("val", val)):
        for class_index, name in enumerate(folders):
            for number in range(count):
                seed = number + 100 * (split == "val")
                write_image(folder / split / name / f"{number}.png", class_index % 4, seed)
    return folder


def picture(size, seed=0):
    """Coarse structure and fine noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(coarse) + random.normal(0, 12, (*size[::-1], 3))).clip(0, 255).astype(np.uint8))


def write_photographs(folder, subsampling):
    """JPEG files of photographs' sizes, with chroma of this subsampling."""
    (folder / "a").mkdir()
    for number, size in enumerate([(500, 375), (333, 500), (1100, 800), (160, 230), (225, 225), (57, 301)]):
        picture(size, number).save(folder / "a" / f"{number}.jpg", quality=90, subsampling=subsampling)


def batches(images, transform, cut, **options):
    return ImageBatches(images, transform, cut, "", Loading(CPU, **options))


def loader(folder, decode, transform=SMALL, cut=None, device=CPU, **options):
    images = list_images(folder)
    batches = [list(range(len(images)))] if cut is None else cut
    return ImageBatches(images, transform, batches, "", Loading(device, decode, **options))


def levels(folder, decode, transform=SMALL, **options):
    """Pixels of all images by name, in 0..255."""
    files, found = loader(folder, decode, transform, **options), {}
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (transform.std, transform.mean))
    for indices, pixels, *_ in files:
        pixels = (pixels.cpu() * std + mean) * 255
        found.update({files.images.path(i).name: crop for i, crop in zip(indices.tolist(), pixels, strict=True)})
    return found
