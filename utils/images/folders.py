"""Class folders: their images, and the network output that each folder stands for."""

import csv
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from utils.errors import UserError, nearest, printable, quoted, shortened
from utils.processes import progress

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageList:
    """The images of some class folders, in arrays: a list of strings would be copied into every worker process.

    Parameters
    ----------
    root : Path
    folders : list of str
        Names of the class folders.
    paths : array of bytes [N]
        Relative to ``root``, sorted.
    sizes : array of int [N]
        Sizes of the files in bytes.
    folder_of : array of int [N]
        The index in ``folders`` of each image.
    contents : masked array of uint64 [N], optional
        The contents that the images must have when they are read, masked where the content is not known (stage 1 left
        the image out); None if no content is known.
    """

    root: Path
    folders: list[str]
    paths: np.ndarray
    sizes: np.ndarray
    folder_of: np.ndarray
    contents: np.ma.MaskedArray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.paths[index])

    def with_contents(self, indices: np.ndarray, contents: np.ndarray) -> "ImageList":
        """The same images with the contents that some of them must have.

        Parameters
        ----------
        indices : array of int [n]
        contents : array of uint64 [n]
            As in an ``ImageBatch``.
        """
        all_contents = np.ma.masked_all(len(self), np.uint64)
        all_contents[indices] = contents
        return replace(self, contents=all_contents)

    def content(self, index: int) -> int | None:
        """The content that an image must have, or None if it is unknown."""
        content = np.ma.masked if self.contents is None else self.contents[index]
        return None if content is np.ma.masked else int(content)

    def at(self, indices: np.ndarray) -> "ImageList":
        """The images at some indices, in this order; an index given twice gives its image twice."""
        return replace(
            self,
            paths=self.paths[indices],
            sizes=self.sizes[indices],
            folder_of=self.folder_of[indices],
            contents=None if self.contents is None else self.contents[indices],
        )

    def counts(self) -> dict[str, int]:
        """Number of images by folder name."""
        counts = np.bincount(self.folder_of, minlength=len(self.folders)).tolist()
        return dict(zip(self.folders, counts, strict=True))

    def digest(self) -> str:
        """SHA-256 of the relative paths and sizes: independent of where ``root`` is."""
        digest = hashlib.sha256()
        for path, size in zip(self.paths.tolist(), self.sizes.tolist(), strict=True):
            digest.update(b"%s\0%d\n" % (path, size))
        return digest.hexdigest()


def class_folders(root: str | Path) -> list[str]:
    """Names of the class folders of ``train/`` or ``val/``, sorted; UserError if there are none."""
    if not Path(root).is_dir():
        raise UserError(
            f"there is no folder {root}: --data_dir must hold train/ and val/, with one sub-folder per class"
        )
    present = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not present:
        flat = any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in os.scandir(root))
        content = "images but no class folders: sort them into one sub-folder per class" if flat else "no class folders"
        raise UserError(f"{root} has {content}")
    return present


def list_images(root: str | Path, folders: list[str] | None = None) -> ImageList:
    """List the images in the class folders of ``root``, sub-folders included, hidden files and folders ignored.

    Parameters
    ----------
    root : Path
        ``train/`` or ``val/``.
    folders : list of str, optional
        Names of the class folders; default: all.

    Raises
    ------
    UserError
        No such folder, no class folders, or a class without images.
    """
    root = Path(root)
    present = class_folders(root)
    folders = present if folders is None else folders
    missing = sorted(set(folders) - set(present))
    if missing:
        raise UserError(f"{root} has no class folder {printable(missing[0])}")
    names = progress(folders, "listing images", delay=2, leave=False)
    files_of_folders = [sorted(_scan(root / name, name)) for name in names]
    empty = [name for name, files in zip(folders, files_of_folders, strict=True) if not files]
    if empty:
        raise UserError(f"class folder {printable(str(root / empty[0]))} has no images ({', '.join(IMAGE_SUFFIXES)})")
    files = [file for files_of_folder in files_of_folders for file in files_of_folder]
    return ImageList(
        root=root,
        folders=folders,
        paths=np.array([os.fsencode(path) for path, _ in files]),
        sizes=np.array([size for _, size in files], dtype=np.int64),
        folder_of=np.repeat(np.arange(len(folders)), [len(files_of_folder) for files_of_folder in files_of_folders]),
    )


