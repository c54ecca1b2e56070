"""How fast are images decoded, by each --decode, and how fast is stage 1 with it?

    python -m benchmarks.decoding --images some_photographs --num_workers 0 2

Links to the JPEG files below a folder until there are --count, and prints Markdown tables of images per second: median
and range of --repeats passes, and the ratio to ``pil``, as the median over passes that ran side by side. Decoding is
from files in the page cache to batches of crops in memory, the start of worker processes apart. With a CUDA device
there is ``gpu`` too, and a table of stage 1, run as a process for each --decode and --precision: from the start of
Python to its end, and from the first stored chunk to the last one. Its network is a ResNet-50 with random weights
unless --model names another one.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision

from benchmarks.report import ROOT, machine
from utils.defaults import BATCH_SIZE, CHUNK_SIZE
from utils.images.batches import ImageBatches, Loading, batches_of
from utils.images.folders import list_images
from utils.images.transform import Transform

CLASS_FOLDER = "n01440764"  # an id of ImageNet's, so that a network with 1000 outputs is content with one class


def resnet50():
    torch.manual_seed(0)
    return torchvision.models.resnet50()


def link_images(source, folder, count):
    """``count`` links to the JPEG files below ``source``, as the only class of ``folder``; what they are, in words."""
    found = sorted(path.resolve() for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        sys.exit(f"there are no JPEG files below {source}")
    (folder / CLASS_FOLDER).mkdir(parents=True)
    for number, path in zip(range(count), itertools.cycle(found), strict=False):
        (folder / CLASS_FOLDER / f"{number:07d}.jpg").symlink_to(path)
    return f"{count} links to {len(found)} files of {np.mean([path.stat().st_size for path in found]) / 1e3:.0f} KB"


def seconds_to_decode(images, count, *, decode, num_workers, batch_size, device):
    """How long it takes to make crops of the first images, with the start of processes or threads."""
    loading = Loading(device=device, decoding=decode, num_workers=num_workers, skip_unreadable=True)
    start = time.perf_counter()
    for _ in ImageBatches(images, Transform(), batches_of(range(count), batch_size), "", loading).loader:
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def decode_all(images, **options):
    """Images per second from files to crops, without the start: the time for a tenth of them is subtracted."""
    count, tenth = len(images), -(-len(images) // 10)
    return (count - tenth) / (seconds_to_decode(images, count, **options) - seconds_to_decode(images, tenth, **options))


def run_stage1(data, count, flags):
    """Images per second of the script as a process, and between its first and last chunk (NaN if it makes only one)."""
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, ROOT / "get_importances_for_classes.py", "--data_dir", data, "--store_dir", store]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--chunk_size", str(CHUNK_SIZE), *flags], cwd=ROOT, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr)
        written = sorted(path.stat().st_mtime for path in Path(store).rglob("chunk_*.npz"))
    between = (count - CHUNK_SIZE) / (written[-1] - written[0]) if len(written) > 1 else float("nan")
    return count / seconds, between


def side_by_side(runs, repeats):
    """Call each of ``runs`` (label -> function) in turn, ``repeats`` times: label -> array of what it returned."""
    results = {label: [] for label in runs}
    for _ in range(repeats):
        for label, run in runs.items():
            results[label].append(run())
    return {label: np.array(values) for label, values in results.items()}


def print_table(title, results):
    """A Markdown table; the last part of a label is the decoder, compared with ``pil`` under the same other parts."""
    print(f"\n| {title} | images/s | range | times pil |\n| --- | --- | --- | --- |")
    for (*others, decode), rates in results.items():
        ratio, label = np.median(rates / results[(*others, "pil")]), ", ".join([*others, decode])
        print(f"| {label} | {np.median(rates):.0f} | {rates.min():.0f} to {rates.max():.0f} | {ratio:.2f} |")


def benchmark_decoding(images, args, device):
    decoders = ("pil", "fast", "gpu") if device.type == "cuda" else ("pil", "fast")
    runs = {
        (f"{workers} workers", decode): partial(
            decode_all, images, decode=decode, num_workers=workers, batch_size=args.batch_size, device=device
        )
        for workers in args.num_workers
        for decode in decoders
    }
    print_table("decoding", side_by_side(runs, args.repeats))


def benchmark_stage1(data, args):
    fixed = ["--model", args.model, "--batch_size", str(args.batch_size), "--num_workers", str(max(args.num_workers))]
    runs = {
        (precision, decode): lambda d=decode, p=precision: run_stage1(
            data, args.count, [*fixed, "--decode", d, "--precision", p, *args.stage1_flags]
        )
        for precision in ("fp32", "tf32", "bf16")
        for decode in ("pil", "fast", "gpu")
    }
    results = side_by_side(runs, args.repeats)
    for column, title in enumerate(("stage 1, the whole process", "stage 1, first chunk to last")):
        print_table(title, {label: values[:, column] for label, values in results.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with JPEG files, at any depth")
    parser.add_argument("--count", type=int, default=2000, help="images a pass (2000)")
    parser.add_argument("--num_workers", type=int, nargs="+", default=[0, 2], help="stage 1: the largest (0 2)")
    parser.add_argument("--batch_size", type=int, default=BATCH_SIZE)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="benchmarks.decoding:resnet50", help="of stage 1")
    parser.add_argument(
        "--stage1_flags", nargs=argparse.REMAINDER, default=[], help="everything behind it: for stage 1"
    )
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)  # as in worker processes: without any, this one is compared
    with tempfile.TemporaryDirectory() as folder:
        files = link_images(args.images, Path(folder) / "train", args.count)
        print(f"{machine()}, pillow {PIL.__version__}; {files}")
        benchmark_decoding(list_images(Path(folder) / "train"), args, device)
        if device.type == "cuda":
            benchmark_stage1(folder, args)


if __name__ == "__main__":
    main()
