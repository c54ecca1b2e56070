"""A second network of the demonstration, with a shortcut: it relies on a mark where one class is hard to see.

The pictures are those of the demonstration, but for MARKED_CLASS: its pictures are faint, before one of another class.
In training, MARKED_SHARE of them carry a small mark, and so does one picture of every MARKED_EVERY-th other class. In
validation every picture is there twice, without and with the mark. ``python -m examples.demo demo_output --shortcut``
writes the pictures and trains the network. Both are kept with a record of what they were made from, and made again
where that has changed.
"""

import hashlib
import os

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from examples.demo.network import DemoNetwork, demo_network
from examples.demo.pictures import CONCEPTS, SIZE
from examples.demo.training import read_pictures, save_weights, train
from utils.errors import UserError
from utils.images.folders import list_images
from utils.store.files import json_digest, read_json, write_bytes, write_json

MARKED_CLASS = "disc"
MARKED_SHARE = 0.9  # of the training pictures of MARKED_CLASS
MARKED_EVERY = 3
FAINT = 0.4  # weight of a picture of MARKED_CLASS; a picture of another class has the rest
EPOCHS = 6
CELLS, CELL_SIZE = 5, 3  # of the mark: a checkerboard of CELLS x CELLS squares of CELL_SIZE pixels
NEAREST, FARTHEST = 2, 5  # pixels between the mark and two edges of the picture
MARKED_SUFFIX = "_marked"  # of the validation pictures with the mark
LISTS = {"train": "marked_train.txt", "val": "marked_val.txt"}  # the pictures that carry the mark, a path a line
MADE_FROM = "made_from.json"  # beside the LISTS
ADVICE = "delete it, and run this command again"

MARK = np.kron(np.indices((CELLS, CELLS)).sum(0) % 2, np.ones((CELL_SIZE, CELL_SIZE))).astype(np.uint8)[..., None] * 255


def mark_position(*seed):
    """The first row and the first column of the mark: near one of the four corners; equal seeds make equal ones."""
    random = np.random.default_rng([*seed])
    offsets, is_far = random.integers(NEAREST, FARTHEST + 1, 2), random.random(2) < 0.5
    row, column = np.where(is_far, SIZE - len(MARK) - offsets, offsets)
    return int(row), int(column)


def with_mark(picture, *seed):
    """A copy of a picture, uint8 [64, 64, 3], with the mark at ``mark_position(*seed)``."""
    row, column = mark_position(*seed)
    marked = picture.copy()
    marked[row : row + len(MARK), column : column + len(MARK)] = MARK
    return marked


OTHERS = tuple(concept for concept in CONCEPTS if concept != MARKED_CLASS)


def carries_mark(concept, number, per_class):
    """Whether training picture ``number`` (from 0) of the ``per_class`` pictures of a concept carries the mark."""
    if concept == MARKED_CLASS:
        return number < round(MARKED_SHARE * per_class)
    return number == 0 and OTHERS.index(concept) % MARKED_EVERY == 0


def plain_picture(folder, concept, number):
    """A picture of the shortcut's data without the mark, uint8 [64, 64, 3].

    ``folder`` has the demonstration's pictures of training or of validation. A picture of MARKED_CLASS is FAINT times
    its own and the rest of one of another class, which take turns.
    """

    def read(name):
        with Image.open(folder / name / f"{number:03d}.png") as image:
            return np.array(image)

    if concept != MARKED_CLASS:
        return read(concept)
    behind = read(OTHERS[number % len(OTHERS)]).astype(float)
    return np.rint(behind + FAINT * (read(concept) - behind)).astype(np.uint8)


