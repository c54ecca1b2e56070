"""Class folders: the images in them, and which output of the network each of them is."""

import csv
import difflib
import hashlib
import os
import re
import stat
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from utils.errors import UserError, printable, quoted, shortened
from utils.images.batches import progress

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageList:
    """The images of some class folders: ``paths`` relative to ``root``, sorted; ``sizes`` in bytes.

    ``folder_of[i]`` is the index in ``folders`` of image i. ``contents`` uint64 [N] are those that the images must have
    when they are read, masked where that is not known (stage 1 left the image out); None: of no image. Arrays, not
    lists: a million Python strings would be copied into every worker process.
    """

    root: Path
    folders: list
    paths: np.ndarray
    sizes: np.ndarray
    folder_of: np.ndarray
    contents: np.ma.MaskedArray | None = None

    def __len__(self):
        return len(self.paths)

    def path(self, index):
        return self.root / os.fsdecode(self.paths[index])

    def with_contents(self, indices, contents):
        """The same images, the contents of some of which are known.

        Parameters
        ----------
        indices : array of int [n]
        contents : array of uint64 [n]
            As an ``ImageBatch`` has them.
        """
        known = np.ma.masked_all(len(self), np.uint64)
        known[indices] = contents
        return replace(self, contents=known)

    def content(self, index):
        """The content that an image must have, or None where it is not known."""
        content = np.ma.masked if self.contents is None else self.contents[index]
        return None if content is np.ma.masked else int(content)

    def at(self, indices):
        """The images at some indices, in their order, one that is there twice twice."""
        contents = None if self.contents is None else self.contents[indices]
        parts = {name: getattr(self, name)[indices] for name in ("paths", "sizes", "folder_of")}
        return replace(self, **parts, contents=contents)

    def counts(self):
        """Number of images by folder name."""
        counts = np.bincount(self.folder_of, minlength=len(self.folders)).tolist()
        return dict(zip(self.folders, counts, strict=True))

    def digest(self):
        """SHA-256 of the relative paths and sizes: equal content at another place is equal."""
        digest = hashlib.sha256()
        for path, size in zip(self.paths.tolist(), self.sizes.tolist(), strict=True):
            digest.update(b"%s\0%d\n" % (path, size))
        return digest.hexdigest()


def class_folders(root):
    """Names of the class folders of ``train/`` or ``val/``, sorted; UserError where there are none."""
    if not Path(root).is_dir():
        raise UserError(f"there is no folder {root}: --data_dir must hold train/ and val/, one sub-folder a class")
    present = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not present:
        flat = any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in os.scandir(root))
        what = "images but no class folders: sort them into one sub-folder a class" if flat else "no class folders"
        raise UserError(f"{root} has {what}")
    return present


def list_images(root, folders=None):
    """List the images in the class folders of ``root``, sub-folders included, hidden files and folders ignored.

    Parameters
    ----------
    root : Path
        ``train/`` or ``val/``.
    folders : list of str, optional
        The class folders asked for; default: all.

    Raises
    ------
    UserError
        No such folder, no class folders, or a class without images.
    """
    root, present = Path(root), class_folders(root)
    folders = present if folders is None else folders
    missing = sorted(set(folders) - set(present))
    if missing:
        raise UserError(f"{root} has no class folder {printable(missing[0])}")
    found = [sorted(_scan(root / name, name)) for name in progress(folders, "listing images", delay=2, leave=False)]
    empty = [name for name, files in zip(folders, found, strict=True) if not files]
    if empty:
        raise UserError(f"class folder {printable(str(root / empty[0]))} has no images ({', '.join(IMAGE_SUFFIXES)})")
    files = [file for of_folder in found for file in of_folder]
    return ImageList(
        root,
        folders,
        np.array([os.fsencode(path) for path, _ in files]),
        np.array([size for _, size in files], dtype=np.int64),
        np.repeat(np.arange(len(folders)), [len(of_folder) for of_folder in found]),
    )


def has_images(folder):
    """Whether ``list_images`` would find an image in a class folder."""
    return any(True for _ in _scan(folder, ""))


def _scan(folder, prefix):
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _scan(entry.path, f"{prefix}/{entry.name}")
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            status = entry.stat()  # of a link that leads nowhere an error: its image is missing
            if stat.S_ISREG(status.st_mode):
                yield f"{prefix}/{entry.name}", status.st_size


# --------------------------------------------------------------------------------------------------------------------
# Classes: folders of images, outputs of the network, and names for people.


INTEGER = re.compile(r"-?[0-9]+")  # not \d: "٣" is the name of a folder
MOST_DIGITS = 18  # of an integer that could be an output; int() refuses thousands of them

