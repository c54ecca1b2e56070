"""What stage 3 makes of a channel: what finds its concepts, and what divides its inputs among them."""

from pathlib import Path

import torch

from utils.command_line import flags
from utils.method.unlabelled import ByCircuits, ByConceptVectors, ByPure, usual_references
from utils.networks.circuits import find_circuit_layer
from utils.stages.choosing_rho import ByRho
from utils.stages.disentangling import CandidateMaker
from utils.stages.least_squares import ByLeastSquares
from utils.stages.references import channel_references, usable_images
from utils.stages.unlabelled import Clusters, ClustersByStore, UnlabelledConcepts, by_concept_vectors
from utils.store.files import image_sets_name
from utils.store.references import ReferenceStore

LONGEST_STEM = 100
KINDS = {kind.name: kind for kind in (ByCircuits, ByPure, ByConceptVectors)}


def open_concepts(args, store, class_store, classes, labels, inputs, only_correct, channels, find_references):
    """What makes Candidates of ``channels`` (``resolve_all``'s): by their classes, or by sets of images.

    ``find_references`` is that of ``pure_finder``.
    """
    common = store, class_store, classes, only_correct, flags.background_weight(args)
    if args.concepts_from == "classes":
        return CandidateMaker(*common)
    numbers = [channel for channel, _ in channels]
    method = _unlabelled_method(args, store, inputs)
    if args.concepts_from == "pure":
        references = find_references(method, numbers)
        inputs.keep(torch.cat([indices for indices, _ in references.values()]))

        def pure_clusters(channel):
            indices, features = references[channel]
            return Clusters(indices, *method.clusters(features))

        return UnlabelledConcepts(*common, labels=labels, inputs=inputs, clusters=pure_clusters, method=method)
    found = ClustersByStore(method, store, inputs, store.read_layer()[0][numbers], only_correct)
    place = {channel: unit for unit, channel in enumerate(numbers)}

    def clusters(channel):
        return found.of(place[channel])

    return UnlabelledConcepts(*common, labels=labels, inputs=inputs, clusters=clusters, method=method)


def pure_finder(args, run, meta, network, layer, labels, only_correct, load):
    """A function of (ByPure, channels) that gives {channel: (reference images [n], their circuits [n, F])}.

    The network is on the CPU when this is called.
    """
    circuit_layer = None
    if args.circuit_layer is not None:
        circuit_layer = find_circuit_layer(network.module, layer, args.circuit_layer, meta["transform"]["crop_size"])
    num_features = layer.num_inputs if circuit_layer is None else circuit_layer.num_features

    def find(method, channels):
        settings = {"number": method.references, "circuit_layer": args.circuit_layer, "only_correct": only_correct}
        settings |= {"precision": args.precision, "decoding": args.decode}
        stored = ReferenceStore(Path(args.store_dir) / "models_disentangled", run, meta, num_features, settings)
        usable, how = usable_images(labels, only_correct), (args.batch_size, circuit_layer)
        found = channel_references(channels, stored, network.module, layer, load, usable, *how)
        print(f"reference images: {stored.path}")
        return dict(zip(channels, zip(found.indices, found.features, strict=True), strict=True))

    return find


def _unlabelled_method(args, store, inputs):
    """How concepts without labels are found, as the flags say."""
    number, kind = args.nr_concepts, KINDS[args.concepts_from]
    references = args.nr_reference_images or usual_references(kind, store.meta["num_images"])
    if kind is ByCircuits:
        return ByCircuits(number or kind.number, references)
    if kind is ByPure:
        return ByPure(number or kind.number, references, args.circuit_layer)
    asked = {"number": number, "references": references, "threshold": args.distance_threshold}
    return by_concept_vectors(*store.read_layer(), store.meta["positions"], inputs, **asked)


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
    """What to run next, (what for, command) each; ``manifest`` is the path of the one of all splits, or None."""
    if args.concepts_from != "classes":
        paths = map(splits.path, candidates) if manifest is None else [manifest]
        return [("next", flags.next_command("get_results.py", args, "--splits", *paths))]
    more = flags.candidate_flags(args, "channel_disentangle", "channel_of_interest")
    selectors = splits.selectors(candidates)
    more += selectors + (flags.only_correct_flag(args) if "--rho_objective" not in selectors else [])
    commands = [("next", flags.next_command("get_results.py", args, *more))]
    if manifest is not None:
        separation = flags.next_command("get_results.py", args, "--splits", manifest, "--get_separation")
        commands.append(("or, against all other validation images", separation))
    return commands