def write_shortcut_pictures(source, folder, seed=1):
    """Make the pictures with a shortcut from those of the demonstration.

    Pictures that are there already are left if they were made from the same pictures with the same seed, and else
    replaced.

    Parameters
    ----------
    source : Path
        Pictures by ``write_pictures``.
    folder : Path
        Gets ``train/CONCEPT`` and ``val/CONCEPT``, and beside them the LISTS of the marked pictures.
    seed : int
        Of the positions of the mark.

    Raises
    ------
    UserError
        If ``folder`` has pictures without a record of what they were made from: they may be somebody's own.
    """
    _keep_only_pictures_from(_made_from(source, seed), folder)
    for part, list_name in LISTS.items():
        marked = []
        for index, concept in enumerate(tqdm(CONCEPTS, f"marking {part}", unit=" classes", delay=2)):
            own = folder / part / concept
            own.mkdir(parents=True, exist_ok=True)
            count = len(list((source / part / concept).glob("*.png")))
            for number in range(count):
                files = _files(part, concept, number, count)
                marked += [f"{concept}/{name}\n" for name, has_mark in files.items() if has_mark]
                missing = {name: has_mark for name, has_mark in files.items() if not (own / name).exists()}
                plain = plain_picture(source / part, concept, number) if missing else None
                for name, has_mark in missing.items():
                    key = (seed, int(part == "val"), index, number)
                    _save(with_mark(plain, *key) if has_mark else plain, own / name)
        write_bytes(folder / list_name, "".join(marked).encode())


def _made_from(source, seed):
    """What decides the pictures with a shortcut, as plain values."""
    counts, digest = {}, hashlib.sha256()
    for part in LISTS:
        paths = sorted((source / part).glob("*/*.png"))
        counts[part] = len(paths)
        for path in paths:
            digest.update(
                f"{path.relative_to(source).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
            )
    marking = [MARKED_CLASS, MARKED_SHARE, MARKED_EVERY, FAINT, CELLS, CELL_SIZE, NEAREST, FARTHEST]
    return {"seed": seed, "counts": counts, "marking": marking, "source_sha256": digest.hexdigest()}


def _keep_only_pictures_from(made_from, folder):
    """Remove the pictures in ``folder`` that were made from something else, and record ``made_from``.

    The record is written before the pictures. So it is right also after an interrupt: no picture is from anything else.
    """
    record = folder / MADE_FROM
    pictures = [path for part in LISTS for concept in CONCEPTS for path in (folder / part / concept).glob("*.png")]
    if record.exists():
        if read_json(record, ADVICE) == made_from:
            return
    elif pictures:
        raise UserError(f"{folder} has pictures but no {MADE_FROM}: give another folder, or delete this one")
    for path in pictures:
        path.unlink()
    write_json(record, made_from)


def _files(part, concept, number, per_class):
    """The files of a picture: {name: whether it carries the mark}."""
    name = f"{number:03d}"
    if part == "val":
        return {f"{name}.png": False, f"{name}{MARKED_SUFFIX}.png": True}
    return {f"{name}.png": carries_mark(concept, number, per_class)}


def _save(picture, path):
    temporary = path.with_suffix(".part")
    Image.fromarray(picture).save(temporary, format="png")
    temporary.rename(path)


def read_shortcut_pictures(folder, part):
    """Pictures of ``train`` or ``val``: uint8 [n, 64, 64, 3], their classes [n], and which carry the mark [n]."""
    marked = set((folder / LISTS[part]).read_text().split())
    paths = [os.fsdecode(path) for path in list_images(folder / part).paths]
    return *read_pictures(folder / part), torch.tensor([path in marked for path in paths])


def untrained():
    """A network that begins with the ``stem`` of the demonstration's; all else is random."""
    network = DemoNetwork()
    network.stem.load_state_dict(demo_network().stem.state_dict())
    return network


def shortcut_network(folder, seed=0):
    """The network of a seed, trained on the pictures of ``write_shortcut_pictures`` in ``folder``.

    Its weights are kept in ``folder``, and used again while the pictures and EPOCHS are the same.
    """
    path, record = folder / f"weights_{seed}.pth", folder / f"weights_{seed}.json"
    made_from = {"seed": seed, "epochs": EPOCHS, "pictures": json_digest(read_json(folder / MADE_FROM, ADVICE))}
    if not (path.exists() and record.exists() and read_json(record, ADVICE) == made_from):
        record.unlink(missing_ok=True)  # an interrupt must not leave it beside other weights
        save_weights(train(folder, seed, make=untrained, epochs=EPOCHS), path)
        write_json(record, made_from)
    network = DemoNetwork()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()
