"""What reproduce_paper.sh will do on one's own images, how much it will store and how long it will take.

    python -m benchmarks.estimate --data_dir /datasets/imagenet --model resnet50 --candidates paper_pairs.txt

Everything that would stop a later stage is looked for now: the network, its weights, both folders of images, the
candidates' classes. Then stage 1 is timed on batches spread over the training images, without storing anything. The
flags are those of stage 1. Exit status 3: all is well, but stage 2 has to go on without the WordNet figure.
"""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from utils.command_line import flags, split_flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import ImportanceSettings

WITHOUT_WORDNET = 3  # exit status
SECONDS, FEWEST, MOST = 20, 4, 400  # how long to time, and how many batches


@dataclass(frozen=True, kw_only=True)
class EstimateSettings(ImportanceSettings):
    """What stage 1 will be asked, and the candidates of stages 3 and 4."""

    candidates: str


def get_args_parser():
    parser = Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    flags.add_output_flag(parser)
    flags.add_network_flags(parser)
    split_flags.add_candidates_flag(parser)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def settings_from(args, _):
    flags.require(args, "model", "candidates")
    return flags.settings_of(EstimateSettings, args)


def bytes_per_image(layer):
    """What stage 1 keeps of an image: importances, sums of the layer's input, and a few for labels."""
    return 2 * layer.num_channels + 4 * layer.num_inputs * layer.num_taps + 4 + 4 * 8


def duration(seconds):
    """Two digits at most: it is an estimate."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def spread_batches(num_images, batch_size):
    """Batches of neighbours, as stage 1 reads them, from all over the list; in an order that may end anywhere."""
    import numpy as np

    number = min(MOST, max(1, num_images // batch_size))
    starts = np.linspace(0, max(num_images - batch_size, 0), number).astype(int)
    order = np.random.default_rng(0).permutation(starts)
    return [list(range(start, min(start + batch_size, num_images))) for start in order.tolist()]


def images_per_second(network, source, targets):
    """Time the loop of stage 1 until SECONDS have passed: the rate of the second half, when all are at work."""
    import torch

    from utils.stages.importances import importances_of

    loader = source.batches(spread_batches(len(source.images), source.batch_size), "timing")
    ends, counts = [time.perf_counter()], []
    for batch, record in network.records_in_step(loader, torch.from_numpy(targets), check_finite=False):
        if record is not None:
            for values in importances_of(network.layer, record).values():
                values.cpu()
        ends.append(time.perf_counter())
        counts.append(len(batch.indices))
        if len(counts) >= FEWEST and ends[-1] - ends[0] > SECONDS:
            break
    half = len(counts) // 2
    return sum(counts[half:]) / (ends[-1] - ends[half])


def free_space(folder):
    """Bytes that are free where a folder is, or will be."""
    folder = Path(folder).absolute()
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.is_dir())).free


def missing_images(store):
    """How many images stage 1 still has to measure, as far as its folder says; None where it has not begun."""
    if not store.meta_path.is_file():
        return None
    store.load_meta()
    return sum(len(store.chunk_range(chunk)) for chunk in store.missing_chunks())


def wordnet_is_there(classes):
    """Whether stage 2 can draw the WordNet figure; if not, why, in one line."""
    from utils.errors import UserError
    from utils.store.synsets import class_synsets

    try:
        class_synsets(classes, needed_by="--plot_wordnet", may_download=True)
    except UserError as error:
        print(f"stage 2 goes on without the WordNet figure: {error}", file=sys.stderr)
        return False
    return True


def main(settings):
    import numpy as np

    from utils.command_line import opening
    from utils.errors import UserError
    from utils.images.batches import ImageSource
    from utils.images.folders import ClassMap, list_images
    from utils.networks.layers import find_layer
    from utils.networks.loading import load_network
    from utils.networks.opened_network import OpenedNetwork
    from utils.networks.precision import check_precision, choose_device
    from utils.store.candidates import read_candidates
    from utils.store.files import run_name
    from utils.store.importance_store import ImportanceStore

    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    loading = flags.loading(settings, device)
    network = load_network(settings.model, settings.weights)
    transform = flags.transform_from_flags(settings, network.transform)
    layer = find_layer(network.module, settings.layer_of_interest, transform.crop_size)
    images, outputs = opening.open_images(
        settings, run_name(settings.model, settings.layer_of_interest), network, layer
    )
    asked = read_candidates(settings.candidates)
    problems, sizes = opening.Problems(len(asked.candidates)), vars(layer) | {"num_channels": layer.num_channels}
    resolved = opening.resolve_all(asked, "channel_disentangle", sizes, ClassMap(outputs), problems)
    problems.finish("found")
    classes = {output for _, concepts in resolved for concept in concepts for output in concept}
    folders = sorted(folder for folder, output in outputs.items() if output in classes)
    validation = list_images(Path(settings.data_dir) / "val", folders)
    store = ImportanceStore(settings.store_dir, run_name(settings.model, settings.layer_of_interest))
    missing, each, free = missing_images(store), bytes_per_image(layer), free_space(settings.store_dir)
    missing = len(images) if missing is None else missing
    if missing * each > free:
        raise UserError(
            f"--store_dir {settings.store_dir} needs {missing * each / 1e9:.1f} GB and has {free / 1e9:.1f} GB free"
        )
    wordnet = wordnet_is_there(outputs)

    own = sum(count for folder, count in images.counts().items() if folder in folders)
    total = each * len(images)
    stored = f"{total / 1e9:.1f} GB" if total >= 1e9 else f"{total / 1e6:.1f} MB"
    print(f"{settings.model} with weights {network.weights}, layer {layer.name}: {layer.num_channels} channels")
    print(f"1. importances in {len(images):,} training images of {len(images.folders)} classes:")
    print(f"   {each / 1000:.1f} KB an image, {stored} in {settings.store_dir} ({free / 1e9:.0f} GB free)")
    print(f"2. pairs of classes that share a channel{', with the WordNet figure' if wordnet else ''}")
    print(f"3. {len(resolved)} pairs of {Path(settings.candidates).name} split, by {own:,} training images")
    print(
        f"4. and measured on {len(validation):,} validation images: tables and cards in {settings.output_dir}",
        flush=True,
    )

    if missing == 0:
        print("stage 1 is done: the others take minutes", flush=True)
    else:
        targets = np.array([outputs[folder] for folder in images.folders])[images.folder_of]
        opened = OpenedNetwork(network.module, layer, settings.precision).to(device)
        rate = images_per_second(opened, ImageSource(images, transform, settings.batch_size, loading), targets)
        there = f" for the {missing:,} images that are missing" if missing < len(images) else ""
        print(
            f"{rate:.3g} images/s here ({device}, one process): roughly {duration(missing / rate)} for stage 1{there},"
        )
        print(f"minutes for stage 2, {duration((own + len(validation)) / rate)} for stages 3 and 4", flush=True)
    if not wordnet:
        sys.exit(WITHOUT_WORDNET)


if __name__ == "__main__":
    run(main, get_args_parser(), settings=settings_from, interrupted="nothing was stored")