# Names to suggest: so many, so much alike (difflib's ratio), for a text of so many characters
MOST_NEAR, NEAR, LONGEST_NAME = 5, 0.7, 100

HOW_TO_SAY_IT = "say which folder is which output with --class_map FILE"


@cache
def imagenet_classes():
    """WordNet ids of the 1000 ImageNet classes in the order of a network's outputs, with their names."""
    with open(Path(__file__).with_name("imagenet_classes.csv"), newline="", encoding="utf-8") as file:
        return {row["wnid"]: row["name"] for row in csv.DictReader(file)}


# --------------------------------------------------------------------------------------------------------------------
# Which folder is which output


def map_folders(folders, num_outputs, *, named_weights=False, class_map=None):
    """Map class folders to network outputs, by the first of these rules that applies.

    1. A class map says it.
    2. Folders named by integers: all are 0 ... ``num_outputs`` - 1, not necessarily all of these, and mean themselves.
       (Their order would not do: "10" comes before "2". Those that begin with 1 could mean anything.)
    3. Folders named by WordNet ids with a 1000-way network, ImageNet or a subset: each id gives its output.
    4. As many folders as outputs: their order is the outputs' order. Not with named weights, whose outputs are
       ImageNet's and not in the order of any other names.

    Parameters
    ----------
    folders : list of str
        Names of the class folders, sorted.
    num_outputs : int
    named_weights : bool
        Whether the network has weights that torchvision names, which all are ImageNet's.
    class_map : dict of folder -> output, optional
        Of ``read_class_map``; folders that are not there are ignored.

    Returns
    -------
    dict of folder -> output

    Raises
    ------
    UserError
        No rule applies, or a class map or integers do not fit.
    """
    if class_map is not None:
        return _by_class_map(folders, num_outputs, class_map)
    if all(INTEGER.fullmatch(folder) for folder in folders):
        return _by_number(folders, num_outputs)
    outputs = {wnid: output for output, wnid in enumerate(imagenet_classes())}
    unknown = [folder for folder in folders if folder not in outputs]
    if num_outputs == len(outputs) and not unknown:
        return {folder: outputs[folder] for folder in folders}
    if len(folders) == num_outputs and not named_weights:
        return {folder: output for output, folder in enumerate(folders)}
    if len(folders) == num_outputs:
        reason = f"the outputs of torchvision's weights are the {num_outputs} classes of ImageNet"
    else:
        reason = f"the network has {num_outputs} outputs but train/ has {len(folders)} class folders"
    if num_outputs == len(outputs):
        raise UserError(
            f"{reason}, and {printable(unknown[0])} is no WordNet id of ImageNet that would give its output: "
            f"{HOW_TO_SAY_IT}"
        )
    raise UserError(f"{reason}: which folder is which output cannot be told; {HOW_TO_SAY_IT}")


def _by_class_map(folders, num_outputs, class_map):
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


def _by_number(folders, num_outputs):
    outputs = {str(output): output for output in range(num_outputs)}
    other = [folder for folder in folders if folder not in outputs]
    if other:
        raise UserError(
            f"class folders that are named by integers must be named 0 to {num_outputs - 1}, as the network's outputs, "
            f"and {quoted(other[0])} is not: {HOW_TO_SAY_IT}"
        )
    return {folder: outputs[folder] for folder in folders}


def read_class_map(path):
    """Read which class folder is which network output.

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
        The file cannot be read, has another header, an output that is no number, or a folder or an output twice.
    """
    try:
        # other bytes become what they are in the names of folders
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            rows = [(f"--class_map {path}, line {reader.line_num}", row) for row in reader if row]
    except (OSError, csv.Error) as error:
        raise UserError(f"--class_map {path}: {getattr(error, 'strerror', None) or error}") from error
    if header != ["folder", "output"]:
        raise UserError(f"--class_map {path}: its header must be folder,output, not {quoted(','.join(header))}")
    class_map, folders = {}, {}
    for where, row in rows:
        if len(row) != 2:
            raise UserError(f"{where}: it must have a folder and an output, not {len(row)} values")
        folder, text = row[0], row[1].strip()
        if not INTEGER.fullmatch(text) or text.startswith("-") or len(text) > MOST_DIGITS:
            raise UserError(f"{where}: the output must be a whole number from 0, not {quoted(text)}")
        output = int(text)
        if folder in class_map:
            raise UserError(f"{where}: folder {quoted(folder)} is there twice")
        if output in folders:
            raise UserError(f"{where}: output {output} has two folders, {quoted(folders[output])} and {quoted(folder)}")
        class_map[folder], folders[output] = output, folder
    return class_map


# --------------------------------------------------------------------------------------------------------------------
# Names of classes


