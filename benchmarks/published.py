"""The cost of the published procedure beside ours: stages 1 and 2, same machine, images and network, in turns.

    python -m benchmarks.published --data_dir /datasets/imagenet --model resnet50 --images 1000

The published procedure is written here from its description, in its cheapest reading. Stage 1: a contiguous fp32
network, torchvision's transform in loader workers, forward and back to the image with the gradient of the layer of
interest, without gradients of weights; then three files an image (importances; the layer's output and its gradient; the
layer's input). Stage 2: for every relevant channel and class one forward pass over the class's images, and back to the
layer's input. Ours: the loop of stage 1, and get_cosine_similarities.py as a process.

In stage 1 loading the network is left out on both sides, starting loader workers and writing files are not. All other
flags are those of stage 1 (--weights, --layer_of_interest, --batch_size, --num_workers, --device, ...).
"""

import argparse
import copy
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.report import link_images, print_table, run
from utils.command_line import flags
from utils.command_line.parser import Parser
from utils.command_line.settings import ImportanceSettings
from utils.defaults import TAU, P
from utils.images.batches import ImageSource
from utils.images.folders import ClassMap, class_folders, list_images, map_folders
from utils.images.transform import Transform
from utils.method.importance import relative_importances, relevant_classes
from utils.networks.layers import find_layer
from utils.networks.loading import load_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import check_precision, choose_device
from utils.stages.importances import StoreSettings, describe_store, fill_store
from utils.store.class_statistics import ClassStore
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore

PUBLISHED = "published procedure, fp32"
FILES = ("importances", "output", "input")


@dataclass
class Published:
    """The published procedure: a contiguous network, its layer, and how images are loaded."""

    network: nn.Module
    layer: nn.Module
    transform: Transform
    device: torch.device
    batch_size: int
    num_workers: int

    def batches(self, folder):
        """Batches of (pixels, class folder's number) of a folder of classes."""
        steps = [
            transforms.Resize(self.transform.resize_size, transforms.InterpolationMode(self.transform.interpolation)),
            transforms.CenterCrop(self.transform.crop_size),
            transforms.ToTensor(),
            transforms.Normalize(self.transform.mean, self.transform.std),
        ]
        images, pinned = ImageFolder(folder, transforms.Compose(steps)), self.device.type == "cuda"
        loader = DataLoader(images, self.batch_size, num_workers=self.num_workers, pin_memory=pinned)
        return ((pixels.to(self.device), folders) for pixels, folders in loader)

    def forward(self, pixels):
        """Logits, and the layer's input and output with their graph; the network may go on in place with copies."""
        maps = []

        def hook(_, inputs, output):
            maps.extend((inputs[0].clone(), output))
            return output.clone()

        handle = self.layer.register_forward_hook(hook)
        logits = self.network(pixels)
        handle.remove()
        return logits, *maps

    def attribute(self, pixels, targets):
        """Importances [B, C], the layer's output and its gradient [B, 2, C, H, W], the layer's input."""
        with torch.enable_grad():
            logits, before, after = self.forward(pixels.requires_grad_())
            own_logits = logits.gather(1, targets[:, None]).sum()
            gradient, _ = torch.autograd.grad(own_logits, (after, pixels))
        after = after.detach()
        return (after * gradient).sum((2, 3)), torch.stack([after, gradient], dim=1), before.detach()

    def importances(self, folder, outputs, files):
        """Stage 1: write FILES of every image; ``outputs`` has the network output of each class folder."""
        number = 0
        for pixels, folders in self.batches(folder):
            kept = self.attribute(pixels, outputs[folders].to(self.device))
            for of_image in zip(*(values.cpu() for values in kept), strict=True):
                for name, values in zip(FILES, of_image, strict=True):
                    torch.save(values.clone(), files / f"{number:07d}_{name}.pt")
                number += 1

    def arv(self, folder, channel):
        """Stage 2 for one channel and class: one pass over the images of the class, the only one in ``folder``."""
        total, count = 0, 0
        for pixels, _ in self.batches(folder):
            with torch.no_grad():
                _, before, _ = self.forward(pixels)
            with torch.enable_grad():
                summed = self.layer(before.requires_grad_())[:, channel].sum()
                (gradient,) = torch.autograd.grad(summed, before)
            total += (before.detach() * gradient).sum((0, 2, 3))
            count += len(pixels)
        return total / count


def our_importances(precision, store_dir, *, settings, network, layer, transform, images, device):
    """Stage 1 into a new store, as the script does it once everything is loaded."""
    store = ImportanceStore(store_dir, run_name(settings.model, settings.layer_of_interest))
    classes = map_folders(images.folders, layer.num_outputs)
    described = StoreSettings(
        model=settings.model,
        images=settings.images,
        precision=precision,
        decoding=settings.decode,
        compiled=settings.compile,
        skip_unreadable=settings.skip_unreadable,
        chunk_size=settings.chunk_size or store.chunk_size_for(len(images)),
    )
    meta = describe_store(described, network, layer, transform=transform, images=images, classes=classes)
    store.begin(meta, layer, images)
    opened = OpenedNetwork(network.module, layer, precision).to(device)
    loading = flags.loading(replace(settings, precision=precision), device)
    source = ImageSource(images, transform, settings.batch_size, loading)
    fill_store(store, store.missing_chunks(), opened, source)


