"""The registered ways of dividing inputs. A new way is a line here and a file of its own."""

from utils.plugins import Registry

DIVISIONS = Registry(
    "way of dividing inputs",
    {
        "arv": "utils.divisions.arv:Arv",
        "least_squares": "utils.divisions.least_squares:LeastSquares",
    },
)
USUAL = "arv"  # the paper's
USUAL_WITHOUT_LABELS = "least_squares"  # if concepts are sets of images
USUAL_OF_LAYERS = "least_squares"  # which a report asks for and shows first: it finds little in permuted weights
WHICH = (
    f"Use --split_by {USUAL} to reproduce the paper, and --split_by {USUAL_OF_LAYERS} with a background for everything "
    "else: the paper's rule finds most of its classes in permuted weights, too"
)


def usual_with(*, labels: bool) -> str:
    """The name of the usual way for concepts that are classes (``labels``), or sets of images."""
    return USUAL if labels else USUAL_WITHOUT_LABELS
