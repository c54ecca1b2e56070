"""Classes: folders of images, outputs of the network, and names for people."""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from utils.errors import UserError


@cache
def imagenet_classes():
    """WordNet ids of the 1000 ImageNet classes in the order of a network's outputs, with their names."""
    with open(Path(__file__).with_name("imagenet_classes.csv"), newline="", encoding="utf-8") as file:
        return {row["wnid"]: row["name"] for row in csv.DictReader(file)}


def map_folders(folders, num_outputs):
    """Map class folders (sorted names) to network outputs.

    As many folders as outputs: their order is the outputs' order. Folders named by WordNet ids with a 1000-way
    network (a subset of ImageNet): each id gives its output. Anything else is a UserError.
    """
    if len(folders) == num_outputs:
        return {folder: output for output, folder in enumerate(folders)}
    outputs = {wnid: output for output, wnid in enumerate(imagenet_classes())}
    unknown = [folder for folder in folders if folder not in outputs]
    if num_outputs == len(outputs) and not unknown:
        return {folder: outputs[folder] for folder in folders}
    reason = f"the network has {num_outputs} outputs but train/ has {len(folders)} class folders"
    if num_outputs == len(outputs):
        raise UserError(f"{reason}, and {unknown[0]} is no WordNet id of ImageNet that would give its output")
    raise UserError(f"{reason}: which folder is which output cannot be told")


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
        return imagenet_classes().get(folder, folder.encode(errors="backslashreplace").decode())

    def concept_name(self, concept):
        """The names of a concept's classes, joined."""
        return " + ".join(self.name(output) for output in concept)

    def resolve(self, concepts, num_outputs):
        """Turn what was given on the command line into sorted network outputs.

        Parameters
        ----------
        concepts : list of lists of str
            Of each concept its classes; an integer is a network output, anything else a class folder's name.
        num_outputs : int

        Returns
        -------
        list of lists of int

        Raises
        ------
        UserError
            A class out of range, without images, unknown, or named twice.
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
        if not given.removeprefix("-").isdecimal():
            if given not in self.outputs:
                named = [folder for folder in self.outputs if imagenet_classes().get(folder) == given]
                hint = f"; the folder of that name is {named[0]}, output {self.outputs[named[0]]}" if named else ""
                raise UserError(f"{flag}: there is no class folder {given!r}{hint}")
            return self.outputs[given]
        output = int(given)
        if not 0 <= output < num_outputs:
            raise UserError(f"{flag}: class {output} is out of range, the network has outputs 0 to {num_outputs - 1}")
        if output not in self._folders:
            raise UserError(f"{flag}: class {output} has no folder, and so no images, in train/")
        return output
