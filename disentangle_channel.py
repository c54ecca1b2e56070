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
    try:
        import utils.command_line.interrupts  # noqa: F401  (first: from here on, Ctrl-C is one line)
    except ModuleNotFoundError as error:
        import sys

        print(f"another package named utils was imported before this project's ({error})", file=sys.stderr)
        sys.exit(2)

from pathlib import Path

from utils.command_line import flags
from utils.command_line.run import run


def get_args_parser():
    parser = flags.Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    flags.add_channel_flag(parser, "channel_disentangle", "the channel to split")
    flags.add_concept_flags(parser)
    flags.add_candidates_flag(parser)
    help = "ARVs and the images that choose rho from correctly classified images only (default: as the candidates say)"
    flags.add_only_correct_flag(parser, help)
    parser.add_argument(
        "--rho_objective",
        choices=flags.OBJECTIVES,
        default="positive",
        help="what rho maximises: positive (default; the published code), absolute (Eq. 6 as printed), contrast",
    )
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def check(args, _):
    flags.require(args, "model")
    flags.check_candidates(args, "channel_disentangle")


def main(args):
    import torch
    from tqdm import tqdm

    from utils.command_line import opening
    from utils.images.batches import ImageBatches
    from utils.images.classes import ClassMap
    from utils.networks.arithmetic import check_precision, choose_device
    from utils.report.split_text import print_closing_table, print_equality, print_split
    from utils.stages import disentangling
    from utils.stages.proof import EqualityProof
    from utils.store.class_statistics import ClassStore
    from utils.store.importances import ImportanceStore
    from utils.store.names import run_name

    device = choose_device(args.device)
    check_precision(args.precision, device)
    loading = flags.loading(args, device)
    run = run_name(args.model, args.layer_of_interest)
    store = ImportanceStore(args.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    opening.check_channel_count(args, meta)
    classes, asked = ClassMap(meta["classes"]), opening.asked_candidates(args, "channel_disentangle")
    opening.check_origin(asked, args, meta)
    only_correct = opening.setting("only_correct", args, asked.settings)
    problems = opening.Problems(len(asked.candidates))
    channels = opening.resolve_all(asked, "channel_disentangle", meta, classes, problems)
    transform = opening.open_transform(args, meta, store.folder)
    network, layer = opening.open_network(args, meta, store.folder)

    class_store = ClassStore(args.store_dir, run, meta)
    maker = disentangling.CandidateMaker(store, class_store, classes, only_correct)
    candidates = problems.collect(maker.make, channels)
    how = {"batch_size": args.batch_size, "precision": args.precision}
    settings = {**asked.settings, **how, "only_correct": only_correct, "decoding": args.decode}
    splits = disentangling.SplitWriter(args.store_dir, run, meta, settings, args.rho_objective)
    print(f"{'only correctly classified' if only_correct else 'all'} images; rho by the objective {args.rho_objective}")
    missing = [candidate for candidate in candidates if not splits.is_there(candidate)]
    labels = store.read_labels()
    images = store.read_images(Path(args.data_dir) / "train").with_contents(labels.indices, labels.contents)
    members = disentangling.images_by_class(labels, {output for one in missing for output in one.outputs}, only_correct)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    network.module.to(device, memory_format=torch.channels_last)
    proof, written = EqualityProof(network.module, layer), []
    for candidate, search, shown in disentangling.search_rho(network.module, layer, missing, members, load, **how):
        with problems.noted(f"channel {candidate.channel}"), tqdm.external_write_mode():
            split = disentangling.split_by(candidate, search, args.rho_objective)
            print_split(candidate, search, split.rho, members, network, layer)
            check = proof.check([split], shown)
            print_equality(check)
            path, file = splits.write(candidate, split, check)
            written.append(file)
            print(f"\nwrote {path}")
    if len(written) > 1:
        print_closing_table(written)
    problems.finish("split")
    more = flags.candidate_flags(args, "channel_disentangle", "channel_of_interest")
    more += splits.selectors(candidates) or flags.only_correct_flag(args)
    print(flags.next_command("get_results.py", args, *more))


if __name__ == "__main__":
    interrupted = "splits that were written stay; the same command makes the missing ones"
    run(main, get_args_parser(), "torch", "torchvision", check=check, interrupted=interrupted)
