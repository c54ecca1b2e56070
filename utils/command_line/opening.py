"""Opens candidates, settings and the network for stages 2 to 4, and checks them against what is stored."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from utils import defaults
from utils.command_line import flags
from utils.command_line.earlier_settings import FLAGS, chosen_run, flags_given
from utils.command_line.settings import CandidateSettings, ImageSettings, ImportanceSettings, StageSettings
from utils.concept_sources.source_registry import SUGGESTED
from utils.errors import UserError, listed, printable
from utils.images.batches import ImageSource
from utils.images.folders import ClassMap, ImageList, class_folders, list_images, map_folders, read_class_map
from utils.images.transform import Transform
from utils.method.disentangling import Candidate
from utils.networks.layers import Layer, find_layer
from utils.networks.loading import LoadedNetwork, load_network, named_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.splitting import EDITS_IN_ONE_CALL
from utils.networks.state_dicts import EDIT_RECORD
from utils.processes import progress
from utils.report.concepts_table import write_concepts
from utils.report.split_text import print_equality
from utils.stages.equality_proof import EqualityProof
from utils.store.candidates import RequestedCandidate, RequestedCandidates, read_candidates
from utils.store.files import refuse_differences, run_name
from utils.store.importance_store import ImportanceStore, identity
from utils.store.splits import SplitWriter, describe_splits, transform_from
from utils.store.study import Study
from utils.store.unfinished import Unfinished

HOW_TO_NAME_CONCEPTS = (
    f"write 'channel: class, class', or let stage 3 find them (--concepts_from {SUGGESTED}) and give stage 4 --splits"
)


def open_network(
    settings: ImageSettings, stored: dict[str, Any], path: Path | str, device: torch.device
) -> OpenedNetwork:
    """The network and its layer of interest, on a device; UserError if they differ from those in ``stored``."""
    network, layer = require_stored_network(settings, stored, path)
    opened = OpenedNetwork(network.module, layer, precision=settings.precision, weights=network.weights)
    return opened.to(device)


def require_stored_network(
    settings: StageSettings, stored: dict[str, Any], path: Path | str
) -> tuple[LoadedNetwork, Layer]:
    """Load the network and find its layer of interest; UserError if they differ from those in ``stored``.

    ``stored`` comes from the ``meta.json`` of a store or from a split file; ``path`` is its name in messages.
    """
    check_requested_network(settings, stored, path)
    network = load_network(settings.model, settings.weights)
    layer = find_layer(network.module, settings.layer_of_interest, stored["transform"]["crop_size"])
    opened = identity(settings.model, network, layer)
    edited_from = getattr(network.module, EDIT_RECORD, {}).get("weights_sha256")
    if edited_from == stored["weights_sha256"] != network.fingerprint:
        raise UserError(
            f"{path} was made for the original network, of which --weights {settings.weights} is an edited version: "
            f"{EDITS_IN_ONE_CALL}"
        )
    refuse_differences(opened, stored, opened, path)
    return network, layer


def open_images(
    settings: ImportanceSettings, run: str, network: LoadedNetwork, layer: Layer
) -> tuple[ImageList, dict[str, int]]:
    """Stage 1's images, and the map of their class folders to network outputs.

    A val store takes the map of the training store; folders of ``val/`` that are not in this map are printed and left
    out.
    """
    root = Path(settings.data_dir) / settings.images
    if settings.images == "train":
        class_map = None if settings.class_map is None else read_class_map(settings.class_map)
        images = list_images(root)
        assert layer.num_outputs is not None  # find_layer has run the network
        classes = map_folders(
            images.folders,
            layer.num_outputs,
            has_imagenet_classes=network.has_imagenet_classes,
            class_map=class_map,
        )
        return images, classes
    if settings.class_map is not None:
        raise UserError("--class_map: a val store has the class map of the training store: leave it out")
    training = ImportanceStore(settings.store_dir, run)
    meta = training.load_meta()
    opened = identity(settings.model, network, layer)
    refuse_differences(opened, meta, opened, training.folder)
    present = class_folders(root)
    unknown = [folder for folder in present if folder not in meta["classes"]]
    if unknown:
        names = listed(list(map(printable, unknown)), most=10, more=", ...")
        print(f"{len(unknown)} folders of {root} are not in the training store and are left out: {names}")
    return list_images(root, [folder for folder in present if folder in meta["classes"]]), meta["classes"]


def open_transform_of_stage1(settings: ImportanceSettings, run: str, network: LoadedNetwork) -> Transform:
    """The transform of the network and the flags; for a val store that of the training store."""
    if settings.images == "train":
        return flags.transform_from_flags(settings, network.transform)
    training = ImportanceStore(settings.store_dir, run)
    return open_transform(settings, training.load_meta(), training.folder)


def open_study(
    settings: ImageSettings,
    training: ImportanceStore,
    transform: Transform,
    device: torch.device,
    *,
    open_network: Callable[[], OpenedNetwork],
    only_correct: bool,
    background: float | None = None,
) -> Study:
    """The Study of a layer; ``open_network``, ``only_correct`` and ``background`` are as in Study."""
    return Study(
        run=run_name(settings.model, settings.layer_of_interest),
        store_dir=Path(settings.store_dir),
        data_dir=Path(settings.data_dir),
        training=training,
        only_correct=only_correct,
        background=background,
        transform=transform,
        open_network=open_network,
        open_loading=partial(flags.loading, settings, device),
        decoding=settings.decode,
        batch_size=settings.batch_size,
        precision=settings.precision,
    )


def check_requested_network(settings: StageSettings, stored: dict[str, Any], path: Path | str) -> None:
    """Raise UserError if the flags alone show that network or layer differ from ``stored``; loads no network."""
    refuse_differences({"model": settings.model_name}, stored, ["model"], path)
    if settings.weights is None and not named_network(settings.model).are_default_weights(stored["weights"]):
        raise UserError(f"{path} was made with --weights {stored['weights']}: give them again")
    if settings.layer_of_interest not in (*defaults.LAST_LAYERS, stored["layer"]):
        refuse_differences({"layer": settings.layer_of_interest}, stored, ["layer"], path)


def check_channel_count(settings: StageSettings, stored: dict[str, Any]) -> None:
    """Raise UserError if the given number of channels is not that of the layer."""
    given = settings.nr_channels_in_layer_of_interest
    if given not in (None, stored["num_channels"]):
        raise UserError(
            f"--nr_channels_in_layer_of_interest {given}: layer {stored['layer']} has {stored['num_channels']} channels"
        )


def open_transform(settings: ImageSettings, stored: dict[str, Any], path: Path | str) -> Transform:
    """The stored transform; UserError if the flags ask for a different one."""
    transform = transform_from(stored["transform"])
    given = flags.transform_from_flags(settings, transform)
    refuse_differences(asdict(given), asdict(transform), asdict(given), path)
    return transform


# --------------------------------------------------------------------------------------------------------------------
# Candidates and settings


def requested_candidates(settings: CandidateSettings, num_channels: int = 0) -> RequestedCandidates:
    """The requested candidates: the one that flags name, or those of a file.

    If channels are given with a file, only the candidates of these channels are kept. If the source finds the concepts,
    candidates are channels without concepts: the given ones, else those of the file, else all ``num_channels`` of the
    layer.
    """
    channels = settings.channels
    if settings.candidates is None and settings.finds_concepts:
        numbers = range(num_channels) if channels is None else dict.fromkeys(channels)
        return RequestedCandidates([RequestedCandidate(channel, []) for channel in numbers])
    if settings.candidates is None:
        if channels is None:  # from Python: flags require one of them
            raise UserError("neither candidates nor channels are given")
        if len(channels) > 1 and not settings.names_concepts_by_lists:
            raise UserError(f"--{settings.channel_flag} takes several channels only with --candidates")
        concepts: list[list[int | str]] = [list(classes) for classes in settings.concepts]
        return RequestedCandidates([RequestedCandidate(channel, concepts) for channel in dict.fromkeys(channels)])
    of_file = read_candidates(settings.candidates)
    candidates = of_file.candidates
    if channels is not None:
        missing = sorted(set(channels) - {candidate.channel for candidate in candidates})
        if missing:
            raise UserError(f"--candidates {settings.candidates} has no channel {missing[0]}")
        candidates = [candidate for candidate in candidates if candidate.channel in channels]
    if settings.finds_concepts:
        alone = {
            candidate.channel: RequestedCandidate(candidate.channel, [], candidate.line) for candidate in candidates
        }
        candidates = list(alone.values())
    elif without := [candidate for candidate in candidates if not candidate.concepts]:
        raise UserError(f"{without[0].line} names no concepts of channel {without[0].channel}: {HOW_TO_NAME_CONCEPTS}")
    return RequestedCandidates(candidates, of_file.settings)


def open_candidates(
    settings: CandidateSettings, meta: dict[str, Any], *, names: Collection[str] | None = None
) -> RequestedCandidates:
    """The requested candidates with the settings of stage 2: of their file, else of a run of stage 2; flags go first.

    ``meta`` is that of the training store. ``names`` are the settings that are needed: if None, all that have flags, or
    ``only_correct`` alone where the concepts are found in images, without the thresholds of stage 2. UserError if
    a given channel does not exist, if stage 2 found the candidates in a network with other weights, or in another
    layer, or if several of its runs may be meant.
    """
    for channel in settings.channels or ():  # before what is said of channels that exist
        check_channel(channel, settings.channel_flag, meta)
    requested = requested_candidates(settings, meta["num_channels"])
    check_origin(requested, settings, meta)
    of_stage_two = {"only_correct": defaults.ONLY_CORRECT, **requested.settings}
    if not requested.settings:
        if names is None:
            names = ["only_correct"] if settings.finds_concepts else list(FLAGS)
        run = run_name(settings.model, settings.layer_of_interest)
        channels = {candidate.channel for candidate in requested.candidates}
        stage_two_run = chosen_run(settings, run, meta, channels, names=names)
        if stage_two_run is not None:
            of_stage_two |= stage_two_run.settings
            print(f"settings of stage 2 from {stage_two_run.path}")
    of_stage_two |= flags_given(settings)
    shown = [f"{name} {of_stage_two[name]}" for name in ("tau", "p", "gamma") if name in of_stage_two]
    if shown:
        print(f"stage 2: {', '.join(shown)}")
    return replace(requested, settings=of_stage_two)


class Problems:
    """Collects the errors of candidates that cannot be processed, while the others are; ``finish`` lists them all.

    If only one candidate was requested, its error is raised at once.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.messages: list[str] = []

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Record a UserError that is raised in the block, under ``name``."""
        try:
            yield
        except UserError as error:
            if self.total == 1:
                raise
            self.messages.append(f"{name}: {error}")

    def collect(
        self, make: Callable[[int, list[list[int]]], Candidate], channels: list[tuple[int, list[list[int]]]]
    ) -> list[Candidate]:
        """The Candidates that ``make`` returns for channels and their concepts; those that fail are left out."""
        made = []
        for channel, concepts in progress(channels, desc="concepts", unit=" channels", delay=2):
            with self.noted(f"channel {channel}"):
                made.append(make(channel, concepts))
        return made

    def finish(self, verb: str) -> None:
        """Raise a UserError that lists the problems, if there are any."""
        if self.messages:
            shown = listed(self.messages, most=20, separator="; ", more="; and {} more")
            raise UserError(f"{len(self.messages)} of {self.total} candidates could not be {verb}: {shown}")


@contextmanager
def naming(candidate: RequestedCandidate) -> Iterator[None]:
    """Put the candidate's line in its file before the message of a UserError that is raised in the block."""
    try:
        yield
    except UserError as error:
        if candidate.line is None:
            raise
        raise UserError(f"{candidate.line}: {error}") from error


