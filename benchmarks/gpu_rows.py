"""What ``benchmarks.gpu`` measures, a process for each row: ``python -m benchmarks.gpu_rows ROW FOLDER ...``."""

import argparse
import json
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from benchmarks.decoding import seconds_to_decode
from benchmarks.published import Published
from utils.images import batches
from utils.images.batches import ImageSource
from utils.images.decoding import crop_with_pil, decode
from utils.images.device_decoding import DeviceBatches
from utils.images.folders import list_images, map_folders
from utils.networks.arithmetic import fastest_memory_format
from utils.networks.layers import find_layer
from utils.networks.loading import load_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import check_precision, choose_device, compile_network, network_arithmetic
from utils.networks.recording import Recorder
from utils.stages.importances import ChunkWriter, StoreSettings, describe_store, fill_store
from utils.store.importance_store import ImportanceStore

WARM_UP, SHORT, PUBLISHED = 4, 8, 16  # batches: before a measurement, where time is taken apart, published procedure
BATCHES_A_CHUNK = 8
PARTS = ("waiting for data", "forward", "backward", "writing")


@dataclass(frozen=True)
class Row:
    """``kind``: forward, decoding, stage1 or published. ``resize``: batch, or image (one after the other).

    ``layout``: of images and kernels in memory, channels-last or contiguous; empty: the one that stages choose.
    """

    kind: str
    decode: str = ""
    precision: str = ""
    compile: bool = False
    resize: str = "batch"
    layout: str = ""

    @property
    def name(self):
        more = "--compile" if self.compile else "", "" if self.resize == "batch" else "resized one by one"
        return " ".join(word for word in (self.kind, self.decode, self.precision, self.layout, *more) if word)


ROWS = {
    row.name: row
    for row in (  # in the order of their worth, as the time on a GPU may be short
        Row("stage1", "gpu", "bf16"),
        Row("published", "pil", "fp32"),
        Row("stage1", "gpu", "fp32"),
        Row("forward", precision="bf16"),
        Row("decoding", "gpu"),
        Row("forward", precision="fp32"),
        Row("forward", precision="fp32", layout="channels-last"),
        Row("forward", precision="bf16", layout="contiguous"),
        Row("stage1", "gpu", "bf16", compile=True),
        Row("forward", precision="bf16", compile=True),
        Row("stage1", "fast", "bf16"),
        Row("stage1", "pil", "fp32"),
        *(Row("decoding", decode) for decode in ("fast", "pil")),
        Row("stage1", "gpu", "bf16", resize="image"),
        Row("decoding", "gpu", resize="image"),
    )
}
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}


class OneByOne(DeviceBatches):
    """Decodes on the device as ever, then resizes and crops each image for itself by torchvision.

    To be compared with ``utils.images.resizing``: would its few lines do?
    """

    def _decode_group(self, group, streams):
        images = decode([picture.data for picture in group], self.device)
        mode, decoded, crops = InterpolationMode(self.transform.interpolation), [], []
        for picture, image in zip(group, images, strict=True):
            if image is None:
                picture.decode(crop_with_pil, self.transform)
                continue
            resized = TF.resize(image, [self.transform.resize_size], mode, antialias=True)
            crops.append(TF.center_crop(resized, [self.transform.crop_size]).permute(1, 2, 0))
            decoded.append(picture)
        groups = [(torch.stack(crops), SimpleNamespace())] if crops else []
        streams.wait()
        return decoded, groups

    def _resize(self, decoded, streams):
        streams.hand_over(decoded.device_tensors())
        crops = [crops for crops, _ in decoded.groups]
        return replace(decoded.batch, crops=torch.cat([*crops, decoded.batch.crops])[decoded.order])


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def first(images, count):
    """An ImageList of the first images."""
    return replace(images, paths=images.paths[:count], sizes=images.sizes[:count], folder_of=images.folder_of[:count])


@dataclass
class Machinery:
    """The network and its images, and how they are run."""

    row: Row
    device: torch.device
    folder: Path
    model: str
    batch_size: int
    num_workers: int

    def __post_init__(self):
        check_precision(self.row.precision or "fp32", self.device)
        self.images = list_images(self.folder / "train")
        self.loaded = load_network(self.model, None)
        self.network, self.transform = self.loaded.module, self.loaded.transform
        self.layer = find_layer(self.network, "last_conv", self.transform.crop_size)
        if self.row.resize == "image":
            batches.DeviceBatches = OneByOne

        chosen = fastest_memory_format(self.row.precision, self.device)
        self.memory_format = LAYOUTS.get(self.row.layout, chosen)
        self.loading = batches.Loading(
            device=self.device,
            decoding=self.row.decode,
            num_workers=self.num_workers,
            memory_format=self.memory_format,
        )

    def to_device(self):
        self.network.to(self.device, memory_format=self.memory_format)
        size = self.transform.crop_size
        crops = torch.randint(256, (self.batch_size, size, size, 3), dtype=torch.uint8)
        pixels = self.loading.pixels(crops, self.transform)
        if self.row.compile:
            compile_network(self.network, self.layer, pixels, self.row.precision)
        return pixels

    def stage1(self, images):
        """Stage 1 into a new store, from the start of its worker processes to its last chunk: seconds."""
        row = self.row
        with tempfile.TemporaryDirectory(dir=self.folder) as store_dir:
            described = StoreSettings(
                model=self.model,
                images="train",
                precision=row.precision,
                decoding=row.decode,
                compiled=row.compile,
                skip_unreadable=False,
                chunk_size=BATCHES_A_CHUNK * self.batch_size,
            )
            store, classes = (
                ImportanceStore(store_dir, "benchmark"),
                map_folders(images.folders, self.layer.num_outputs),
            )
            meta = describe_store(
                described, self.loaded, self.layer, transform=self.transform, images=images, classes=classes
            )
            store.begin(meta, self.layer, images)
            source = ImageSource(images, self.transform, self.batch_size, self.loading)
            start = time.perf_counter()
            fill_store(store, store.missing_chunks(), OpenedNetwork(self.network, self.layer, row.precision), source)
            return time.perf_counter() - start


