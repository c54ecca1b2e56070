"""What faster decoding and arithmetic cost: how far the results move against PIL and fp32, and what they gain.

    python -m benchmarks.precision --data_dir /datasets/imagenet --model resnet50 --images_a_class 50

Runs stage 1 on the first images of each class of train/, as a process for each way that this machine has, and prints a
Markdown table against --decode pil --precision fp32:

 - importances: |R' - R| / |R| of every image and channel whose relative importance in the reference is at
   least tau / 10 (as stored: relative ones are halves, which alone are off by up to 0.05 %),
 - ARVs: ||ARV' - ARV|| / ||ARV|| of every channel and class that is relevant in the reference,
 - candidates: pairs of classes with cosine below gamma that both find / that either finds,
 - images/s from the first complete chunk to the last one, so without the start.

``repeated chroma`` is what --decode gpu changes: torchvision's decoder on a GPU does not interpolate chroma, as PIL
does. It is measured without a GPU: the pictures are decoded in this way and written without loss. Other roundings of a
GPU's decoder are not in it, and its images/s are those of PNG files.

With --only_correct, counts and ARVs are over what each way itself classifies correctly. All other flags are those of
stage 1 (--weights, --mean, --batch_size, --num_workers, ...).
"""

import argparse
import math
import shutil
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.chroma import repeated_chroma
from benchmarks.report import link_images, print_table, run
from utils import defaults
from utils.method.importance import relevant_classes
from utils.method.polysemanticity import averaged_relevance_vectors, class_pairs, gamma_polysemantic
from utils.networks.layers import layer_of
from utils.networks.loading import load_network
from utils.stages.relevance import class_statistics
from utils.store.class_statistics import ClassStore
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore

REFERENCE = "pil, fp32"
REPEATED = "repeated chroma"
CHUNKS = 8  # of which the first one is not timed


def ways_here():
    """The flags of every way that this machine has."""
    ways = {"fast": ("--decode", "fast"), REPEATED: ()}
    if torch.cuda.is_available():
        ways |= {"gpu": ("--decode", "gpu"), "tf32": ("--precision", "tf32")}
    ways["bf16"] = ("--precision", "bf16")
    if torch.cuda.is_available() or shutil.which("g++"):
        ways["compile"] = ("--compile",)
    if torch.cuda.is_available():
        ways["gpu, bf16, compile"] = ("--decode", "gpu", "--precision", "bf16", "--compile")
    return ways


class Results:
    """What stage 2 derives from a store for given tau and p."""

    def __init__(self, store, args):
        self.store, which = store, int(args.only_correct)
        class_store = ClassStore(store.folder.parent, run_name(args.model, args.layer_of_interest), store.load_meta())
        means, images, (counts,) = class_statistics(store, class_store, [args.proportion_attribution_required])
        self.mean_inputs = means[which, 0]
        self.relevant = relevant_classes(counts[which], images[which, 0], args.p, args.min_images)

    def candidates(self, weight, gamma):
        """{(channel, class1, class2)} with a cosine below gamma."""
        pairs = class_pairs(weight, self.mean_inputs, self.relevant)
        return {pair[:3] for pair in pairs[gamma_polysemantic(pairs.cosine, gamma)].rows()}


def write_with_repeated_chroma(source, target):
    """The pictures of the class folders of ``source``, decoded with repeated chroma and written without loss."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            written = target / path.relative_to(source).with_suffix(".png")
            written.parent.mkdir(parents=True, exist_ok=True)
            repeated_chroma(path).save(written, compress_level=1)


def rate(store):
    """Images per second from the first complete chunk to the last one; NaN if there are not two."""
    meta = store.load_meta()
    complete = meta["num_images"] // meta["chunk_size"]
    if complete < 2:
        return math.nan
    first, last = (store.chunk_path(chunk).stat().st_mtime for chunk in (0, complete - 1))
    return (complete - 1) * meta["chunk_size"] / (last - first)


def importance_changes(reference, other, smallest):
    """|R' - R| / |R| where the relative importance in the reference is at least ``smallest``: Tensor [N]."""
    changes = []
    names = ("relative_importances", "positive_sums")
    for chunk in range(reference.store.num_chunks):
        pair = [results.store.read_chunk(chunk, names) for results in (reference, other)]
        relative, relative_other = (images["relative_importances"].float() for images in pair)
        scale = pair[1]["positive_sums"] / pair[0]["positive_sums"]
        matter = relative >= smallest
        changes.append((relative_other * scale[:, None] / relative - 1)[matter].abs())
    return torch.cat(changes)


