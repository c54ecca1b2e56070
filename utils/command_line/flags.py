"""Flags that several scripts share, and their checks. Nothing here imports torch."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from utils import defaults
from utils.command_line.parser import Help
from utils.command_line.ranges import count, finite
from utils.command_line.settings import ImageSettings, ImportanceSettings, StageSettings
from utils.errors import UserError, quoted
from utils.plugins import positive, positive_int
from utils.processes import MOST_WORKERS, default_workers
from utils.report.sheets import SCREEN, SMALLEST_TYPE, WIDTHS, Sheet

if TYPE_CHECKING:
    import torch

    from utils.images.batches import Loading
    from utils.images.transform import Transform
    from utils.networks.loading import LoadedNetwork

Settings = TypeVar("Settings", bound=StageSettings)

STORE_DETAILS = "Each stage writes what the next one reads, and resumes from it after an interrupt."


def settings_of(kind: type[Settings], args: argparse.Namespace, **derived: Any) -> Settings:
    """The settings of a stage from parsed arguments.

    A field has the value of the flag of its name, or the one that is ``derived`` from several flags. Where no flag was
    given, it has the default of the dataclass.
    """
    names = {field.name for field in fields(kind)}
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    return kind(**(given | derived))


def require(args: argparse.Namespace, *names: str) -> None:
    """Raise UserError unless every named argument was given."""
    missing = [f"--{name}" for name in names if getattr(args, name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} must be given (--help explains the flags)")


def add_data_flag(
    folders: argparse._ActionsContainer,
    help: str = "folder of train/ and val/",
    details: str = "They have one sub-folder per class.",
) -> None:
    folders.add_argument(
        "--data_dir",
        default=os.environ.get("DATA_DIR", defaults.DATA_DIR),
        metavar="DIR",
        help=Help(help, f"$DATA_DIR or {defaults.DATA_DIR}", details),
    )


def add_store_flag(folders: argparse._ActionsContainer) -> None:
    folders.add_argument(
        "--store_dir",
        default=os.environ.get("STORE_DIR", defaults.STORE_DIR),
        metavar="DIR",
        help=Help("folder shared by the stages", f"$STORE_DIR or {defaults.STORE_DIR}", STORE_DETAILS),
    )


def add_output_flag(folders: argparse._ActionsContainer, *, only_for_next: bool = False) -> None:
    """Add --output_dir; ``only_for_next``: to a stage that has no results for people, but prints the next command."""
    help = "folder for tables and figures"
    if only_for_next:
        help += " of later stages, only used in the next command that is printed"
    folders.add_argument(
        "--output_dir", default=defaults.OUTPUT_DIR, metavar="DIR", help=Help(help, "the current folder")
    )


def add_network_flags(network: argparse._ActionsContainer) -> None:
    network.add_argument(
        "--model",
        metavar="NAME",
        help=Help(
            "torchvision network, timm:NAME, or your own function",
            details="timm:NAME is a network of timm (pip install timm), for example timm:resnet50.a1_in1k. A function "
            "is called without arguments and returns the network. It is given as path/to/file.py:function, or as "
            "package.module:function if it can be imported from the current folder.",
        ),
    )
    network.add_argument(
        "--weights",
        metavar="NAME",
        help=Help(
            "torchvision weights or a state-dict file",
            defaults.WEIGHTS,
            "A state dict may also be a .safetensors file. Networks without these weights: their DEFAULT; timm:NAME: "
            "timm's pretrained weights. If --model is a function: the weights of the network that it returns.",
        ),
    )
    network.add_argument(
        "--layer_of_interest",
        default=defaults.LAYER,
        metavar="LAYER",
        help=Help(
            "layer whose channels are studied",
            defaults.LAYER,
            "A convolution or a linear layer: last_conv (the last convolution that is executed), last_linear (the last "
            "linear layer before the classifier), or the name of a module, for example layer4.2.conv3.",
        ),
    )


def add_channel_count_flag(network: argparse._ActionsContainer) -> None:
    network.add_argument(
        "--nr_channels_in_layer_of_interest",
        type=positive_int,
        metavar="N",
        help=Help("expected number of channels of the layer; another number is an error", "not checked"),
    )


def add_figure_flag(figures: argparse._ActionsContainer) -> None:
    sizes = ", ".join(f"{name} ({width} inches)" for name, width in WIDTHS.items())
    figures.add_argument(
        "--figure_width",
        type=_sheet,
        default=SCREEN,
        metavar=f"{{{','.join(WIDTHS)}}}",
        help=Help(
            "draw the figures for a column or the full text width of a paper",
            "for a screen",
            f"Widths: {sizes}. Type has at least {SMALLEST_TYPE:g} points, and the files have names of their own.",
        ),
    )


def _sheet(name: str) -> Sheet:
    if name not in WIDTHS:
        raise argparse.ArgumentTypeError(f"must be {' or '.join(WIDTHS)}, not {quoted(name)}")
    return Sheet(name)


def add_class_map_flag(images: argparse._ActionsContainer) -> None:
    images.add_argument(
        "--class_map",
        metavar="FILE",
        help=Help(
            "CSV file with the network's output of each class folder",
            "from the names of the folders",
            "The first line is folder,output; the others are like cat,0 (outputs count from 0). The file is only "
            "needed if the names of the folders do not determine the outputs. Folders named 0, 1, 2 ... and WordNet "
            "ids of ImageNet do; other folders are taken in their order if there are as many of them as outputs.",
        ),
    )


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("images")
    stored = "that of the store, else of the weights, else "
    images.add_argument(
        "--resize_size",
        type=positive_int,
        metavar="N",
        help=Help("pixels of an image's shorter side after resizing", f"{stored}{defaults.RESIZE_SIZE}"),
    )
    images.add_argument(
        "--crop_size",
        type=positive_int,
        metavar="N",
        help=Help("pixels of the side of the central square that is used", f"{stored}{defaults.CROP_SIZE}"),
    )
    images.add_argument(
        "--interpolation",
        choices=defaults.INTERPOLATIONS,
        help=Help("interpolation of resizing", f"{stored}{defaults.INTERPOLATION}"),
    )
    images.add_argument(
        "--mean",
        type=finite,
        nargs=3,
        metavar=("R", "G", "B"),
        help=Help("mean of each colour, from 0 to 1", f"{stored}ImageNet's"),
    )
    images.add_argument(
        "--std",
        type=positive,
        nargs=3,
        metavar=("R", "G", "B"),
        help=Help("standard deviation of each colour", f"{stored}ImageNet's"),
    )
    images.add_argument(
        "--skip_unreadable",
        action="store_true",
        help=Help("leave out images that cannot be read, and print their names and number", "they are an error"),
    )


def add_compute_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags of the group "computing", and return it."""
    compute = parser.add_argument_group("computing")
    compute.add_argument(
        "--batch_size",
        type=positive_int,
        default=defaults.BATCH_SIZE,
        metavar="N",
        help=Help("images per batch", f"{defaults.BATCH_SIZE}"),
    )
    compute.add_argument(
        "--num_workers",
        type=count,
        default=default_workers(),
        metavar="N",
        help=Help(
            "processes that decode images",
            f"the number of cores, at most {MOST_WORKERS}",
            "With 0 the main process decodes. With --decode gpu they are threads that read files. The processes of "
            "torchrun divide the cores among them.",
        ),
    )
    compute.add_argument(
        "--decode",
        choices=defaults.DECODERS,
        default=defaults.DECODER,
        help=Help(
            "decoder of JPEG files",
            defaults.DECODER,
            "pil is what the paper used. fast is torchvision; values differ by at most 2 of 255. gpu is a CUDA device; "
            "it does not interpolate chroma, so values of photographs may differ by 25. PIL decodes all other files.",
        ),
    )
    compute.add_argument("--device", metavar="NAME", help=Help("cpu, cuda or cuda:N", "cuda if available"))
    compute.add_argument(
        "--precision",
        choices=defaults.PRECISIONS,
        default=defaults.PRECISION,
        help=Help(
            "arithmetic of the network",
            defaults.PRECISION,
            "fp32 is what the paper used. tf32 needs CUDA. Everything computed from the network's values is fp32.",
        ),
    )
    return compute


