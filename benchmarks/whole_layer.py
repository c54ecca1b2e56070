"""What a network with many split channels costs and changes: time, parameters, and logits on validation images.

    python -m benchmarks.whole_layer --splits store_dir/models_disentangled/resnet50_..._layer.json --model resnet50 \\
        --data_dir /datasets/imagenet

Forward passes of the plain and the split network in turns, on the same batch; then both on validation images from all
over ``val/``, in fp32. Prints a Markdown table: the ratio is the median over rounds.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.report import print_table
from utils.command_line import flags, opening
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import ImageSettings
from utils.images.batches import ImageBatches, batches_of
from utils.images.folders import list_images
from utils.networks.arithmetic import fastest_memory_format
from utils.networks.precision import choose_device, network_arithmetic
from utils.plugins import positive_int
from utils.store import split_network
from utils.store.splits import read_splits


@dataclass(frozen=True, kw_only=True)
class WholeLayerSettings(ImageSettings):
    """``images`` are compared, and both networks timed in ``rounds``."""

    splits: list
    images: int
    rounds: int


def get_args_parser():
    parser = Parser(__doc__)
    parser.add_argument("--splits", nargs="+", required=True, help="split files or manifests")
    flags.add_data_flag(parser)
    flags.add_network_flags(parser)
    parser.add_argument("--images", type=positive_int, default=1000, help="validation images to compare (1000)")
    parser.add_argument("--rounds", type=positive_int, default=15)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def settings_from(args, _):
    flags.require(args, "model")
    return flags.settings_of(WholeLayerSettings, args)


def seconds(network, pixels):
    """The time of one pass."""
    if pixels.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    network(pixels)
    if pixels.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(settings):
    device = choose_device(settings.device)
    first, file, _ = next(read_splits(settings.splits[0]))
    context = file.context
    transform = opening.open_transform(settings, context, first)
    plain, layer = opening.require_stored_network(settings, context, first)
    split = split_network(plain.module, *settings.splits)
    parts = split.get_submodule(layer.name).parts
    memory_format = fastest_memory_format(settings.precision, device)
    networks = [network.to(device, memory_format=memory_format) for network in (plain.module, split)]
    images = list_images(Path(settings.data_dir) / "val")
    chosen = np.unique(np.linspace(0, len(images) - 1, settings.images).astype(int))
    loader = ImageBatches(
        images, transform, batches_of(chosen, settings.batch_size), "images", flags.loading(settings, device)
    )
    times, largest, spread, changed, count = [], 0.0, 0.0, 0, 0
    with torch.no_grad(), network_arithmetic(settings.precision, device):
        for number, batch in enumerate(loader):
            logits, other = (network(batch.pixels) for network in networks)
            largest, spread = (
                max(largest, float((logits - other).abs().max())),
                max(spread, float(logits.max() - logits.min())),
            )
            changed += int((logits.argmax(1) != other.argmax(1)).sum())
            count += len(logits)
            if number == 0:
                for _ in tqdm(range(settings.rounds), "rounds"):
                    times.append([seconds(network, batch.pixels) for network in networks])
    ratio = statistics.median(other / one for one, other in times)
    own = sum(one.numel() for one in plain.module.parameters())
    more = sum(one.numel() for one in parts.parameters())
    channels = len(split.get_submodule(layer.name).channels)
    header = ["split channels", "parameters", "of the parts", "plain", "split", "ratio", "largest difference of logits"]
    milliseconds = [f"{1000 * statistics.median(values):.0f} ms" for values in zip(*times, strict=True)]
    difference = f"{largest:.1e}, {largest / spread:.1e} of their range"
    row = [channels, f"{own:,}", f"{more:,} ({more / own:.1%})", *milliseconds, f"{ratio:.3f}", difference]
    print_table([*header, "changed predictions"], [[*row, f"{changed} of {count}"]])


if __name__ == "__main__":
    run(main, get_args_parser(), settings=settings_from)
