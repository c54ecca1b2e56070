"""Stage 2 at the size of ImageNet: time and memory on a synthetic store.

    python -m benchmarks.stage2_scale --store_dir /scratch/synthetic

Makes a store of 1,281,167 images x 2048 channels x 512 inputs (8 GB; --images makes it smaller) unless it is there,
runs get_cosine_similarities.py on it for several new tau, and prints a Markdown table with medians. A class has a few
relevant channels, of which it shares most with other classes.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.report import print_table, run
from utils.defaults import CHUNK_SIZE, DECODER, GAMMA, LAYER, PRECISION, TAU
from utils.images.folders import ImageList
from utils.images.transform import Transform
from utils.networks.layers import find_layer
from utils.networks.loading import load_network
from utils.stages.importances import StoreSettings, describe_store
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore

MODEL = "benchmarks.stage2_scale:network"
CHANNELS, INPUTS, CLASSES, RELEVANT = 2048, 512, 1000, 6


def network():
    """As small as a network with the last convolution and the classifier of ResNet-50 can be."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, INPUTS, 1, stride=32), nn.ReLU(), nn.Conv2d(INPUTS, CHANNELS, 1, bias=False)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES))


def begin(store, num_images):
    """Begin a store as stage 1 does, of images that are nowhere."""
    loaded = load_network(MODEL)
    layer = find_layer(loaded.module, LAYER, Transform().crop_size)
    folder_of = np.arange(num_images) * CLASSES // num_images
    paths = np.array([b"n%08d/%07d.JPEG" % (folder, number) for number, folder in enumerate(folder_of)])
    folders = [f"n{output:08d}" for output in range(CLASSES)]
    images = ImageList(Path("."), folders, paths, np.ones(num_images, np.int64), folder_of)
    described = StoreSettings(
        model=MODEL,
        images="train",
        precision=PRECISION,
        decoding=DECODER,
        compiled=False,
        skip_unreadable=False,
        chunk_size=CHUNK_SIZE,
    )
    classes = {folder: output for output, folder in enumerate(folders)}
    meta = describe_store(described, loaded, layer, transform=Transform(), images=images, classes=classes)
    store.begin(meta, layer, images)


def make_store(store_dir, num_images):
    """Fill a store with importances of small noise, and large ones where a channel is relevant for a class."""
    store = ImportanceStore(store_dir, run_name(MODEL, LAYER))
    begin(store, num_images)
    random = np.random.default_rng(0)
    channels = random.integers(0, CHANNELS // 4, (CLASSES, RELEVANT))
    patterns = random.exponential(1, (CLASSES, INPUTS)).astype(np.float32)
    noise = (random.random((CHUNK_SIZE, CHANNELS), dtype=np.float32) * 0.004).astype(np.float16)
    for chunk in tqdm(store.missing_chunks(), "making the store", unit=" chunks"):
        indices = np.arange(num_images)[slice(*(store.chunk_range(chunk)[0], store.chunk_range(chunk)[-1] + 1))]
        targets = indices * CLASSES // num_images
        relative = noise[: len(indices)].copy()
        large = random.random((len(indices), RELEVANT)) < 0.85
        relative[np.arange(len(indices))[:, None], channels[targets]] = np.where(large, 0.05, 0.001)
        inputs = patterns[targets] * random.random((len(indices), 1), dtype=np.float32)
        arrays = {
            "relative_importances": relative,
            "positive_sums": np.ones(len(indices), np.float32),
            "input_sums": inputs[:, :, None],
            "targets": targets,
            "predictions": np.where(random.random(len(indices)) < 0.75, targets, (targets + 1) % CLASSES),
            "indices": indices,
            "content": indices.astype(np.uint64),
        }
        store.write_chunk(chunk, [arrays])
    return store


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--store_dir", type=Path, help="kept; default: a temporary folder")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    folder = args.store_dir or Path(tempfile.mkdtemp())
    store = make_store(folder, args.images)
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    flags = ("get_cosine_similarities.py", "--model", MODEL, "--store_dir", folder, "--output_dir", folder / "results")
    rows = []
    for what in ("a new tau", "another p"):
        runs = []
        for step in range(args.repeat):
            tau = round(TAU + step / 1000, 3)
            if what == "a new tau":
                for path in (folder / "results_get_cosine_similarities").glob(f"*_required{tau}.npz"):
                    path.unlink()
            more = () if what == "a new tau" else ("--p", "0.8")
            runs.append(run(*flags, "--proportion_attribution_required", tau, "--cos_sim_high", GAMMA, *more))
        seconds, memory = (statistics.median(one[column] for one in runs) for column in (0, 1))
        found = next(line for line in runs[-1][2].split("\n") if "pairs in all" in line).split(" (")[0]
        figures = f"{args.images:,}", f"{size / 1e9:.1f} GB", f"{seconds:.1f} s", f"{memory / 1e9:.2f} GB"
        rows.append((what, *figures, found))
    print_table(("stage 2", "images", "store", "time", "peak memory", "found"), rows)
    if args.store_dir is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
