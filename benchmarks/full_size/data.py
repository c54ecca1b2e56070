"""Made images: four cells, each with one of many smooth parts, and some noise; a class is its four parts."""

import csv
import os
from dataclasses import dataclass
from multiprocessing import Process
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.report import ROOT

CELL = 8  # pixels a side; an image has 2 x 2 cells
CELLS = 4
MARGIN = 2  # pixels by which a part is larger than its cell: it is cut out at a random place
KNOTS = 4  # random numbers a side from which a part is interpolated
CONTRAST, NOISE = 0.17, 0.10
AMPLITUDES = 0.6, 1.3
IMAGES_A_CLASS, FEWEST, SMALLER_CLASSES = 1300, 732, 105  # of ImageNet's training images
VALIDATION_IMAGES_A_CLASS = 50
IMAGES_AT_A_TIME = 100
QUALITY = 90


@dataclass(frozen=True)
class Size:
    """The size of the data set and of the network's layer of interest. The default is ImageNet's and ResNet-50's."""

    images: int = 1_281_167
    classes: int = 1000
    parts: int = 1200
    inputs: int = 512
    channels: int = 2048
    with_two_inputs: int = 900  # channels that are made of two inputs


@dataclass(frozen=True)
class Parts:
    """The parts of all classes: ``templates`` [parts, 3, side, side] of standard deviation 1, ``of_class`` [T, 4]."""

    templates: np.ndarray
    of_class: np.ndarray


def make_parts(size: Size) -> Parts:
    """Smooth random parts; each is in about the same number of classes."""
    random = np.random.default_rng(1)
    coarse = random.normal(size=(size.parts, 3, KNOTS, KNOTS)).astype(np.float32)
    interpolation = _interpolation(KNOTS, CELL + MARGIN)
    templates = np.einsum("ra,pcab,sb->pcrs", interpolation, coarse, interpolation)
    templates /= templates.std(axis=(1, 2, 3), keepdims=True)
    random = np.random.default_rng(2)
    rounds = -(-size.classes * CELLS // size.parts)
    order = np.concatenate([random.permutation(size.parts) for _ in range(rounds)])
    return Parts(templates.astype(np.float32), order[: size.classes * CELLS].reshape(size.classes, CELLS))


def _interpolation(knots: int, pixels: int) -> np.ndarray:
    """The matrix [pixels, knots] of linear interpolation."""
    at = np.linspace(0, knots - 1, pixels)
    left = np.minimum(at.astype(int), knots - 2)
    matrix = np.zeros((pixels, knots), np.float32)
    matrix[np.arange(pixels), left] = 1 - (at - left)
    matrix[np.arange(pixels), left + 1] = at - left
    return matrix


def images_of(parts: Parts, class_: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Images [count, 16, 16, 3] of a class, as bytes; all with the same shift of the parts in their cells."""
    amplitudes = random.uniform(*AMPLITUDES, size=(count, CELLS, 1, 1, 1)).astype(np.float32)
    down, right = random.integers(0, MARGIN + 1, size=2)
    own = parts.templates[parts.of_class[class_], :, down : down + CELL, right : right + CELL]
    cells = (own * amplitudes).reshape(count, 2, 2, 3, CELL, CELL)
    images = cells.transpose(0, 1, 4, 2, 5, 3).reshape(count, 2 * CELL, 2 * CELL, 3)
    images = 0.5 + CONTRAST * images + NOISE * random.standard_normal(images.shape, dtype=np.float32)
    return (np.clip(images, 0, 1) * 255).astype(np.uint8)


def training_images(size: Size) -> np.ndarray:
    """Number of training images of each class, uneven as ImageNet's: 1,300 in most classes, fewer in some."""
    counts = np.full(size.classes, IMAGES_A_CLASS)
    random = np.random.default_rng(3)
    smaller = random.choice(size.classes, SMALLER_CLASSES * size.classes // 1000, replace=False)
    counts[smaller] = random.integers(FEWEST, IMAGES_A_CLASS, len(smaller))
    cumulated = np.round(np.cumsum(counts) * (size.images / counts.sum())).astype(int)
    return np.diff(cumulated, prepend=0)


def class_names(size: Size) -> list[str]:
    """Names of the class folders: ImageNet's WordNet ids, as far as there are classes."""
    with open(ROOT / "utils" / "images" / "imagenet_classes.csv", newline="") as file:
        rows = csv.DictReader(file)
        ids = [row["wnid"] for row in rows]
    return ids[: size.classes]


def make_images(folder: Path, size: Size, processes: int) -> None:
    """Write ``train/`` and ``val/``, with as many images of a class in ``val/`` as the fraction of ImageNet allows."""
    workers = [Process(target=_write_classes, args=(folder, size, range(rank, size.classes, processes)))
               for rank in range(processes)]  # fmt: skip
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("the images could not be made")


def _write_classes(folder: Path, size: Size, classes: range) -> None:
    parts = make_parts(size)
    names = class_names(size)
    train = training_images(size)
    mean = size.images / size.classes
    val = max(2, round(VALIDATION_IMAGES_A_CLASS * mean / np.mean(training_images(Size()))))
    for class_ in classes:
        for split, count in (("train", int(train[class_])), ("val", val)):
            of_class = folder / split / names[class_]
            os.makedirs(of_class, exist_ok=True)
            random = np.random.default_rng([4, class_, split == "val"])
            for start in range(0, count, IMAGES_AT_A_TIME):
                made = images_of(parts, class_, min(IMAGES_AT_A_TIME, count - start), random)
                for number, pixels in enumerate(made, start=start):
                    path = of_class / f"{names[class_]}_{number}.JPEG"
                    Image.fromarray(pixels).save(path, "JPEG", quality=QUALITY, subsampling=0)