def resolve(
    candidate: RequestedCandidate, channel_flag: str, context: dict[str, Any], classes: ClassMap
) -> list[list[int]]:
    """A candidate's concepts as lists of network outputs; UserError if its channel or a class does not exist."""
    with naming(candidate):
        check_channel(candidate.channel, channel_flag, context)
        return classes.resolve(candidate.concepts, context["num_outputs"])


def check_channel(channel: int, flag: str, context: dict[str, Any]) -> None:
    """Raise UserError for a channel that the layer does not have."""
    if channel >= context["num_channels"]:
        last = context["num_channels"] - 1
        raise UserError(f"--{flag} {channel} is out of range, the layer has channels 0 to {last}")


def resolve_all(
    candidates: RequestedCandidates, channel_flag: str, meta: dict[str, Any], classes: ClassMap, problems: Problems
) -> list[tuple[int, list[list[int]]]]:
    """The distinct candidates as (channel, concepts); concepts are lists of network outputs."""
    resolved = {}
    for candidate in candidates.candidates:
        with problems.noted(f"channel {candidate.channel}"):
            concepts = resolve(candidate, channel_flag, meta, classes)
            resolved[candidate.channel, str(concepts)] = candidate.channel, concepts
    return list(resolved.values())


def check_origin(candidates: RequestedCandidates, settings: CandidateSettings, meta: dict[str, Any]) -> None:
    """Raise UserError if stage 2 found the candidates in a network with other weights, or in another layer."""
    origin: dict[str, Any] = {
        key: candidates.settings[key] for key in ("weights_sha256", "layer") if key in candidates.settings
    }
    refuse_differences(meta, origin, origin, settings.candidates)


# --------------------------------------------------------------------------------------------------------------------
# The end of stage 3


def write_layer(
    splits: SplitWriter,
    manifest: Path,
    candidates: list[Candidate],
    proof: EqualityProof,
    *,
    source: ImageSource,
    indices: list[int],
) -> list[Path]:
    """Prove that a network with all splits at once is equal, and write their manifest and table of concepts.

    The splits of all ``candidates`` are written. ``indices`` are those of the images on which to prove it; none is read
    if an equal manifest is stored already. Returns the paths.
    """
    files = splits.read_all(candidates)
    all_splits = [file.split for file in files.values()]
    written = []
    if not splits.layer_is_there(manifest, files):
        unfinished = Unfinished(manifest, {"splits": describe_splits(files), "images": indices})
        check = proof.check_all(all_splits, source, indices, unfinished)
        print(f"\nall {len(files)} splits at once")
        print_equality(check)
        splits.write_layer(manifest, files, check)
        unfinished.remove()
        written.append(manifest)
    return [*written, write_concepts(manifest, proof.network.layer, all_splits)]
