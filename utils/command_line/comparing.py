"""Stage 4's comparison: methods side by side on the channels of a candidates file, from the stores."""

import hashlib
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from utils.command_line import opening
from utils.command_line.commands import STAGE3, next_command
from utils.command_line.run import print_end
from utils.command_line.settings import ResultSettings, model_dir_of
from utils.command_line.split_opening import matching_val_store, no_val_store
from utils.concept_sources.compared_channels import Comparison
from utils.concept_sources.source_registry import SOURCES, SUGGESTED, USUAL
from utils.defaults import COMPARISON_CHANNELS, COMPARISON_DRAWS, COMPARISON_RHO, LAYER
from utils.errors import UserError
from utils.networks.embedder import Embedder, load_embedder
from utils.networks.model_names import model_name
from utils.report.comparison_figure import write_comparison_figure
from utils.report.comparison_tables import print_comparison, write_comparison_tables
from utils.stages.comparison import compare, describe_comparison, draw_channels, require_comparable
from utils.stages.comparison_embedding import EmbeddedImages
from utils.stages.comparison_methods import comparison_methods
from utils.stages.embedding import validation_embeddings
from utils.stages.separation import ValidationInputs
from utils.store.comparisons import Comparisons
from utils.store.files import json_digest, run_name
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished

LONGEST_NAME = 150


def measure_comparison(settings: ResultSettings, device: torch.device) -> list[Path]:
    """Measure, store and print a comparison; return the paths of the files written."""
    run = run_name(settings.model, settings.layer_of_interest)
    opened = OpenedComparison(settings, run, device)
    comparisons = Comparisons(settings.output_dir, model_dir_of(settings))
    comparisons.check(run, opened.study.meta["weights_sha256"])
    methods = {
        name: method for name, method in comparison_methods().items() if method.source not in settings.compare_without
    }
    described = describe_comparison(
        comparison_name(settings, run),
        run,
        opened.channels,
        available=opened.available,
        settings=opened.described(),
        methods={name: method.needs() for name, method in methods.items()},
        store=opened.store,
        training=opened.study.training,
    )
    comparison = comparisons.find(described)
    if comparison is None:
        kept = Unfinished(comparisons.path(described), described)
        comparison = {**described, **opened.measure(methods, kept)}
        comparisons.write(comparison)
        kept.remove()
        comparison = comparisons.read(comparisons.path(comparison))
    paths = [*write_comparison_tables(comparisons), comparisons.path(comparison)]
    paths += write_comparison_figure(settings.output_dir, comparison)
    print_comparison(comparison)
    words = ("--candidates", settings.candidates, "--concepts_from", SUGGESTED)
    print_end(paths, [("next", next_command(STAGE3, *words, settings=settings))])
    opened.problems.finish("compared")
    return paths


def comparison_name(settings: ResultSettings, run: str) -> str:
    """The name of a comparison: its candidates file with RUN in front, once, and after it the flags that were given."""
    stem = Path(str(settings.candidates)).stem
    name = stem if stem.startswith(run) else f"{run}_{stem}"
    chosen: dict[str, list[Any]] = {
        "channel": sorted(set(settings.channels or ())),
        "without": sorted(set(settings.compare_without)),
    }
    name += "".join(f"_{word}{'-'.join(map(str, values))}" for word, values in chosen.items() if values)
    if settings.max_channels != COMPARISON_CHANNELS:
        name += f"_max_channels{settings.max_channels}"
    for field in ("rho", "nr_concepts", "nr_reference_images", "sae_trainer"):
        value = getattr(settings, field)
        name += "" if value is None else f"_{field.removeprefix('nr_')}{value}"
    name += "" if settings.embedding is None else f"_embedding_{run_name(settings.embedding, LAYER)}"
    name += "" if settings.only_correct is None else f"_{'' if settings.only_correct else 'not_'}only_correct"
    if len(name) > LONGEST_NAME:
        name = f"{run}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