@dataclass
class ClassMap:
    """Which class folder is which network output (``outputs``), as made once in stage 1."""

    outputs: dict

    def __post_init__(self):
        self._folders = {output: folder for folder, output in self.outputs.items()}

    def folder(self, output):
        return self._folders[output]

    def name(self, output):
        """The class's name, fit for print: ImageNet's for a WordNet id, else the folder's."""
        folder = self._folders[output]
        return imagenet_classes().get(folder) or printable(folder)

    def concept_name(self, concept):
        """The names of a concept's classes, joined."""
        return " + ".join(self.name(output) for output in concept)

    def resolve(self, concepts, num_outputs):
        """Turn what was given on the command line into sorted network outputs.

        Parameters
        ----------
        concepts : list of lists of str or int
            Of each concept its classes. An integer, as text or not, is a network output; other text is the name of a
            class folder, and so is an integer with a slash behind it, ``5/``. Text that is no folder is the name of a
            class, where it is that of one alone: as it is printed, else in whatever case and with ``_`` or ``-`` for
            a blank.
        num_outputs : int

        Returns
        -------
        list of lists of int

        Raises
        ------
        UserError
            A class out of range, without images, unknown, named twice, or by a name that several have; or an integer as
            text that is an output and also the name of another one's folder.
        """
        resolved, seen = [], {}
        for number, classes in enumerate(concepts, start=1):
            flag = f"--classes_for_concept{number}"
            outputs = [self._output(flag, given, num_outputs) for given in classes]
            for output in outputs:
                if output in seen:
                    raise UserError(f"{flag}: class {output} is in {seen[output]} too; a class can be given only once")
                seen[output] = flag
            resolved.append(sorted(outputs))
        return resolved

    def _output(self, flag, given, num_outputs):
        text = str(given)
        if not INTEGER.fullmatch(text):
            return self._output_of_text(flag, text)
        output = int(text) if len(text) <= MOST_DIGITS else num_outputs
        if not 0 <= output < num_outputs:
            raise UserError(
                f"{flag}: class {shortened(text)} is out of range, the network has outputs 0 to {num_outputs - 1}"
            )
        if self.outputs.get(given, output) != output:  # only text is the name of a folder
            raise UserError(f"{flag}: {self._two_meanings(given, output)}")
        if output not in self._folders:
            raise UserError(f"{flag}: class {output} has no folder, and so no images, in train/")
        return output

    def _two_meanings(self, given, output):
        folders = [name for name in (self._folders.get(output), given) if name is not None]
        return (
            f"{given} is output {output} and also the folder of output {self.outputs[given]}: "
            f"write {' or '.join(f'{printable(name)}/' for name in folders)}, the folder with a slash"
        )

    def _output_of_text(self, flag, given):
        folder = given.removesuffix("/")
        if folder in self.outputs:
            return self.outputs[folder]
        named = [] if given.endswith("/") else self._named(given)
        if len(named) == 1:
            return named[0]
        if named:
            raise UserError(f"{flag}: {quoted(given)} is the name of {len(named)} classes: {self._choices(named)}")
        near = self._choices(self._near(given))
        hint = f"; near it: {near}" if near else ""
        raise UserError(f"{flag}: there is no class folder {quoted(given)}, and no class of that name{hint}")

    def _named(self, text):
        """The outputs of the classes that a text is the name of, spelled as it is printed or else in another way."""
        for spelling in (str, _spelling):
            found = [output for output in self._folders if spelling(self.name(output)) == spelling(text)]
            if found:
                return sorted(found)
        return []

    def _near(self, text):
        """The outputs of the classes of which the name, or a word of it, is nearest to a text, the nearest first."""
        asked, found = difflib.SequenceMatcher(b=_spelling(text[:LONGEST_NAME])), {}
        for output in sorted(self._folders):
            whole, ratios = _spelling(self.name(output)), []
            for part in (whole, *whole.split()):
                asked.set_seq1(part)
                ratios.append(asked.ratio())
            if max(ratios) >= NEAR:
                found[output] = max(ratios), ratios[0]
        return sorted(found, key=found.get, reverse=True)[:MOST_NEAR]

    def _choices(self, outputs):
        """Classes to choose from: names, with what tells them apart."""
        folders = {output: printable(self._folders[output]) for output in outputs}
        named = {output: self.name(output) for output in outputs}
        return ", ".join(
            f"{shortened(named[output])} ({output}{'' if folder == named[output] else f', {folder}'})"
            for output, folder in folders.items()
        )


def _spelling(name):
    """A name without what people leave out or put differently: case, and ``_`` or ``-`` for a blank."""
    return " ".join(re.split(r"[\s_-]+", name.casefold()))
