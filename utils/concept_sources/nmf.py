"""Components of a non-negative matrix factorisation of what the network makes of the layer's output.

Only for the comparison: they do not divide a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from utils.concept_sources.concept_source import ComparedSource
from utils.plugins import later
from utils.processes import progress

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison, UnitMaker
    from utils.concept_sources.dictionary_units import ActivatedView, DictionaryFinder, LayerDictionary
    from utils.method.dictionary_fit import Fit
    from utils.store.study import Study

np = later("numpy")
torch = later("torch")
coordinates = later("utils.networks.coordinates")
dictionary_files = later("utils.store.dictionary_files")
dictionary_fit = later("utils.method.dictionary_fit")
dictionary_units = later("utils.concept_sources.dictionary_units")
factors = later("utils.method.nonnegative_factors")
positions = later("utils.concept_sources.layer_positions")
precision = later("utils.networks.precision")
reads = later("utils.networks.reads")

WORDS = {"nmf": "NMF"}
MOST_COMPONENTS = 512
FACTORED_POSITIONS = 20_000  # of those that autoencoders are trained on
SETTINGS = {"iterations": 100, "seed": 0}
CODE_STEPS = 50


class NonnegativeFactorisation(ComparedSource):
    """Units are components of NMF."""

    name = "nmf"
    words = "components of NMF"
    needs_images = True
    splits_channels = False

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        sizes = {"components": MOST_COMPONENTS, "factored_positions": FACTORED_POSITIONS, "code_steps": CODE_STEPS}
        return {**dictionary_units.SETTINGS, **sizes, **SETTINGS}

    @classmethod
    def finder(cls, comparison: Comparison) -> DictionaryFinder:
        (name,) = WORDS
        return dictionary_units.DictionaryFinder(comparison, {name: factorised(comparison.study)})

    @classmethod
    def own_units(cls) -> dict[str, tuple[str, Callable[[DictionaryFinder], UnitMaker]]]:
        return dictionary_units.own_units_of(WORDS)


def number_of_components(num_channels: int, num_inputs: int) -> int:
    """As many as the layer has input channels, on whose sums its output depends; but at most half as many as it has
    channels, since with as many components each could copy a channel, and at most MOST_COMPONENTS."""
    return max(1, min(num_inputs, num_channels // 2, MOST_COMPONENTS))


def factorised(study: Study) -> LayerDictionary:
    """The components of a layer, from their file or found by multiplicative updates."""
    layer = study.network.layer
    activation = reads.following_activation(study.network.module, layer, study.transform.crop_size)
    view = dictionary_units.ActivatedView(coordinates.LayerCoordinates.of(layer), activation)
    number = number_of_components(layer.num_channels, layer.num_inputs)
    made_from = {
        **dictionary_files.positions_made_from(study, dictionary_units.POSITIONS),
        **{"of": view.words, "factored": FACTORED_POSITIONS, "components": number, **SETTINGS},
        "code_steps": CODE_STEPS,
    }
    layout = {"components": (np.float32, (number, layer.num_channels)), "mean": (np.float32, (layer.num_channels,))}
    ((name, words),) = WORDS.items()
    tensors, fit = dictionary_files.stored_dictionary(
        study, name, made_from, layout, words=words, make=lambda: _found(study, view, number)
    )
    components, mean = (tensors[key].to(layer.weight.device) for key in layout)
    dictionary = factors.NonnegativeComponents(components, CODE_STEPS)
    return dictionary_units.LayerDictionary(dictionary, view, mean, fit, made_from)


def _found(study: Study, view: ActivatedView, number: int) -> tuple[dict[str, Tensor], Fit]:
    """The tensors of ``number`` components that are found, and their fit to the positions they are found in."""
    sampled = positions.stored_positions(study, dictionary_units.POSITIONS)
    rows = torch.arange(FACTORED_POSITIONS) * len(sampled) // FACTORED_POSITIONS  # evenly over the images
    some = sampled[rows.unique()].to(study.network.device)
    with (
        progress(total=SETTINGS["iterations"], desc="NMF", unit=" iterations") as bar,
        precision.full_precision(some.device),
    ):
        values = view.values(some)
        found = factors.factorise(values, number, **SETTINGS, after_iteration=bar.update)
        dictionary = factors.NonnegativeComponents(found.components, CODE_STEPS)
        fit = dictionary_fit.fit_of(dictionary, values)
    return {"components": found.components, "mean": values.mean(0)}, fit
