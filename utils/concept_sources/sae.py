"""TopK autoencoders of the layer's output, trained, and with a frozen random decoder as their control.

Only for the comparison: their units do not divide a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from utils.concept_sources.concept_source import ComparedSource
from utils.defaults import SAE_TRAINER, SAE_TRAINERS
from utils.plugins import later
from utils.processes import progress

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison, UnitMaker
    from utils.concept_sources.dictionary_units import DictionaryFinder, LayerDictionary
    from utils.method.dictionary_fit import Fit
    from utils.method.sparse_autoencoder import AutoencoderTraining, TopKAutoencoder
    from utils.store.files import Layout
    from utils.store.study import Study

np = later("numpy")
coordinates = later("utils.networks.coordinates")
dictionary_files = later("utils.store.dictionary_files")
dictionary_fit = later("utils.method.dictionary_fit")
dictionary_units = later("utils.concept_sources.dictionary_units")
overcomplete_trainer = later("utils.concept_sources.overcomplete_trainer")
positions = later("utils.concept_sources.layer_positions")
precision = later("utils.networks.precision")
sparse_autoencoder = later("utils.method.sparse_autoencoder")

WORDS = {"sae": "TopK autoencoder", "sae_frozen": "TopK autoencoder, frozen random decoder"}
FROZEN = "sae_frozen"
MOST_VALUES = 5_120  # epochs times coordinates, so that training both takes less than 15 minutes of one core
FEWEST_EPOCHS = 3


class Autoencoders(ComparedSource):
    """Units of a TopK autoencoder, and of one whose decoder stays as it was drawn."""

    name = "sae"
    words = "TopK autoencoders"
    needs_images = True
    splits_channels = False

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        training = asdict(sparse_autoencoder.AutoencoderTraining())
        return {**dictionary_units.SETTINGS, "most_values": MOST_VALUES, **training}

    @classmethod
    def finder(cls, comparison: Comparison) -> DictionaryFinder:
        trainer = comparison.given.get("sae_trainer", SAE_TRAINER)
        return dictionary_units.DictionaryFinder(comparison, trained_autoencoders(comparison.study, trainer))

    @classmethod
    def own_units(cls) -> dict[str, tuple[str, Callable[[DictionaryFinder], UnitMaker]]]:
        return dictionary_units.own_units_of(WORDS)


def trained_autoencoders(study: Study, trainer: str) -> dict[str, LayerDictionary]:
    """The autoencoders of WORDS, from their files or trained by ``trainer``, "torch" or "overcomplete"."""
    device = study.network.device
    view = dictionary_units.OutputView(coordinates.LayerCoordinates.of(study.network.layer))
    dimension = view.coordinates.number
    training = sparse_autoencoder.AutoencoderTraining()
    training = replace(training, epochs=max(FEWEST_EPOCHS, min(training.epochs, MOST_VALUES // dimension)))
    made_from = {
        **dictionary_files.positions_made_from(study, dictionary_units.POSITIONS),
        "training": asdict(training),
        "trainer": trainer,
    }
    shape = (training.units, dimension)
    layout: Layout = {name: (np.float32, shape) for name in ("encoder", "decoder")}
    layout |= {name: (np.float32, (dimension,)) for name in ("centre", "mean")}
    sampled = cache(lambda: positions.stored_positions(study, dictionary_units.POSITIONS).to(device))
    trained = {}
    for name, words in WORDS.items():
        of_dictionary = {**made_from, "frozen_decoder": name == FROZEN}
        tensors, fit = dictionary_files.stored_dictionary(
            study,
            name,
            of_dictionary,
            layout,
            words=words,
            make=partial(_trained, name, training, sampled, _train_function(trainer)),
        )
        tensors = {key: tensor.to(device) for key, tensor in tensors.items()}
        mean = tensors.pop("mean")
        autoencoder = sparse_autoencoder.TopKAutoencoder(**tensors, sparsity=training.sparsity)
        trained[name] = dictionary_units.LayerDictionary(autoencoder, view, mean, fit, of_dictionary)
    return trained


def _train_function(trainer: str) -> Callable[..., TopKAutoencoder]:
    """``train_autoencoder`` of one of SAE_TRAINERS."""
    modules = dict(zip(SAE_TRAINERS, (sparse_autoencoder, overcomplete_trainer), strict=True))
    return modules[trainer].train_autoencoder


def _trained(
    name: str, training: AutoencoderTraining, sampled: Callable[[], Tensor], train: Callable[..., TopKAutoencoder]
) -> tuple[dict[str, Tensor], Fit]:
    """The tensors of an autoencoder that is trained on the values [n, D] that were ``sampled``, and its fit to them."""
    values = sampled()
    with (
        progress(total=training.steps(len(values)), desc=WORDS[name], unit=" steps") as bar,
        precision.full_precision(values.device),
    ):
        autoencoder = train(values, training, frozen_decoder=name == FROZEN, after_step=bar.update)
        fit = dictionary_fit.fit_of(autoencoder, values)
    tensors = {name: getattr(autoencoder, name) for name in ("encoder", "decoder", "centre")}
    return {**tensors, "mean": values.mean(0)}, fit
