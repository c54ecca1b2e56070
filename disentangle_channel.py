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

from utils.command_line import flags, unlabelled_flags
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
        help="what rho maximises: positive (default; the published code), absolute (Eq. 6 as printed), contrast",
    )
    flags.add_division_flags(parser, stage3=True)
    unlabelled_flags.add_unlabelled_flags(parser)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def check(args, _):
    flags.require(args, "model")
    unlabelled_flags.check_unlabelled_flags(args)
    flags.check_candidates(args, "channel_disentangle")
    flags.background_weight(args)


def main(args):
    import torch
    from tqdm import tqdm

    from utils.command_line import concept_opening, opening
    from utils.command_line.run import print_end
    from utils.images.batches import ImageBatches
    from utils.images.classes import ClassMap
    from utils.networks.arithmetic import check_precision, choose_device
    from utils.report.concepts_table import write_concepts
    from utils.report.split_text import print_closing_table, print_equality, print_how, print_split, warn_above_gamma
    from utils.stages.disentangling import images_in_turn, members_of, some_of_all
    from utils.stages.least_squares import StoredInputs
    from utils.stages.proof import EqualityProof
    from utils.stages.split_writer import SplitWriter
    from utils.store.class_statistics import ClassStore
    from utils.store.files import run_name
    from utils.store.importances import ImportanceStore

    device = choose_device(args.device)
    check_precision(args.precision, device)
    loading = flags.loading(args, device)
    run = run_name(args.model, args.layer_of_interest)
    store = ImportanceStore(args.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    opening.check_channel_count(args, meta)
    classes = ClassMap(meta["classes"])
    asked = opening.asked_candidates(args, "channel_disentangle", meta["num_channels"])
    opening.check_origin(asked, args, meta)
    only_correct = opening.setting("only_correct", args, asked.settings)
    problems = opening.Problems(len(asked.candidates))
    channels = opening.resolve_all(asked, "channel_disentangle", meta, classes, problems)
    transform = opening.open_transform(args, meta, store.folder)
    network, layer = opening.open_network(args, meta, store.folder)

    class_store, background = ClassStore(args.store_dir, run, meta), flags.background_weight(args)
    labels = store.read_labels()
    inputs = StoredInputs(store, labels, only_correct)
    images = store.read_images(Path(args.data_dir) / "train").with_contents(labels.indices, labels.contents)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    find_references = concept_opening.pure_finder(args, run, meta, network, layer, labels, only_correct, load)
    network.module.to(device, memory_format=torch.channels_last)
    own = labels, inputs, only_correct, channels, find_references
    maker = concept_opening.open_concepts(args, store, class_store, classes, *own)
    candidates = problems.collect(maker.make, channels)
    how = {"batch_size": args.batch_size, "precision": args.precision}
    settings = {**asked.settings, **how, "only_correct": only_correct, "decoding": args.decode}
    divider = concept_opening.open_divider(args, network.module, layer, inputs)
    splits = SplitWriter(args.store_dir, run, meta, settings, divider, background)
    print_how(divider, only_correct, background)
    missing = [candidate for candidate in candidates if not splits.is_there(candidate)]
    members = members_of(candidates, labels, only_correct)

    proof, written = EqualityProof(network.module, layer), []
    for candidate, shown in images_in_turn(missing, members, divider, load, args.batch_size):
        with problems.noted(f"channel {candidate.channel}"), tqdm.external_write_mode():
            split = divider.split(candidate)
            print_split(split, members, network, layer)
            warn_above_gamma(split, maker.closeness(candidate), settings.get("gamma"))
            check = proof.check([split], shown)
            print_equality(check)
            path, file = splits.write(candidate, split, check)
            written.append(file)
            print(f"\nwrote {path}")
    if len(written) > 1:
        print_closing_table(written)
    stem, manifest, tables = concept_opening.layer_stem(args, maker), None, []
    if stem and splits.make_a_layer(candidates) and not problems.found:
        manifest, files = splits.manifest_path(stem), splits.read_all(candidates)
        all_splits = [file.split for file in files.values()]
        if not splits.layer_is_there(manifest, files):
            check = proof.check(all_splits, some_of_all(members, load))
            print(f"\nall {len(files)} splits at once")
            print_equality(check)
            splits.write_layer(manifest, files, check)
            tables.append(manifest)
        tables.append(write_concepts(manifest, layer, all_splits))
    problems.finish("split")
    commands = concept_opening.next_commands(args, splits, candidates, manifest)
    print_end(tables, commands, *([] if manifest else [splits.path(candidates[0]), "by utils.store.split_network"]))


if __name__ == "__main__":
    interrupted = "splits that were written stay; the same command makes the missing ones"
    run(main, get_args_parser(), "torch", "torchvision", check=check, interrupted=interrupted)