def take_turns(ways, folder, repeat):
    """Run every way ``repeat`` times, each into an empty folder of its name: lists of seconds. The last files stay."""
    seconds = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)
            start = time.perf_counter()
            way(folder / name)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def stage1_rows(seconds, folder, num_images):
    for name, own in seconds.items():
        ratios = [first / one for first, one in zip(seconds[PUBLISHED], own, strict=True)]
        size = sum(path.stat().st_size for path in (folder / name).rglob("*") if path.is_file())
        yield (
            name,
            num_images,
            f"{num_images / statistics.median(own):.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{size / num_images / 1000:.1f} KB",
        )


def largest_difference(files, store):
    """Largest difference of a relative importance between both procedures, over all images and channels."""
    largest = 0.0
    for chunk in range(store.num_chunks):
        images = store.read_chunk(chunk, ["relative_importances"])
        own = [torch.load(files / f"{index:07d}_importances.pt") for index in images["indices"].tolist()]
        difference = relative_importances(torch.stack(own))[0].float() - images["relative_importances"].float()
        largest = max(largest, difference.abs().max().item())
    return largest


def run_stage2(settings, store_dir, output_dir):
    """Our whole stage 2 as a process: seconds, and all (channel, class) that it finds relevant."""
    flags = ["--model", settings.model, "--store_dir", store_dir, "--output_dir", output_dir, "--cos_sim_low", -1]
    flags += ["--layer_of_interest", settings.layer_of_interest]
    flags += ["--weights", settings.weights] if settings.weights else []
    seconds, _, _ = run("get_cosine_similarities.py", *flags, "--proportion_attribution_required", TAU, "--p", P)
    run_of = run_name(settings.model, settings.layer_of_interest)
    stored = ClassStore(store_dir, run_of, ImportanceStore(store_dir, run_of).load_meta())
    relevant = relevant_classes(stored.require_relevant(TAU)[0], stored.require_means()[1][0, 0], P)
    return seconds, relevant.T.nonzero().tolist()


def compare_stage2(published, settings, *, classes, folder, store_dir, options):
    """Rows of stage 2: a few passes of the published procedure, what all would take, and ours."""
    seconds, relevant = run_stage2(settings, store_dir, folder / "results")
    if not relevant:
        raise SystemExit(f"no channel is relevant for any class (tau {TAU}, p {P}): stage 2 has nothing to do")
    passes = []
    for number, (channel, output) in enumerate(relevant[:: -(-len(relevant) // options.passes)]):
        name, of_class = classes.folder(output), folder / f"class{number}"
        count = link_images(Path(settings.data_dir) / "train", of_class, options.class_images, [name])
        start = time.perf_counter()
        published.arv(of_class, channel)
        passes.append((time.perf_counter() - start) / count)
    one = statistics.median(passes) * options.class_images
    yield f"published: a channel and a class, {options.class_images} images", f"{one:.1f} s", f"{one / seconds:.1f}"
    number, total = len(relevant), one * len(relevant)
    yield f"published: all {number} of these, computed", f"{total:.0f} s", f"{total / seconds:.0f}"
    yield "ours: everything, with the start of Python", f"{seconds:.1f} s", "1"


def get_options():
    """Own flags, and the settings of stage 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="in all, as many of each class (rounded up)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--passes", type=int, default=3, help="passes of stage 2 that are measured")
    parser.add_argument("--class_images", type=int, default=100, help="images of a class in stage 2")
    options, rest = parser.parse_known_args()
    stage1 = Parser(__doc__)
    for add in (flags.add_data_flag, flags.add_network_flags, flags.add_image_flags, flags.add_compute_flags):
        add(stage1)
    return options, flags.settings_of(ImportanceSettings, stage1.parse_args(rest))


def main():
    options, settings = get_options()
    device = choose_device(settings.device)
    check_precision("fp32", device)
    network = load_network(settings.model, settings.weights)
    transform = flags.transform_from_flags(settings, network.transform)
    layer = find_layer(network.module, settings.layer_of_interest, transform.crop_size)
    contiguous = copy.deepcopy(network.module).to(device)
    loading = transform, device, settings.batch_size, settings.num_workers
    published = Published(contiguous, contiguous.get_submodule(layer.name), *loading)
    with tempfile.TemporaryDirectory() as folder:
        folder, train = Path(folder), Path(settings.data_dir) / "train"
        per_class = -(-options.images // len(class_folders(train)))
        num_images = link_images(train, folder / "train", per_class)
        images = list_images(folder / "train")
        classes = ClassMap(map_folders(images.folders, layer.num_outputs))
        outputs = torch.tensor(list(classes.outputs.values()))
        ours = partial(
            our_importances,
            settings=settings,
            network=network,
            layer=layer,
            transform=transform,
            images=images,
            device=device,
        )
        ways = {
            PUBLISHED: partial(published.importances, folder / "train", outputs),
            "ours, fp32": partial(ours, "fp32"),
            "ours, bf16": partial(ours, "bf16"),
        }
        seconds = take_turns(ways, folder / "stage1", options.repeat)
        print_table(
            ("stage 1", "images", "images/s", "ratio", "an image"), stage1_rows(seconds, folder / "stage1", num_images)
        )
        store = ImportanceStore(folder / "stage1" / "ours, fp32", run_name(settings.model, settings.layer_of_interest))
        store.load_meta()
        difference = largest_difference(folder / "stage1" / PUBLISHED, store)
        print(f"\nlargest difference of a relative importance, fp32: {difference:.1e}")
        rows = compare_stage2(
            published, settings, classes=classes, folder=folder, store_dir=store.folder.parent, options=options
        )
        print_table(("stage 2", "time", "ratio"), rows)


if __name__ == "__main__":
    main()