def has_images(folder: Path) -> bool:
    """Whether ``list_images`` would find an image in a class folder."""
    return any(True for _ in _scan(folder, ""))


def _scan(folder: str | Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Path, from ``prefix`` on, and size in bytes of every image in a folder and its sub-folders."""
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _scan(entry.path, f"{prefix}/{entry.name}")
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            status = entry.stat()  # raises for a broken link, whose image is missing
            if stat.S_ISREG(status.st_mode):
                yield f"{prefix}/{entry.name}", status.st_size


# --------------------------------------------------------------------------------------------------------------------
# Classes: folders of images, outputs of the network, and names for people.


INTEGER = re.compile(r"-?[0-9]+")  # not \d, which also matches "٣": that is the name of a folder
MOST_DIGITS = 18  # of an integer that can be a network output; int() refuses thousands of digits

# Suggestions for a text that is not the name of a class
MOST_NEAR = 5  # names
FEW_NEAR = 3  # names if none is really similar
LEAST_WORD = 4  # letters of a word that says something when two names share it

HOW_TO_MAP_FOLDERS = "write the output of each folder to a file and give it with --class_map FILE"


@cache
def imagenet_classes() -> dict[str, str]:
    """WordNet ids of the 1000 ImageNet classes in the order of a network's outputs, with their names."""
    with open(Path(__file__).with_name("imagenet_classes.csv"), newline="", encoding="utf-8") as file:
        return {row["wnid"]: row["name"] for row in csv.DictReader(file)}


# --------------------------------------------------------------------------------------------------------------------
# Which folder is which output


def map_folders(
    folders: list[str],
    num_outputs: int,
    *,
    has_imagenet_classes: bool = False,
    class_map: dict[str, int] | None = None,
) -> dict[str, int]:
    """Map class folders to network outputs, by the first of these rules that applies.

    1. A class map is given.
    2. Folders named by integers in 0 ... ``num_outputs`` - 1, not necessarily all of these: each names its output.
       (Their order cannot be used: "10" comes before "2". The meaning of integers that begin with 1 is unknown.)
    3. Folders named by WordNet ids with a 1000-way network, ImageNet or a subset: each id has its output.
    4. As many folders as outputs: their order is the outputs' order, unless the outputs are known to be the classes of
       ImageNet, whatever the folders are called.

    Parameters
    ----------
    folders : list of str
        Names of the class folders, sorted.
    num_outputs : int
    has_imagenet_classes : bool
        Whether the outputs are known to be the 1000 classes of ImageNet, in their order.
    class_map : dict of folder -> output, optional
        From ``read_class_map``; folders in it that do not exist are ignored.

    Returns
    -------
    dict of folder -> output

    Raises
    ------
    UserError
        No rule applies, or the class map or the integers do not fit the outputs.
    """
    if class_map is not None:
        return _by_class_map(folders, num_outputs, class_map)
    if all(INTEGER.fullmatch(folder) for folder in folders):
        return _by_number(folders, num_outputs)
    outputs = {wnid: output for output, wnid in enumerate(imagenet_classes())}
    unknown = [folder for folder in folders if folder not in outputs]
    if num_outputs == len(outputs) and not unknown:
        return {folder: outputs[folder] for folder in folders}
    if len(folders) == num_outputs and not has_imagenet_classes:
        return {folder: output for output, folder in enumerate(folders)}
    if len(folders) == num_outputs:
        reason = f"the outputs of these pretrained weights are the {num_outputs} classes of ImageNet"
    else:
        reason = f"the network has {num_outputs} outputs but train/ has {len(folders)} class folders"
    if num_outputs == len(outputs):
        raise UserError(
            f"{reason}, and {printable(unknown[0])} is not a WordNet id of ImageNet, which would determine its output: "
            f"{HOW_TO_MAP_FOLDERS}"
        )
    raise UserError(f"{reason}: the outputs of the folders cannot be determined; {HOW_TO_MAP_FOLDERS}")


def _by_class_map(folders: list[str], num_outputs: int, class_map: dict[str, int]) -> dict[str, int]:
    for folder, output in class_map.items():
        if output >= num_outputs:
            raise UserError(
                f"--class_map: folder {quoted(folder)} has output {output}, but the network has outputs "
                f"0 to {num_outputs - 1}"
            )
    missing = [folder for folder in folders if folder not in class_map]
    if missing:
        raise UserError(f"--class_map: there is no row for class folder {quoted(missing[0])} of train/")
    return {folder: class_map[folder] for folder in folders}


def _by_number(folders: list[str], num_outputs: int) -> dict[str, int]:
    outputs = {str(output): output for output in range(num_outputs)}
    unknown = [folder for folder in folders if folder not in outputs]
    if unknown:
        raise UserError(
            f"class folders that are named by integers must be named 0 to {num_outputs - 1}, as the network's outputs, "
            f"and {quoted(unknown[0])} is not: {HOW_TO_MAP_FOLDERS}"
        )
    return {folder: outputs[folder] for folder in folders}


def read_class_map(path: str | Path) -> dict[str, int]:
    """Read a class map: which class folder stands for which network output.

    Parameters
    ----------
    path : Path or str
        A CSV file with the header ``folder,output``, in UTF-8.

    Returns
    -------
    dict of folder -> output

    Raises
    ------
    UserError
        The file cannot be read, its header is wrong, an output is not a number, or a folder or an output occurs twice.
    """
    try:
        # bytes that are not UTF-8 become the same text as in the names of folders
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            rows = [(f"--class_map {path}, line {reader.line_num}", row) for row in reader if row]
    except (OSError, csv.Error) as error:
        raise UserError(f"--class_map {path}: {getattr(error, 'strerror', None) or error}") from error
    if header != ["folder", "output"]:
        raise UserError(f"--class_map {path}: its header must be folder,output, not {quoted(','.join(header))}")
    class_map: dict[str, int] = {}
    folders: dict[int, str] = {}
    for where, row in rows:
        if len(row) != 2:
            raise UserError(f"{where}: it must have a folder and an output, not {len(row)} values")
        folder = row[0]
        text = row[1].strip()
        if not INTEGER.fullmatch(text) or text.startswith("-") or len(text) > MOST_DIGITS:
            raise UserError(f"{where}: the output must be a whole number from 0, not {quoted(text)}")
        output = int(text)
        if folder in class_map:
            raise UserError(f"{where}: folder {quoted(folder)} occurs twice")
        if output in folders:
            raise UserError(f"{where}: output {output} has two folders, {quoted(folders[output])} and {quoted(folder)}")
        class_map[folder] = output
        folders[output] = folder
    return class_map


# --------------------------------------------------------------------------------------------------------------------
# Names of classes


@dataclass
class ClassMap:
    """Which class folder stands for which network output: ``outputs`` {folder: output}, determined once in stage 1."""

    outputs: dict[str, int]

    def __post_init__(self) -> None:
        self._folders = {output: folder for folder, output in self.outputs.items()}

    def folder(self, output: int) -> str:
        return self._folders[output]

    def name(self, output: int) -> str:
        """The printable name of the class: ImageNet's name if the folder is a WordNet id, else the folder's name."""
        folder = self._folders[output]
        return imagenet_classes().get(folder) or printable(folder)

    def concept_name(self, concept: Iterable[int]) -> str:
        """The names of a concept's classes, joined."""
        return " + ".join(self.name(output) for output in concept)

    def resolve(self, concepts: Sequence[Sequence[str | int]], num_outputs: int) -> list[list[int]]:
        """Turn the classes given on the command line into sorted network outputs.

        Parameters
        ----------
        concepts : list of lists of str or int
            The classes of each concept. An integer, as text or not, is a network output. Other text is the name of a
            class folder, and so is an integer followed by a slash, ``5/``. Text that is not a folder is the name of a
            class, if only one class has it. It is compared first as it is printed, then ignoring case and with ``_`` or
            ``-`` for a space.
        num_outputs : int

        Raises
        ------
        UserError
            A class is out of range, has no images, is unknown, is given twice, or is given by a name that several
            classes have; or an integer given as text is an output and also the name of another output's folder.
        """
        resolved: list[list[int]] = []
        seen: dict[int, str] = {}
        for number, classes in enumerate(concepts, start=1):
            flag = f"--classes_for_concept{number}"
            outputs = [self._output(flag, given, num_outputs) for given in classes]
            for output in outputs:
                if output in seen:
                    raise UserError(f"{flag}: class {output} is in {seen[output]} too; a class can be given only once")
                seen[output] = flag
            resolved.append(sorted(outputs))
        return resolved

    def _output(self, flag: str, given: str | int, num_outputs: int) -> int:
        text = str(given)
        if not INTEGER.fullmatch(text):
            return self._output_of_text(flag, text)
        output = int(text) if len(text) <= MOST_DIGITS else num_outputs
        if not 0 <= output < num_outputs:
            raise UserError(
                f"{flag}: class {shortened(text)} is out of range, the network has outputs 0 to {num_outputs - 1}"
            )
        if isinstance(given, str) and self.outputs.get(given, output) != output:
            raise UserError(f"{flag}: {self._two_meanings(given, output)}")
        if output not in self._folders:
            raise UserError(f"{flag}: class {output} has no folder, and so no images, in train/")
        return output

    def _two_meanings(self, given: str, output: int) -> str:
        folders = [name for name in (self._folders.get(output), given) if name is not None]
        return (
            f"{given} is output {output} and also the folder of output {self.outputs[given]}: "
            f"write {' or '.join(f'{printable(name)}/' for name in folders)}, the folder with a slash"
        )

    def _output_of_text(self, flag: str, given: str) -> int:
        folder = given.removesuffix("/")
        if folder in self.outputs:
            return self.outputs[folder]
        named = [] if given.endswith("/") else self._named(given)
        if len(named) == 1:
            return named[0]
        if named:
            raise UserError(f"{flag}: {quoted(given)} is the name of {len(named)} classes: {self._choices(named)}")
        elsewhere = self._of_imagenet_without_folder(folder)
        reason = f"there is no class folder {quoted(given)}, and no class of that name"
        if elsewhere:
            reason = f"{elsewhere} is a class of ImageNet but has no folder, and so no images, in train/"
        near = self._near(given)
        if near:
            reason += f"; similar: {self._choices(near)}"
        elif not elsewhere:
            reason += f"; for example: {self._choices(self._least_different(given))}"
        raise UserError(f"{flag}: {reason}")

    def _named(self, text: str) -> list[int]:
        """The outputs of the classes with this name: spelled as it is printed, else by ``spelling``."""
        for normalised in (str, spelling):
            matches = [output for output in self._folders if normalised(self.name(output)) == normalised(text)]
            if matches:
                return sorted(matches)
        return []

    def _of_imagenet_without_folder(self, text: str) -> str:
        """The ImageNet classes of this WordNet id or name, if the folders are WordNet ids but theirs is not there."""
        classes = imagenet_classes()
        if not any(folder in classes for folder in self.outputs):
            return ""
        missing = {wnid: name for wnid, name in classes.items() if wnid not in self.outputs}
        named = [wnid for wnid, name in missing.items() if text == wnid or spelling(text) == spelling(name)]
        return " or ".join(f"{classes[wnid]} ({wnid})" for wnid in named)

    def _near(self, text: str) -> list[int]:
        """The outputs of the classes whose name, or a word of it, is similar to a text; most similar first.

        Classes that share a word with the text follow.
        """
        names = self._spellings()
        given = spelling(text)
        words = {word for word in given.split() if len(word) >= LEAST_WORD}
        sharing = [output for output, (_, *of_name) in names.items() if words & set(of_name)]
        return list(dict.fromkeys([*nearest(given, names, MOST_NEAR), *sharing]))[:MOST_NEAR]

    def _least_different(self, text: str) -> list[int]:
        """The outputs of the classes with the most similar names, although none is really similar."""
        return nearest(spelling(text), self._spellings(), FEW_NEAR, similarity=0)

    def _spellings(self) -> dict[int, tuple[str, ...]]:
        """The name of each class and its words, by ``spelling``."""
        whole = {output: spelling(self.name(output)) for output in sorted(self._folders)}
        return {output: (name, *name.split()) for output, name in whole.items()}

    def _choices(self, outputs: Iterable[int]) -> str:
        """Classes to choose from: names, with outputs and folders that distinguish them."""
        folders = {output: printable(self._folders[output]) for output in outputs}
        named = {output: self.name(output) for output in outputs}
        return ", ".join(
            f"{shortened(named[output])} ({output}{'' if folder == named[output] else f', {folder}'})"
            for output, folder in folders.items()
        )


def spelling(name: str) -> str:
    """A name in lower case, with spaces in place of ``_`` and ``-``."""
    return " ".join(re.split(r"[\s_-]+", name.casefold()))
