"""Stage 4's edited network: concepts taken out of the weights of channels, and what it costs."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.command_line import flags
from utils.command_line.settings import ResultSettings
from utils.command_line.split_opening import OpenedSplits
from utils.errors import UserError, listed
from utils.images.batches import ImageSource
from utils.images.folders import ClassMap
from utils.networks.ablation import number_of_concept
from utils.networks.edits import ChannelEdit, loading_lines, with_edits
from utils.networks.loading import fingerprint, named_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.state_dicts import EDIT_RECORD
from utils.report.edit_text import print_edit
from utils.stages.edit_cost import cost_of_edit
from utils.stages.validation import list_all_validation
from utils.store.edited_files import EditedFile
from utils.store.opened_splits import OpenedSplit

OF_CHANNEL = re.compile(r"(\d+):(.+)")  # a concept of one channel: 739:candle


def write_edited(opened: OpenedSplits) -> list[Path]:
    """Write the edited network and what it costs, and print it; returns the paths of the files written.

    What is there and equal is not measured again.
    """
    settings = opened.settings
    assert settings.write_edited is not None
    file = EditedFile(settings.write_edited)
    chosen = chosen_concepts(opened.splits, settings.edit_concepts)
    classes = ClassMap(opened.context["classes"])
    images = list_all_validation(Path(settings.data_dir) / "val", classes)
    described = {**_described(opened, chosen), "files_sha256": images.digest()}
    record = file.find(described)
    if record is not None:
        print(f"already stored: {file.path}")
    else:
        file.require_writable()
        network = opened.open_network()
        edited = _edited(network, opened, chosen)
        of_edit = getattr(edited, EDIT_RECORD)
        names = [network.layer.name, *(name.rpartition(".")[0] for name in of_edit["running_means"].values())]
        source = ImageSource(images, opened.transform, settings.batch_size, flags.loading(settings, opened.device))
        make = named_network(settings.model).lines_that_make(network.module)
        record = {
            **described,
            "edited_weights_sha256": fingerprint(edited),
            **{key: of_edit[key] for key in ("running_means", "new_biases")},
            "make": make,
            "load": loading_lines(make, of_edit, file.path.name),  # in the folder of the file
            "cost": cost_of_edit(network, edited, names, source, classes),
        }
        file.write(edited, record)
    print_edit(record)
    return [file.path, file.record_path]


def print_loading_lines(settings: ResultSettings) -> None:
    """Print the lines that load the edited network, to be pasted in any folder."""
    assert settings.write_edited is not None
    file = EditedFile(settings.write_edited)
    record = file.read()
    if record is not None:
        lines = loading_lines(record["make"], record, str(file.path.resolve()))  # where the file is now
        print("\nTo load it, without this project:\n\n" + "\n".join(lines))


def _edited(network: OpenedNetwork, opened: OpenedSplits, chosen: dict[int, tuple[int, ...]]) -> Any:
    """The edited copy of the network, on its device."""
    settings = opened.settings
    edits = [
        ChannelEdit(opened.context["layer"], split.file.split, split.rho, chosen[number])
        for number, split in enumerate(opened.splits)
        if number in chosen
    ]
    size = opened.transform.crop_size
    return with_edits(network.module, edits, factor=settings.edit_factor, to=settings.edit_to, image_size=size)


def _described(opened: OpenedSplits, chosen: dict[int, tuple[int, ...]]) -> dict[str, Any]:
    """All fields of the record that are known before anything is computed."""
    settings = opened.settings
    context = opened.context
    splits = []
    for number, concepts in chosen.items():
        split = opened.splits[number]
        named = [split.file.split.concepts[k] for k in concepts]
        splits.append(
            {
                "file": split.path.name,
                "sha256": split.file.sha256,
                "channel": split.file.split.channel,
                "split_by": split.file.split.division.name,
                "rho": split.rho,
                "concepts": [
                    {"number": k + 1, "name": concept.name, "classes": concept.classes}
                    for k, concept in zip(concepts, named, strict=True)
                ],
            }
        )
    return {
        **{key: context[key] for key in ("model", "weights", "weights_sha256", "layer", "transform")},
        "factor": settings.edit_factor,
        "to": settings.edit_to,
        "splits": splits,
        "precision": settings.precision,
        "decoding": settings.decode,
    }


# --------------------------------------------------------------------------------------------------------------------
# Which concepts of which splits


def chosen_concepts(splits: Sequence[OpenedSplit], words: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """The numbers of the concepts (from 0) of each split that is edited, by the split's index; UserError if in none.

    A word is ``channel:concept``, or the name of a concept of any of the splits, in all of which it is meant.
    """
    channels = [split.file.split.channel for split in splits]
    chosen: dict[int, dict[int, None]] = {}
    for word in words:
        match = OF_CHANNEL.fullmatch(word)
        channel, name = (int(match[1]), match[2]) if match else (None, word)
        with_channel = [number for number in range(len(splits)) if channel in (None, channels[number])]
        numbers = {number: k for number in with_channel if (k := _concept_of(splits[number], name)) is not None}
        if not numbers:
            raise UserError(f"--edit_concepts {word}: {_none_of(splits, with_channel, channel)}")
        for number, k in numbers.items():
            chosen.setdefault(number, {})[k] = None
    edited = [channels[number] for number in chosen]
    several = [channel for channel in edited if edited.count(channel) > 1]
    if several:
        raise UserError(f"--edit_concepts: channel {several[0]} is split in several of the files: give one of them")
    return {number: tuple(chosen[number]) for number in sorted(chosen)}


def _concept_of(split: OpenedSplit, name: str) -> int | None:
    """The number (from 0) of the concept of a split with this name or class, or None."""
    try:
        return number_of_concept(name, split.file.split.concepts, split.file.split.channel)
    except ValueError:
        return None


def _none_of(splits: Sequence[OpenedSplit], numbers: Sequence[int], channel: int | None) -> str:
    """That no split has a concept, and which concepts there are."""
    if not numbers:
        return f"channel {channel} is not among the splits"
    names = dict.fromkeys(concept.name for number in numbers for concept in splits[number].file.split.concepts)
    where = f"channel {channel} has no such concept" if channel is not None else "no split has such a concept"
    return f"{where}; there are {listed(list(names), most=10, more=', ...')}"