class OpenedComparison:
    """The inputs of a comparison: the study, the val store, the channels with their concepts, and the embedder.

    ``channels`` are those that are compared, of ``available`` ones.
    """

    def __init__(self, settings: ResultSettings, run: str, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        training = ImportanceStore(settings.store_dir, run)
        meta = training.load_meta()
        opening.check_requested_network(settings, meta, training.folder)
        opening.check_channel_count(settings, meta)
        training.require_complete()
        self._transform = opening.open_transform(settings, meta, training.folder)
        if settings.weights is not None:
            opening.require_stored_network(settings, meta, training.folder)
        self.store = _require_val_store(settings, run, meta)
        candidates = opening.open_candidates(settings, meta, names=("only_correct",))
        self.study = opening.open_study(
            settings,
            training,
            self._transform,
            device,
            open_network=partial(opening.open_network, settings, meta, training.folder, device),
            only_correct=candidates.settings["only_correct"],
        )
        self.problems = opening.Problems(len(candidates.candidates))
        self._maker = SOURCES.get(USUAL).from_given({}, self.study).maker(self.study, [])
        resolved = opening.resolve_all(candidates, settings.channel_flag, meta, self.study.classes, self.problems)
        self.channels: list[tuple[int, list[list[int]]]] = []
        for channel, concepts in resolved:
            with self.problems.noted(f"channel {channel}"):
                require_comparable(channel, concepts, [compared for compared, _ in self.channels])
                self._maker.make(channel, concepts)
                self.channels.append((channel, concepts))
        if not self.channels:
            self.problems.finish("compared")
        self.available = len(self.channels)
        self.channels = draw_channels(self.channels, settings.max_channels)
        if len(self.channels) < self.available:
            words = "a random sample with a fixed seed; --max_channels N takes more"
            print(f"comparison of {len(self.channels)} of {self.available} channels ({words})")

    @cached_property
    def embedder(self) -> Embedder | None:
        """The network of ``--embedding``, whose embeddings score the units; None without the flag."""
        settings = self.settings
        if settings.embedding is None:
            return None
        weights = self.study.meta["weights_sha256"]
        return load_embedder(
            settings.embedding, weights, self._transform, settings.embedding_mean, settings.embedding_std
        )

    def described(self) -> dict[str, Any]:
        """Everything that the methods depend on, as plain values."""
        settings = self.settings
        embedder = self.embedder
        given = [] if embedder is None else [embedder.fingerprint, embedder.features, asdict(embedder.transform)]
        defaults = [source.defaults() for source in SOURCES.all() if source.compared]
        return {
            "rho": self._rho,
            "only_correct": self.study.only_correct,
            "draws": COMPARISON_DRAWS,
            "concepts": settings.nr_concepts,
            "references": settings.nr_reference_images,
            "sae_trainer": settings.sae_trainer,
            "embedding": settings.embedding and model_name(settings.embedding),
            "embedder": json_digest(given),
            "defaults": [values for values in defaults if values is not None],
        }

    @property
    def _rho(self) -> float:
        return self.settings.rho or COMPARISON_RHO

    def measure(self, methods: dict[str, Any], kept: Unfinished) -> dict[str, Any]:
        """The fields of a comparison that are measured: rows of all methods. Finished channels are ``kept``."""
        outputs = sorted({output for _, concepts in self.channels for concept in concepts for output in concept})
        validation = ValidationInputs(self.store, outputs)
        given = {
            "number": self.settings.nr_concepts,
            "references": self.settings.nr_reference_images,
            "sae_trainer": self.settings.sae_trainer,
        }
        comparison = Comparison(
            self.study,
            self.channels,
            self._maker.mean_inputs,
            self.store,
            validation,
            rho=self._rho,
            given={name: value for name, value in given.items() if value is not None},
        )
        made = {name: method.make(comparison) for name, method in methods.items()}
        reconstructions = {name: maker.prepare() for name, maker in made.items()}
        measured = compare(comparison, made, kept, self._embedded_images())
        return {
            "images": len(validation.targets),
            "concepts": measured.concepts,
            "channels": measured.channels,
            "reconstructions": {
                name: reconstruction._asdict()
                for name, reconstruction in reconstructions.items()
                if reconstruction is not None
            },
            "problems": [*self.problems.messages, *measured.problems],
        }

    def _embedded_images(self) -> EmbeddedImages | None:
        """The validation images with their embeddings, which are made once; None if they are not requested."""
        if self.embedder is None:
            return None
        study = self.study
        network = study.network
        source = study.image_source(self.store)
        embedder = self.embedder.to(self.device, self.study.precision)
        embeddings, path = validation_embeddings(self.store, study, embedder)
        if len(embeddings.indices) < len(self.store.read_labels().indices):
            raise UserError(f"{path} lacks images of {self.store.folder}: leave out --skip_unreadable")
        return EmbeddedImages(network, source, embedder, embeddings)


def _require_val_store(settings: ResultSettings, run: str, meta: dict[str, Any]) -> ImportanceStore:
    store = matching_val_store(settings, run, meta)
    if store is None:
        raise UserError(f"--compare: {no_val_store(settings)}")
    return store
