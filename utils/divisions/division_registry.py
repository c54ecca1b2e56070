"""The registered ways of dividing inputs. A new one is a line here and a file that holds all of it."""

from utils.plugins import Registry

DIVISIONS = Registry(
    "way of dividing inputs",
    {
        "arv": "utils.divisions.arv:Arv",
        "least_squares": "utils.divisions.least_squares:LeastSquares",
    },
)
USUAL = "arv"  # the paper's
USUAL_WITHOUT_LABELS = "least_squares"  # where concepts are sets of images
USUAL_OF_LAYERS = "least_squares"  # which a report asks for and shows first: it finds little in permuted weights