# --------------------------------------------------------------------------------------------------------------------
# The kinds of rows: each gives images per second, and what else is known


def measure_forward(of):
    """The forward pass on a batch that stays on the device, without the layer's hook."""
    pixels = of.to_device()
    with torch.no_grad(), network_arithmetic(of.row.precision, of.device):
        for _ in range(WARM_UP):
            of.network(pixels)
        synchronise(of.device)
        count = -(-len(of.images) // of.batch_size)
        start = time.perf_counter()
        for _ in range(count):
            of.network(pixels)
        synchronise(of.device)
    return {"rate": count * of.batch_size / (time.perf_counter() - start)}


def measure_decoding(of):
    """Files to crops in memory (on the device with gpu), with the start of processes or threads."""

    def seconds(count):
        return seconds_to_decode(
            of.images,
            count,
            decode=of.row.decode,
            num_workers=of.num_workers,
            batch_size=of.batch_size,
            device=of.device,
        )

    if of.row.decode == "gpu":
        seconds(min(WARM_UP * of.batch_size, len(of.images)))
    return {"rate": len(of.images) / seconds(len(of.images))}


def measure_stage1(of):
    """The loop of stage 1; then a short run that waits for the device after every step, to see where time goes."""
    of.to_device()
    of.stage1(first(of.images, WARM_UP * of.batch_size))
    if of.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(of.device)
    rate = len(of.images) / of.stage1(of.images)
    memory = torch.cuda.max_memory_allocated(of.device) if of.device.type == "cuda" else None
    with taken_apart(of.device) as seconds:
        total = of.stage1(first(of.images, SHORT * of.batch_size))
    return {"rate": rate, "memory": memory, "parts": {part: seconds[part] / total for part in PARTS}}


def measure_published(of):
    """The published procedure on a part of the images, as it is slow and writes 0.9 MB an image."""
    network = of.network.to(of.device)
    module = network.get_submodule(of.layer.name)
    procedure = Published(network, module, of.transform, of.device, of.batch_size, of.num_workers)
    outputs = torch.tensor(list(map_folders(of.images.folders, of.layer.num_outputs).values()))
    count = min(PUBLISHED * of.batch_size, len(of.images))
    for number in (min(of.batch_size, count), count):  # the first one to warm up
        with tempfile.TemporaryDirectory(dir=of.folder) as made:
            images, files = Path(made) / "images", Path(made) / "files"
            files.mkdir()
            for index in range(number):
                link = images / of.images.folders[0] / f"{index:07d}.jpg"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(of.images.path(index).resolve())
            if of.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(of.device)
            start = time.perf_counter()
            procedure.importances(images, outputs, files)
            seconds = time.perf_counter() - start
    return {
        "rate": count / seconds,
        "memory": torch.cuda.max_memory_allocated(of.device) if of.device.type == "cuda" else None,
    }


@contextmanager
def taken_apart(device):
    """Seconds of the main thread by part of stage 1, each ended by waiting for the device; so only the shares count."""
    seconds = Counter()

    def timed(part, function):
        def call(*args, **kwargs):
            synchronise(device)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronise(device)
                seconds[part] += time.perf_counter() - start

        return call

    def loaded(self):
        for batch, waited in original_loaded(self):
            seconds["waiting for data"] += waited
            yield batch, waited

    original_loaded = batches.ImageBatches._loaded
    places = [
        (batches.ImageBatches, "_loaded", loaded),
        (Recorder, "forward_with_gradient", timed("both", Recorder.forward_with_gradient)),
        (torch.autograd, "grad", timed("backward", torch.autograd.grad)),
        (ChunkWriter, "write", timed("writing", ChunkWriter.write)),
        (ChunkWriter, "__exit__", timed("writing", ChunkWriter.__exit__)),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, function in places:
            setattr(owner, name, function)
        yield seconds
        seconds["forward"] = seconds["both"] - seconds["backward"]
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


MEASURE = {
    "forward": measure_forward,
    "decoding": measure_decoding,
    "stage1": measure_stage1,
    "published": measure_published,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--num_workers", type=int, required=True)
    args = parser.parse_args()
    device = choose_device(args.device)
    of = Machinery(ROWS[args.row], device, args.folder, args.model, args.batch_size, args.num_workers)
    print(json.dumps(MEASURE[of.row.kind](of)))


if __name__ == "__main__":
    main()
