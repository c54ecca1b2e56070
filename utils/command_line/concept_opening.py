"""What stage 3 makes of a channel: what finds its concepts, and what divides its inputs among them."""

from pathlib import Path

import torch

from utils.command_line import flags, unlabelled_flags
from utils.method.unlabelled import ByCircuits, ByConceptVectors, ByPure
from utils.stages.choosing_rho import ByRho
from utils.stages.disentangling import CandidateMaker
from utils.stages.least_squares import ByLeastSquares
from utils.stages.unlabelled import ClustersByStore, UnlabelledConcepts
from utils.store.names import image_sets_name

LONGEST_STEM = 100


def open_concepts(args, store, class_store, classes, labels, inputs, only_correct, channels, find_references):
    """What makes Candidates of ``channels`` (``resolve_all``'s): by their classes, or by sets of images.

    ``find_references`` is a function of (ByPure, channels) that returns the Clusters of each, {channel: Clusters}.
    """
    common = store, class_store, classes, only_correct, flags.background_weight(args)
    if args.concepts_from == "classes":
        return CandidateMaker(*common)
    numbers = [channel for channel, _ in channels]
    method = _unlabelled_method(args, store)
    if args.concepts_from == "pure":
        clusters = find_references(method, numbers)
        inputs.keep(torch.cat([one.indices for one in clusters.values()]))
        return UnlabelledConcepts(*common, labels=labels, inputs=inputs, clusters=clusters.__getitem__, method=method)
    found = ClustersByStore(method, store, inputs, store.read_layer()[0][numbers], only_correct)
    place = {channel: unit for unit, channel in enumerate(numbers)}

    def clusters(channel):
        return found.of(place[channel])

    return UnlabelledConcepts(*common, labels=labels, inputs=inputs, clusters=clusters, method=method)


def _unlabelled_method(args, store):
    """How concepts without labels are found, as the flags say."""
    number, references = args.nr_concepts, args.nr_reference_images
    if args.concepts_from == "circuits":
        return ByCircuits(number or unlabelled_flags.CIRCUITS[0], references or unlabelled_flags.CIRCUITS[1])
    if args.concepts_from == "pure":
        return ByPure(number or 2, references or 100, args.circuit_layer)
    layer = *store.read_layer(), store.meta["positions"]
    return ByConceptVectors(*layer, number, references or 100, args.distance_threshold)


def open_divider(args, network, layer, inputs):
    """What divides the inputs of stage 3's candidates; ``inputs`` are StoredInputs."""
    if args.split_by == "arv":
        return ByRho(network, layer, args.rho_objective or "positive", args.precision)
    return ByLeastSquares(inputs, flags.background_weight(args))


def layer_stem(args, maker):
    """What the manifest of all splits is named after; None for one channel, or some of a candidates file's alone."""
    if args.concepts_from == "classes":
        return Path(args.candidates).stem if args.candidates and not args.channel_disentangle else None
    channels = args.channel_disentangle or ()
    if args.candidates is None and len(channels) == 1:
        return None
    which = Path(args.candidates).stem if args.candidates else "channels" if channels else "all_channels"
    parts = [which, "-".join(map(str, channels)), image_sets_name(maker.method.name, maker.method.settings())]
    stem = "_".join(filter(None, parts))
    return stem if len(stem) <= LONGEST_STEM else image_sets_name(maker.method.name, stem)


def next_commands(args, splits, candidates, manifest):
    """What to run next, ready to paste; ``manifest`` is the path of the one of all splits, or None."""
    if args.concepts_from != "classes":
        paths = map(splits.path, candidates) if manifest is None else [manifest]
        return [flags.next_command("get_results.py", args, "--splits", *paths)]
    more = flags.candidate_flags(args, "channel_disentangle", "channel_of_interest")
    selectors = splits.selectors(candidates)
    more += selectors + (flags.only_correct_flag(args) if "--rho_objective" not in selectors else [])
    commands = [flags.next_command("get_results.py", args, *more)]
    if manifest is not None:
        command = flags.next_command("get_results.py", args, "--splits", manifest, "--get_separation")
        commands.append(command.replace("next: ", "or, against all other validation images: ", 1))
    return commands
