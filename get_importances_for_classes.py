"""Stage 1: how important is each channel of a layer for each image's own class, and what goes into it?

One forward pass over train/ keeps, for every image, the relative importance of each channel of the layer of interest
and the sums of its input, 2 C + 4 C_in bytes an image. A run that was stopped goes on where it was when started again.
Several processes share the chunks, each on its own GPU; one that dies is started again.

    python get_importances_for_classes.py --data_dir /datasets/imagenet/ --model resnet50 --batch_size 254 \\
        --store_dir /store_dir/
    torchrun --nproc_per_node=4 --max_restarts=3 get_importances_for_classes.py --data_dir /datasets/imagenet/ \\
        --model resnet50 --batch_size 254 --store_dir /store_dir/
"""

import os
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision

from utils.command_line import flags as command_line
from utils.command_line.opening import identity
from utils.command_line.run import run
from utils.errors import UserError
from utils.images.batches import ImageBatches, batches_of
from utils.images.classes import map_folders
from utils.images.listing import list_images
from utils.method.importance import channel_importances, relative_importances
from utils.networks.arithmetic import check_precision, choose_device, compile_network, network_arithmetic
from utils.networks.kinds import check_tap_sums, tap_sums
from utils.networks.layers import find_layer
from utils.networks.loading import load_network
from utils.networks.recording import forward_with_gradient
from utils.store.importances import ImportanceStore
from utils.store.names import run_name


def get_args_parser():
    parser = command_line.Parser(__doc__)
    command_line.add_data_flag(parser)
    command_line.add_store_flag(parser)
    command_line.add_network_flags(parser)
    command_line.add_image_flags(parser)
    command_line.add_compute_flags(parser)
    parser.add_argument(
        "--chunk_size", type=command_line.positive_int, default=2048, help="images a file, the unit of resuming (2048)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network first: a minute, needs a C++ compiler; then faster"
    )
    return parser


def describe(args, network, layer, transform, images):
    """``meta.json``: what the store is made of. No time, host or number of processes."""
    return {
        **identity(args.model, network, layer),
        "weights": network.weights,
        "num_inputs": layer.num_inputs,
        "num_taps": layer.num_taps,
        "transform": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(transform).items()},
        "precision": args.precision,
        "decoding": args.decode,
        "compilation": "inductor" if args.compile else "none",
        "skip_unreadable": args.skip_unreadable,
        "chunk_size": args.chunk_size,
        "num_images": len(images),
        "data_sha256": images.digest(),
        "classes": map_folders(images.folders, layer.num_outputs),
        "class_counts": images.counts(),
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


def measure(layer, record):
    """What is kept of a batch of images."""
    relative, positive_sums = relative_importances(channel_importances(record.activation, record.gradient))
    return {
        "relative_importances": relative,
        "positive_sums": positive_sums,
        "input_sums": tap_sums(layer.module, record.input),
        "predictions": record.logits.argmax(1),
    }


def require_finite(kept):
    if not all(batch[name].isfinite().all() for batch in kept for name in ("positive_sums", "input_sums")):
        raise UserError("the network gives NaN or infinite values: are --weights, --mean and --std those it needs?")


def fill(store, chunks, args, network, layer, transform, images, loading):
    """Make chunks. One loader serves all of them; a batch never crosses a chunk's end."""
    plan = [(chunk, batch) for chunk in chunks for batch in batches_of(store.chunk_range(chunk), args.batch_size)]
    batches = [batch for _, batch in plan]
    loader = ImageBatches(images, transform, batches, "importances", **loading)
    outputs = torch.tensor([store.meta["classes"][folder] for folder in images.folders])
    targets = outputs[torch.from_numpy(images.folder_of)]
    kept, checked = [], False
    for (chunk, batch), (indices, pixels) in zip(plan, loader, strict=True):
        if len(indices):
            own = targets[indices].to(loader.device)
            with network_arithmetic(args.precision, loader.device):
                record = forward_with_gradient(network.module, layer.module, pixels, own)
            if not checked:
                check_tap_sums(layer.module, record.input, record.activation, layer.name)
                checked = True
            kept.append({**measure(layer, record), "targets": own, "indices": indices})
        if batch[-1] == store.chunk_range(chunk)[-1]:
            require_finite(kept)
            store.write_chunk(chunk, kept)
            kept = []


def announce(store, args, network, layer, images, device, num_processes):
    """Say what is going to be done."""
    print(f"{args.model} with weights {network.weights}; layer of interest: {layer.name}")
    if layer.note:
        print(f"note: {layer.note}")
    shared = f", shared by {num_processes} processes" if num_processes > 1 else ""
    print(f"{len(images)} images of {len(images.folders)} classes on {device}, {args.precision}{shared}")
    present = store.num_chunks - len(store.missing_chunks())
    if present:
        print(f"going on: {present} of {store.num_chunks} chunks are there")


def report(store, args):
    """Say what a complete store holds."""
    indices, targets, predictions = store.read_labels()
    total = store.meta["num_images"]
    if len(indices) == 0:
        raise UserError(f"none of the {total} images could be read: nothing can be computed from {store.folder}")
    skipped = f", {total - len(indices)} unreadable ones left out" if len(indices) < total else ""
    correct = (targets == predictions).sum().item()
    print(f"{len(indices)} images{skipped}; {correct / len(indices):.1%} classified correctly")
    print(f"wrote {store.folder}")
    print(command_line.next_command("get_cosine_similarities.py", args))


def main(args):
    command_line.require(args, "model")
    device = choose_device(args.device)
    check_precision(args.precision, device)
    loading = command_line.loading(args, device)
    images = list_images(Path(args.data_dir) / "train")
    network = load_network(args.model, args.weights)
    transform = command_line.transform_from_flags(args, network.transform)
    layer = find_layer(network.module, args.layer_of_interest, transform.crop_size)
    store = ImportanceStore(args.store_dir, run_name(args.model, args.layer_of_interest))
    process, num_processes = int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    store.begin(describe(args, network, layer, transform, images), process)
    if process == 0:
        announce(store, args, network, layer, images, device, num_processes)
    network.module.to(device, memory_format=torch.channels_last)
    own = [chunk for chunk in store.missing_chunks() if chunk % num_processes == process]
    if args.compile and own:
        size = min(args.batch_size, len(store.chunk_range(own[0])))
        black = torch.zeros(size, transform.crop_size, transform.crop_size, 3, dtype=torch.uint8)
        compile_network(network.module, layer, transform.normalise(black, device), args.precision)
    fill(store, own, args, network, layer, transform, images, loading)
    # torchrun ends all processes of its machine with one that fails: there the first one can wait, to report once
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == str(num_processes)
    while one_machine and process == 0 and store.missing_chunks():
        time.sleep(0.5)
    if store.missing_chunks():
        print(f"process {process} has made its {len(own)} chunks; other processes are not ready yet")
    elif process == 0 or (own and not one_machine):
        report(store, args)


if __name__ == "__main__":
    run(main, get_args_parser())
