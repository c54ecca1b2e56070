"""What stage 3 says of a split: what it is made of, how rho was chosen, and that the output stays what it was."""

from utils.method.disentangling import RHOS
from utils.method.polysemanticity import cosine_similarities

LARGEST_ERROR = 1e-4


def print_split(candidate, search, best, members, classes, network, layer):
    """Print what a split is made of, and the table from which rho was chosen.

    Parameters
    ----------
    candidate : Candidate
    search : RhoSearch
    best : float
        The chosen rho.
    members : dict of output -> its training images' indices
    classes : ClassMap
    network : LoadedNetwork
    layer : Layer
    """
    print(f"\nchannel {candidate.channel} of {layer.name} (weights {network.weights})")
    for k, concept in enumerate(candidate.concepts, start=1):
        count = sum(len(members[output]) for output in concept)
        print(f"concept {k}: {classes.concept_name(concept)} {concept}, {count} training images")
    cosines, num_concepts = cosine_similarities(candidate.arvs), len(candidate.concepts)
    pairs = [f"{j + 1}-{k + 1}: {cosines[j, k]:.3f}" for j in range(num_concepts) for k in range(j + 1, num_concepts)]
    print(f"cosine of the concepts' ARVs {', '.join(pairs)}")
    sizes = [f"|S_{k}|" for k in range(1, num_concepts + 1)]
    print(f"\n  rho  {'positive':>10}  {'absolute':>10}  contrast  {'  '.join(f'{size:>6}' for size in sizes)}  shared")
    for rho, values, owners in zip(RHOS, search.objectives().tolist(), search.owners, strict=True):
        counts = owners.bincount(minlength=num_concepts + 1).tolist()
        row = "  ".join(f"{number:6d}" for number in [*counts[1:], counts[0]])
        mark = " <- chosen" if rho == best else ""
        print(f" {rho:.2f}  {values[0]:10.4g}  {values[1]:10.4g}  {values[2]:8.4f}  {row}{mark}")


def print_equality(check):
    """Print how far a split network is from the original, and return whether that is near enough."""
    channel_error, logit_error = check.errors()
    print(f"\nmerged channel against the original: largest difference {channel_error:.1e} of its largest value")
    print(
        f"logits of the split network against the original's: {logit_error:.1e} of their range ({check.images} images)"
    )
    return check.images > 0 and channel_error < LARGEST_ERROR and logit_error < LARGEST_ERROR