def arv_changes(weight, reference, other):
    """||ARV' - ARV|| / ||ARV|| of the channels and classes that are relevant in the reference: Tensor [N]."""
    changes = []
    for channel in reference.relevant.any(0).nonzero().flatten().tolist():
        classes = reference.relevant[:, channel]
        arvs = [averaged_relevance_vectors(weight[channel], r.mean_inputs[classes]) for r in (reference, other)]
        changes.append((arvs[1] - arvs[0]).norm(dim=1) / arvs[0].norm(dim=1))
    return torch.cat(changes)


def median_and_maximum(changes):
    """Of those that are defined: a class may have no correctly classified image left."""
    known = changes[changes.isfinite()]
    return f"{known.median():.1e} / {known.max():.1e}" if len(known) else "–"


def table_row(name, results, reference, *, rates, weight, args):
    importances = importance_changes(reference, results, args.proportion_attribution_required / 10)
    pairs, expected = (one.candidates(weight, args.cos_sim_high) for one in (results, reference))
    both, either = len(pairs & expected), len(pairs | expected)
    ratio = statistics.median(own / first for own, first in zip(rates[name], rates[REFERENCE], strict=True))
    return (
        name,
        median_and_maximum(importances),
        median_and_maximum(arv_changes(weight, reference, results)),
        f"{both} / {either}" + (f" ({both / either:.1%})" if either else ""),
        f"{statistics.median(rates[name]):.1f}",
        f"{ratio:.2f}",
    )


def get_options():
    """Own flags, and the rest for stage 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--layer_of_interest", default=defaults.LAYER)
    parser.add_argument("--batch_size", type=int, default=defaults.BATCH_SIZE)
    parser.add_argument("--images_a_class", type=int, default=50)
    parser.add_argument("--ways", nargs="+", choices=ways_here(), default=list(ways_here()), help="default: all")
    parser.add_argument("--repeat", type=int, default=1, help="rounds, for medians of images/s")
    parser.add_argument("--proportion_attribution_required", type=float, default=defaults.TAU, help="tau")
    parser.add_argument("--p", type=float, default=defaults.P)
    parser.add_argument("--cos_sim_high", type=float, default=defaults.GAMMA, help="gamma")
    parser.add_argument("--only_correct", action="store_true")
    parser.add_argument("--min_images", type=int, default=defaults.MIN_IMAGES)
    return parser.parse_known_args()


def main():
    args, rest = get_options()
    ways = {REFERENCE: (), **{name: ways_here()[name] for name in args.ways}}
    stores, rates = {}, {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        num_images = link_images(args.data_dir / "train", Path(folder) / "train", args.images_a_class)
        chunk_size = args.batch_size * max(1, num_images // CHUNKS // args.batch_size)
        data = dict.fromkeys(ways, Path(folder))
        if REPEATED in ways:
            data[REPEATED] = Path(folder) / REPEATED
            write_with_repeated_chroma(Path(folder) / "train", data[REPEATED] / "train")
        flags = ["--model", args.model, "--layer_of_interest", args.layer_of_interest]
        flags += ["--weights", args.weights] if args.weights else []
        flags += ["--batch_size", args.batch_size, "--chunk_size", chunk_size, *rest]
        for round_ in range(args.repeat):
            for name, way in ways.items():
                store_dir = Path(folder) / f"store of {name}, {round_}"
                where = ("--data_dir", data[name], "--store_dir", store_dir)
                run("get_importances_for_classes.py", *flags, *where, *way)
                stores[name] = ImportanceStore(store_dir, run_name(args.model, args.layer_of_interest))
                rates[name].append(rate(stores[name]))
        results = {name: Results(store, args) for name, store in stores.items()}
        network = load_network(args.model, args.weights).module
        reference = results.pop(REFERENCE)
        weight = layer_of("", network.get_submodule(reference.store.meta["layer"])).weight
        rows = [
            table_row(name, result, reference, rates=rates, weight=weight, args=args)
            for name, result in results.items()
        ]
    changes = ("importances: median / max", "ARVs: median / max", "candidates: both / either")
    print_table((f"against {REFERENCE}, {num_images} images", *changes, "images/s", "ratio"), rows)
    print(f"\n{REFERENCE}: {statistics.median(rates[REFERENCE]):.1f} images/s")


if __name__ == "__main__":
    main()
