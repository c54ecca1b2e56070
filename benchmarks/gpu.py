"""How fast is stage 1 on a GPU, how far is that from what the GPU and the decoders can do, and where does time go?

    python -m benchmarks.gpu

One command without any data, for one CUDA device: it makes 256 photographs of ImageNet's size (500 x 375 pixels, 110 KB
on average) in a temporary folder and links to them until there are --images. Stage 1 runs with a ResNet-50 with random
weights, with each --decode and --precision that is worth it, beside the published procedure (benchmarks/published.py),
the forward pass alone (a batch that stays on the device) and decoding alone. Prints one Markdown table: images per
second from the start of worker processes to the last file, after a warm-up; the ratio to the published procedure;
the share of the limit, which is the slower one of the forward pass and decoding alone; shares of the time, from a short
run of its own that waits for the device after each step; and the peak of what PyTorch has allocated on the device.

Rows come in the order of their worth. `channels-last` and `contiguous` are layouts of images and kernels that the
project does not choose for this precision. `resized one by one` is not what the project does: images decoded on the
device, then torchvision's resize and crop for each of them, to be compared with resizing a batch. A row is a process of
its own; if it fails, its error is in its place and the others go on. Meant to take less than 8 minutes with 16 cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.decoding import link_images
from benchmarks.gpu_rows import PARTS, ROWS
from benchmarks.report import ROOT, print_table

PHOTOGRAPHS = 256
SIZES = ((500, 375), (500, 375), (500, 333), (375, 500), (500, 400), (500, 375), (640, 480), (400, 300))
QUALITY, NOISE = 90, 18
HEADER = ("row", "images/s", "times published", "share of the limit", *PARTS, "rest", "GPU memory")


def make_photographs(folder, count):
    """JPEG files with structure of all sizes and some noise, about as large as ImageNet's."""
    folder.mkdir(parents=True)
    for number in range(count):
        random, (width, height) = np.random.default_rng(number), SIZES[number % len(SIZES)]
        pixels = random.normal(0, NOISE, (height, width, 3))
        for cells in (4, 12, 40, 120):
            coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
            scaled = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            pixels += (np.asarray(scaled) - 127.5) * (0.8 if cells < 40 else 0.25)
        Image.fromarray((pixels + 127.5).clip(0, 255).astype(np.uint8)).save(
            folder / f"{number:04d}.jpg", quality=QUALITY
        )


def measure(name, folder, options):
    """A row in a process of its own: what it has measured, or its ``error`` in a line."""
    settings = {name: getattr(options, name) for name in ("model", "device", "batch_size", "num_workers")}
    flags = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "benchmarks.gpu_rows", name, str(folder), *flags]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=options.patience)
        lines = [line.strip() for line in done.stderr.replace("\r", "\n").split("\n") if line.strip()]
        if done.returncode == 0:
            return json.loads(done.stdout.strip().split("\n")[-1])
        reason = lines[-1] if lines else f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"took more than {options.patience} s"
    except ValueError:
        reason = "printed no result"
    return {"error": reason.removeprefix("utils.errors.UserError: ").replace("|", "/")[:160]}


def limit_of(row, rates):
    """Images per second that the slower one of the forward pass and decoding alone has, where both are known."""
    forward = ("forward", row.precision, row.compile, row.layout)
    decoding = ("decoding", row.decode, row.resize)
    alone = [
        rates.get(name)
        for name, other in ROWS.items()
        if forward == (other.kind, other.precision, other.compile, other.layout)
        or decoding == (other.kind, other.decode, other.resize)
    ]
    return min(alone) if len(alone) == 2 and None not in alone else None


def table_row(name, result, rates):
    """The cells of a row."""
    if "error" in result:
        return (name, result["error"], *[""] * (len(HEADER) - 2))
    row, rate = ROWS[name], result["rate"]
    of_published, limit, parts = rates.get("published pil fp32"), limit_of(row, rates), result.get("parts")
    whole = row.kind in ("stage1", "published")
    shares = [*parts.values(), 1 - sum(parts.values())] if parts else []
    return (
        name,
        f"{rate:.0f}",
        f"{rate / of_published:.2f}" if whole and of_published else "",
        f"{rate / limit:.0%}" if whole and limit else "",
        *([f"{share:.0%}" for share in shares] or [""] * (len(PARTS) + 1)),
        f"{result['memory'] / 1e9:.1f} GB" if result.get("memory") else "",
    )


def get_options():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16384, help="links (16384: many more than are decoded ahead)")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--num_workers", type=int, default=min(cores, 32), help="(default here: %(default)s)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=ROWS, default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--patience", type=int, default=200, help="seconds until a row is given up (200)")
    parser.add_argument("--device", help=argparse.SUPPRESS)  # cpu: for tests, as small as they wish
    parser.add_argument("--model", default="benchmarks.decoding:resnet50", help=argparse.SUPPRESS)
    parser.add_argument("--photographs", type=int, default=PHOTOGRAPHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device is None:
        if not torch.cuda.is_available():
            print("benchmarks.gpu: error: there is no CUDA device here", file=sys.stderr)
            sys.exit(2)
        options.device = "cuda"
    return options


def main():
    options = get_options()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_photographs(folder / "photographs", options.photographs)
        what = link_images(folder / "photographs", folder / "train", options.images)
        results = {}
        for name in options.rows:
            results[name] = measure(name, folder, options)
            print(f"{name}: {results[name]}", file=sys.stderr, flush=True)  # what is known if all of it is stopped
    rates = {name: result["rate"] for name, result in results.items() if "rate" in result}
    print_table(HEADER, [table_row(name, result, rates) for name, result in results.items()])
    print(f"\n{what}; batches of {options.batch_size}, {options.num_workers} processes or threads, {options.device}")


if __name__ == "__main__":
    main()
