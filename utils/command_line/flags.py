"""Flags that several scripts share, and their checks. Nothing here imports torch."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from utils import defaults
from utils.command_line.ranges import count, finite
from utils.command_line.settings import ImageSettings, ImportanceSettings, StageSettings
from utils.errors import UserError, quoted
from utils.plugins import positive, positive_int
from utils.processes import default_workers
from utils.report.sheets import SCREEN, WIDTHS, Sheet

if TYPE_CHECKING:
    import torch

    from utils.images.batches import Loading
    from utils.images.transform import Transform
    from utils.networks.loading import LoadedNetwork

Settings = TypeVar("Settings", bound=StageSettings)


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
    parser: argparse.ArgumentParser, help: str = "folder with train/ and val/, one sub-folder a class"
) -> None:
    default = os.environ.get("DATA_DIR", defaults.DATA_DIR)
    parser.add_argument("--data_dir", default=default, help=f"{help} ($DATA_DIR, else {defaults.DATA_DIR})")


def add_store_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store_dir",
        default=os.environ.get("STORE_DIR", defaults.STORE_DIR),
        help=f"folder that each stage writes to and the next one reads ($STORE_DIR, else {defaults.STORE_DIR})",
    )


def add_output_flag(parser: argparse.ArgumentParser, *, only_for_next: bool = False) -> None:
    """Add --output_dir; ``only_for_next``: to a stage that has no results for people, but prints the next command."""
    help = "where results for people go" + (": for the line that says what to run next" if only_for_next else "")
    parser.add_argument("--output_dir", default=defaults.OUTPUT_DIR, help=f"{help} (default: here)")


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        help="a torchvision classification network by name, or a factory, a function that is called without arguments: "
        "package.module:function, found from the current folder or installed, or path/to/file.py:function",
    )
    parser.add_argument(
        "--weights",
        help="a torchvision weights name (default: IMAGENET1K_V1, else the network's DEFAULT) or a local state-dict "
        "file; a factory has its own unless given",
    )
    parser.add_argument(
        "--layer_of_interest",
        default=defaults.LAYER,
        help="the layer whose channels are looked at, a convolution or a linear layer: last_conv (default), "
        "last_linear (the last one before the classifier) or a module's name, layer4.2.conv3",
    )


def add_channel_count_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nr_channels_in_layer_of_interest",
        type=positive_int,
        help="optional; checked against the layer",
    )


def add_figure_flag(parser: argparse._ActionsContainer) -> None:
    sizes = " or ".join(f"{width} in ({name})" for name, width in WIDTHS.items())
    parser.add_argument(
        "--figure_width",
        type=_sheet,
        default=SCREEN,
        metavar=f"{{{','.join(WIDTHS)}}}",
        help=f"figures for a paper, {sizes} wide and without type under 6 points, in files of their own (default: for "
        "a screen)",
    )


def _sheet(name: str) -> Sheet:
    if name not in WIDTHS:
        raise argparse.ArgumentTypeError(f"must be {' or '.join(WIDTHS)}, not {quoted(name)}")
    return Sheet(name)


def add_class_map_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--class_map",
        metavar="FILE",
        help="CSV file that says which class folder of train/ is which output of the network: folder,output in the "
        "first line, then a line such as cat,0 for each folder (outputs count from 0). Needed only where names do not "
        "say it: folders 0, 1, 2 ... and WordNet ids of ImageNet do; else as many folders as outputs are taken in "
        "their order",
    )


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("images", "default: the transform of the named weights, or of the stage before")
    images.add_argument(
        "--resize_size", type=positive_int, help=f"pixels of the shorter side (else {defaults.RESIZE_SIZE})"
    )
    images.add_argument(
        "--crop_size", type=positive_int, help=f"pixels of the central square (else {defaults.CROP_SIZE})"
    )
    images.add_argument("--interpolation", choices=defaults.INTERPOLATIONS, help=f"(else {defaults.INTERPOLATION})")
    images.add_argument("--mean", type=finite, nargs=3, help="of each colour, 0 to 1 (else ImageNet's)")
    images.add_argument("--std", type=positive, nargs=3, help="of each colour (else ImageNet's)")
    images.add_argument(
        "--skip_unreadable", action="store_true", help="leave unreadable images out, name and count them"
    )


def add_compute_flags(parser: argparse.ArgumentParser) -> None:
    compute = parser.add_argument_group("computing")
    compute.add_argument(
        "--batch_size", type=positive_int, default=defaults.BATCH_SIZE, help="images a batch (%(default)s)"
    )
    compute.add_argument(
        "--num_workers",
        type=count,
        default=default_workers(),
        help="processes that decode images (%(default)s here; 0: the main process does); with --decode gpu, threads "
        "that read them",
    )
    compute.add_argument(
        "--decode",
        choices=defaults.DECODERS,
        default=defaults.DECODER,
        help="what decodes and resizes JPEG files: pil (default, what the paper used), fast (torchvision, within 2 of "
        "255 levels), gpu (a CUDA device; it does not interpolate chroma, so photographs may differ by 25 levels); "
        "all other files are left to PIL",
    )
    compute.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    compute.add_argument(
        "--precision",
        choices=defaults.PRECISIONS,
        default=defaults.PRECISION,
        help="arithmetic of the network: fp32 (default, what the paper used), tf32 (CUDA only), bf16; all that is "
        "computed from it is fp32",
    )


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
