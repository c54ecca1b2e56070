"""Stage 3: rewrite a channel that serves several concepts into channels that serve one each.

The input channels of the layer are divided among the concepts by their averaged relevance vectors and a factor rho;
rho is chosen on the concepts' training images (Eq. 6). The network's output stays what it was, which is shown on real
images before anything is stored.

    python disentangle_channel.py --data_dir /datasets/imagenet/ --model resnet50 --channel_disentangle 1660 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --store_dir /store_dir/

More concepts: --classes_for_concept3 ... --classes_for_concept8. Many pairs in one process, each class's images read
once: --candidates FILE (stage 2's table, or paper_pairs.txt).
"""

import argparse

from utils.command_line import flags, split_flags
from utils.command_line.run import print_end, run
from utils.command_line.settings import DisentanglingSettings


def get_args_parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    flags.add_output_flag(parser, only_for_next=True)
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    split_flags.add_channel_flag(parser, "channel_disentangle", "the channel to split")
    split_flags.add_concept_flags(parser)
    split_flags.add_candidates_flag(parser)
    split_flags.add_stage_two_flags(parser, stage3=True)
    split_flags.add_division_flags(parser, stage3=True)
    split_flags.add_source_flags(parser)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def settings_from(args: argparse.Namespace, _: argparse.ArgumentParser) -> DisentanglingSettings:
    flags.require(args, "model")
    source = split_flags.source_of(args)
    channel_flag = DisentanglingSettings.channel_flag
    concepts = split_flags.concepts_from(args, channel_flag, finds_concepts=not source.labelled)
    division = split_flags.division_of(args, source)
    return flags.settings_of(
        DisentanglingSettings,
        args,
        channels=split_flags.channels_from(args, channel_flag),
        concepts=concepts,
        source_given=split_flags.given_to(source, args),
        split_by=division.name,
        division_given=split_flags.given_to(division, args),
        background=split_flags.background_of(args, source, division),
    )


def main(settings: DisentanglingSettings) -> None:
    from tqdm import tqdm

    from utils.command_line import opening
    from utils.command_line.next_steps import after_splitting
    from utils.concept_sources.source_registry import SOURCES
    from utils.divisions.division_registry import DIVISIONS, WHICH
    from utils.images.folders import ClassMap
    from utils.networks.precision import check_precision, choose_device
    from utils.report import split_text
    from utils.stages.concept_images import ReadingPlan, images_at_once, images_in_turn, members_of
    from utils.stages.equality_proof import EqualityProof
    from utils.store.files import run_name
    from utils.store.importance_store import ImportanceStore
    from utils.store.splits import SplitWriter

    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    flags.loading(settings, device)  # raises an error before anything is read if the device lacks what is needed
    store = ImportanceStore(settings.store_dir, run_name(settings.model, settings.layer_of_interest))
    meta = store.load_meta()
    store.require_complete()
    opening.check_channel_count(settings, meta)
    requested = opening.open_candidates(settings, meta)
    problems = opening.Problems(len(requested.candidates))
    channels = opening.resolve_all(requested, settings.channel_flag, meta, ClassMap(meta["classes"]), problems)
    transform = opening.open_transform(settings, meta, store.folder)
    network = opening.open_network(settings, meta, store.folder, device)
    study = opening.open_study(
        settings,
        store,
        transform,
        device,
        open_network=lambda: network,
        only_correct=requested.settings["only_correct"],
        background=settings.weight_of_background,
    )

    # The concepts of each channel
    source = SOURCES.get(settings.concepts_from).from_given(settings.source_given, study)
    maker = source.maker(study, [channel for channel, _ in channels])
    candidates = problems.collect(maker.make, channels)

    # Divide the inputs among the concepts on their images, unless an equal split is stored
    division = DIVISIONS.get(settings.split_by)
    division_settings = division.settings_from(settings.division_given)
    split_text.print_how(division.describe(division_settings), study.only_correct, study.background)
    divider = division.divider(
        division_settings,
        network,
        inputs_of=study.inputs_of,
        background=study.background,
    )
    splits = SplitWriter(study, requested.settings, division, division_settings)
    missing = [candidate for candidate in candidates if not splits.is_there(candidate)]
    members = members_of(candidates, study.labels, study.only_correct)
    stem = source.manifest_stem(settings.candidates, settings.channels or ())
    at_once = images_at_once(members) if stem and splits.make_a_layer(candidates) else []
    plan = ReadingPlan.of(candidates, missing, members, all_images=divider.sees_images)
    split_text.print_reading(plan, divider, len(at_once))
    training_images = study.image_source(store)
    proof = EqualityProof(network, transform)
    written = []
    for candidate, crops in images_in_turn(plan, divider, training_images):
        with problems.noted(f"channel {candidate.channel}"), tqdm.external_write_mode():
            split = candidate.split(divider.divide(candidate))
            split_text.print_split(split, members, network)
            split_text.warn_above_gamma(split, maker.closeness(candidate), requested.settings.get("gamma"))
            check = proof.check([split], crops)
            split_text.print_equality(check)
            path, file = splits.write(candidate, split, check)
            written.append(file)
            print(f"\nwrote {path}")
    if len(written) > 1:
        split_text.print_closing_table(written)

    # All splits at once, if they can be in one network
    manifest = None
    tables = []
    if at_once and stem and not problems.messages:
        manifest = splits.manifest_path(stem)
        tables = opening.write_layer(splits, manifest, candidates, proof, source=training_images, indices=at_once)
    problems.finish("split")
    commands = after_splitting(settings, source, splits, candidates, manifest)
    print(f"\n{WHICH}")
    if manifest is None:
        print_end([], commands, open_first=splits.path(candidates[0]), opened_by="by utils.store.split_network")
    else:
        print_end(tables, commands)


if __name__ == "__main__":
    interrupted = "splits that were written stay; the same command makes the missing ones"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
