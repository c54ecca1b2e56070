"""Stage 3: rewrite a channel that serves several concepts into channels that serve one each.

The input channels of the layer are divided among the concepts by their averaged relevance vectors and a factor rho;
rho is chosen on the concepts' training images (Eq. 6). The network's output stays what it was, which is shown on real
images before anything is stored.

    python disentangle_channel.py --data_dir /datasets/imagenet/ --model resnet50 --channel_disentangle 1660 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --store_dir /store_dir/

More concepts: --classes_for_concept3 ... --classes_for_concept8. Many pairs in one process, each class's images read
once: --candidates FILE (stage 2's table, or paper_pairs.txt).
"""

if __name__ == "__main__":
    import utils.command_line.interrupts  # noqa: F401  (first: from here on, Ctrl-C is one line)

from pathlib import Path

from utils.command_line import flags
from utils.command_line.run import run


def get_args_parser():
    parser = flags.Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    parser.add_argument("--channel_disentangle", type=flags.count, help="the channel to split")
    flags.add_concept_flags(parser)
    flags.add_candidates_flag(parser)
    parser.add_argument(
        "--only_correct",
        action="store_true",
        help="take ARVs and the images that choose rho from correctly classified images only",
    )
    parser.add_argument(
        "--rho_objective",
        choices=flags.OBJECTIVES,
        default="positive",
        help="what rho maximises: positive (default; the published code), absolute (Eq. 6 as printed), contrast",
    )
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def main(args):
    import torch

    from utils.command_line.opening import open_network, open_transform, resolved_candidates
    from utils.errors import UserError
    from utils.images.batches import ImageBatches
    from utils.images.classes import ClassMap
    from utils.images.listing import list_images
    from utils.networks.arithmetic import check_precision, choose_device
    from utils.report.split_text import LARGEST_ERROR, print_equality, print_split
    from utils.stages.disentangling import check_equality, images_by_class, make_candidates, search_rho, split_by
    from utils.store.class_statistics import ClassStore
    from utils.store.files import refuse_differences
    from utils.store.importances import ImportanceStore
    from utils.store.names import run_name
    from utils.store.splits import SPLIT_CONTEXT, split_path, write_split

    flags.require(args, "model")
    flags.check_candidates(args, "channel_disentangle")
    device = choose_device(args.device)
    check_precision(args.precision, device)
    loading = flags.loading(args, device)
    run = run_name(args.model, args.layer_of_interest)
    store = ImportanceStore(args.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    classes = ClassMap(meta["classes"])
    asked = resolved_candidates(args, "channel_disentangle", meta, classes)
    transform = open_transform(args, meta, store.folder)
    images = list_images(Path(args.data_dir) / "train")
    data = {"num_images": len(images), "data_sha256": images.digest()}
    refuse_differences(data, meta, data, store.folder)
    network, layer = open_network(args, meta, store.folder)

    class_store = ClassStore(args.store_dir, run, meta)
    candidates = make_candidates(asked, layer, class_store, classes, args.only_correct)
    members = images_by_class(store, candidates, args.only_correct)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    network.module.to(device, memory_format=torch.channels_last)
    how = {"batch_size": args.batch_size, "precision": args.precision}
    searches = search_rho(network.module, layer, candidates, members, load, **how)
    splits = [
        split_by(search, candidate, args.rho_objective) for candidate, search in zip(candidates, searches, strict=True)
    ]
    checks = check_equality(network.module, layer, splits, members, load, batch_size=args.batch_size)
    context = {**{key: meta[key] for key in SPLIT_CONTEXT}, "only_correct": args.only_correct}
    unequal = []
    for candidate, search, split, check in zip(candidates, searches, splits, checks, strict=True):
        print_split(candidate, search, split.rho, members, classes, network, layer)
        path = split_path(Path(args.store_dir) / "models_disentangled", run, split.channel, split.concepts)
        if print_equality(check):
            write_split(path, split, context)
            print(f"\nwrote {path}")
        else:
            unequal.append(path.name)
    if unequal:
        raise UserError(
            f"the split network does not equal the original (limit {LARGEST_ERROR:.0e}): it was not stored "
            f"({', '.join(unequal)})"
        )
    print(flags.next_command("get_results.py", args, *flags.candidate_flags(args, splits[-1])))


if __name__ == "__main__":
    run(main, get_args_parser(), "torch", "torchvision")
