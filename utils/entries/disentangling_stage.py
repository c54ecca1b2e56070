"""Stage 3: splits of channels into one for each concept."""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils.command_line import flags, opening
from utils.command_line.next_steps import after_splitting
from utils.command_line.run import print_end
from utils.command_line.settings import DisentanglingSettings
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS, WHICH
from utils.images.folders import ClassMap
from utils.networks.precision import check_precision, choose_device
from utils.report import split_text
from utils.stages.concept_images import ReadingPlan, images_at_once, images_in_turn, members_of
from utils.stages.equality_proof import EqualityProof
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore
from utils.store.splits import SplitFile, SplitWriter


@dataclass(frozen=True)
class WrittenSplits:
    """The files of stage 3's splits, one for each candidate, and the manifest of all, if there is one."""

    files: list[Path]
    manifest: Path | None


def disentangle(settings: DisentanglingSettings) -> WrittenSplits:
    """Split channels into one for each of their concepts, and prove that the network's output does not change.

    Splits that are stored and equal are not made again.

    Raises
    ------
    UserError
        A candidate could not be split; the others are stored.
    """
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
    division = DIVISIONS.get(settings.division_name)
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
    concepts_of_first = [concept.classes for concept in candidates[0].own_concepts] if candidates else []
    stem = source.manifest_stem(settings.candidates, settings.channels or (), concepts_of_first)
    at_once = images_at_once(members) if stem and splits.make_a_layer(candidates) else []
    plan = ReadingPlan.of(candidates, missing, members, all_images=divider.sees_images)
    split_text.print_reading(plan, divider, len(at_once))
    training_images = study.image_source(store)
    proof = EqualityProof(network, transform)
    written: list[SplitFile] = []
    for candidate, crops in images_in_turn(plan, divider, training_images):
        with problems.noted(f"channel {candidate.channel}"), tqdm.external_write_mode():
            split = candidate.split(divider.divide(candidate))
            split_text.print_split(split, members, network, finds_concepts=settings.finds_concepts)
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
    return WrittenSplits([splits.path(candidate) for candidate in candidates], manifest)
