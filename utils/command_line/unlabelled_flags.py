"""Stage 3's flags of concepts without labels, and their checks. Nothing here imports torch."""

from utils.command_line import flags
from utils.errors import UserError

UNLABELLED = ("circuits", "pure", "concept_vectors")
CIRCUITS = (12, 600)  # concepts and reference images of a channel: for --help, a test compares


def add_unlabelled_flags(parser):
    """Concepts without labels."""
    group = parser.add_argument_group("concepts without labels", "sets of the images in which a channel is largest")
    group.add_argument(
        "--concepts_from",
        choices=("classes", *UNLABELLED),
        default="classes",
        help="classes (default); circuits (clusters of what the inputs contribute in single images, from the store "
        "alone); pure (Dreyer et al. 2024; one pass over train/); concept_vectors (O'Mahony et al. 2023). Without a "
        "channel or --candidates: all channels of the layer",
    )
    group.add_argument(
        "--nr_concepts",
        type=flags.positive_int,
        help=f"of each channel (circuits: {CIRCUITS[0]}; pure: 2; concept_vectors: as Ward's clustering says)",
    )
    group.add_argument(
        "--nr_reference_images",
        type=flags.positive_int,
        help=f"in which a channel is largest (circuits: {CIRCUITS[1]}; pure and concept_vectors: 100; of few images a "
        "quarter)",
    )
    group.add_argument(
        "--distance_threshold",
        type=flags.positive,
        help="concept_vectors: distance at which Ward's clusters are cut, and squared distance from a centroid at "
        "which images are dropped (15 as published, for InceptionV3; default, whatever the network's scale: 3.5 R and "
        "R squared, the mean squared distance of the training images from their mean)",
    )
    group.add_argument(
        "--circuit_layer",
        metavar="NAME",
        help="pure: an earlier module whose output the circuits are of, by plain autograd (default: the layer's input)",
    )


def check_unlabelled_flags(args):
    """Refuse flags that mean nothing to where the concepts come from; fill in the defaults that depend on it."""
    unlabelled = args.concepts_from != "classes"
    means = {"nr_concepts": UNLABELLED, "nr_reference_images": UNLABELLED, "distance_threshold": ("concept_vectors",)}
    for name, methods in {**means, "circuit_layer": ("pure",)}.items():
        if getattr(args, name) is not None and args.concepts_from not in methods:
            raise UserError(f"--{name} is for --concepts_from {' or '.join(methods)}: add it")
    for number in range(1, flags.MAX_CONCEPTS + 1) if unlabelled else ():
        if getattr(args, f"classes_for_concept{number}") is not None:
            raise UserError(f"--concepts_from {args.concepts_from} finds the concepts: leave out --classes_for_concept")
    args.split_by = args.split_by or ("least_squares" if unlabelled and args.rho_objective is None else "arv")
    if unlabelled and args.background is None:
        args.background = 1.0