def loading(settings: ImageSettings, device: torch.device) -> Loading:
    """The Loading that the flags ask for; UserError if the device lacks what it needs."""
    from utils.images.batches import Loading
    from utils.networks.arithmetic import fastest_memory_format

    if settings.decode == "gpu" and device.type != "cuda":
        raise UserError("--decode gpu needs a CUDA device: use --decode fast")
    return Loading(
        device=device,
        decoding=settings.decode,
        num_workers=settings.num_workers,
        skip_unreadable=settings.skip_unreadable,
        memory_format=fastest_memory_format(settings.precision, device),
    )


def transform_from_flags(settings: ImageSettings, default: Transform) -> Transform:
    """``default`` with the values that are given by flags."""
    given: dict[str, Any] = {}
    for name in asdict(default):
        value = getattr(settings, name)
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    transform = replace(default, **given)
    if transform.crop_size > transform.resize_size:
        raise UserError(
            f"--crop_size {transform.crop_size} is larger than --resize_size {transform.resize_size}: "
            "the crop would have a black border"
        )
    return transform


def assumed_transform(settings: ImportanceSettings, network: LoadedNetwork) -> list[str]:
    """The flags of the transform whose defaults are used although nothing says that the network is made for them."""
    if not network.transform_is_assumed or settings.images != "train":
        return []
    parts = ("resize_size", "crop_size", "mean", "std")
    return [f"--{name}" for name in parts if getattr(settings, name) is None]
