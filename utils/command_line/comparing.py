"""Stage 4's comparison: methods side by side on the channels of a candidates file, from the stores."""

import hashlib
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

from utils.command_line import flags, opening
from utils.command_line.closing import print_end
from utils.command_line.split_opening import NO_VAL_STORE, matching_val_store, model_dir_of
from utils.concept_sources.compared_channels import Comparison
from utils.concept_sources.source_registry import SOURCES, SUGGESTED, USUAL
from utils.defaults import COMPARISON_DRAWS, COMPARISON_RHO, LAYER
from utils.errors import UserError
from utils.networks.embedder import load_embedder
from utils.report.comparison_figure import write_comparison_figure
from utils.report.comparison_tables import print_comparison, write_comparison_tables
from utils.stages.comparison import compare, describe_comparison, require_comparable
from utils.stages.comparison_embedding import EmbeddedImages, EmbeddingScores
from utils.stages.comparison_methods import comparison_methods
from utils.stages.embedding import validation_embeddings
from utils.stages.separation import ValidationInputs
from utils.store.comparisons import Comparisons
from utils.store.files import json_digest, run_name
from utils.store.importance_store import ImportanceStore

LONGEST_NAME = 150


def measure_comparison(settings, run, device):
    """Measure, store and print a comparison.

    Parameters
    ----------
    settings : ResultSettings
    run : str
    device : torch.device
    """
    opened = OpenedComparison(settings, run, device)
    comparisons = Comparisons(settings.output_dir, model_dir_of(settings))
    comparisons.check(run, opened.study.meta["weights_sha256"])
    methods = {name: one for name, one in comparison_methods().items() if one.source not in settings.compare_without}
    needs = {name: one.needs() for name, one in methods.items()}
    known = describe_comparison(
        comparison_name(settings, run),
        run,
        opened.channels,
        settings=opened.described(),
        methods=needs,
        store=opened.store,
        training=opened.study.training,
    )
    found = comparisons.find(known)
    if found is None:
        found = {**known, **opened.measure(methods)}
        comparisons.write(found)
        found = comparisons.read(comparisons.path(found))
    paths = [*write_comparison_tables(comparisons), comparisons.path(found)]
    paths += write_comparison_figure(settings.output_dir, found)
    print_comparison(found)
    more = "--candidates", settings.candidates, "--concepts_from", SUGGESTED
    print_end(paths, [("next", flags.next_command("disentangle_channel.py", *more, settings=settings))])
    opened.problems.finish("compared")


def comparison_name(settings, run):
    """What a comparison is called: its candidates file with RUN in front, once, and behind it all that is asked."""
    stem = Path(settings.candidates).stem
    name = stem if stem.startswith(run) else f"{run}_{stem}"
    given = {"channel": sorted(set(settings.channels or ())), "without": sorted(set(settings.compare_without))}
    name += "".join(f"_{what}{'-'.join(map(str, values))}" for what, values in given.items() if values)
    for field in ("rho", "nr_concepts", "nr_reference_images"):
        value = getattr(settings, field)
        name += "" if value is None else f"_{field.removeprefix('nr_')}{value}"
    name += "" if settings.embedding is None else f"_embedding_{run_name(settings.embedding, LAYER)}"
    name += "" if settings.only_correct is None else f"_{'' if settings.only_correct else 'not_'}only_correct"
    if len(name) > LONGEST_NAME:
        name = f"{run}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


class OpenedComparison:
    """What a comparison begins with: the study, the val store, channels and their concepts, and another network.

    Parameters
    ----------
    settings, run, device
        As above.
    """

    def __init__(self, settings, run, device):
        self.settings, self.run, self.device = settings, run, device
        training = ImportanceStore(settings.store_dir, run)
        meta = training.load_meta()
        opening.check_asked_network(settings, meta, training.folder)
        opening.check_channel_count(settings, meta)
        training.require_complete()
        self._transform = opening.open_transform(settings, meta, training.folder)
        if settings.weights is not None:
            opening.require_stored_network(settings, meta, training.folder)
        self.store = matching_val_store(settings, run, meta)
        if self.store is None:
            missing = NO_VAL_STORE.format(settings.store_dir, settings.precision, settings.decode)
            raise UserError(f"--compare: {missing}")
        asked = opening.asked_candidates(settings)
        opening.check_origin(asked, settings, meta)
        only_correct = opening.setting("only_correct", settings, asked.settings)
        opener = partial(opening.open_network, settings, meta, training.folder, device)
        how = {"open_network": opener, "only_correct": only_correct}
        self.study = opening.open_study(settings, training, self._transform, device, **how)
        self.problems = opening.Problems(len(asked.candidates))
        self._maker = SOURCES.get(USUAL).from_given({}, self.study).maker(self.study, [])
        resolved = opening.resolve_all(asked, settings.channel_flag, meta, self.study.classes, self.problems)
        self.channels = []
        for channel, concepts in resolved:
            with self.problems.noted(f"channel {channel}"):
                require_comparable(channel, concepts, [one for one, _ in self.channels])
                self._maker.make(channel, concepts)
                self.channels.append((channel, concepts))
        if not self.channels:
            self.problems.finish("compared")

    @cached_property
    def embedder(self):
        """The other network, by whose embeddings images are scored, or None."""
        settings, own_weights = self.settings, self.study.meta["weights_sha256"]
        if settings.embedding is None:
            return None
        means = settings.embedding_mean, settings.embedding_std
        return load_embedder(settings.embedding, own_weights, self._transform, *means)

    def described(self):
        """All that the methods depend on, as plain values."""
        settings, embedder = self.settings, self.embedder
        given = [] if embedder is None else [embedder.fingerprint, embedder.features, asdict(embedder.transform)]
        return {
            "rho": self._rho,
            "only_correct": self.study.only_correct,
            "draws": COMPARISON_DRAWS,
            "concepts": settings.nr_concepts,
            "references": settings.nr_reference_images,
            "embedding": settings.embedding,
            "embedder": json_digest(given),
            "defaults": [one for one in (source.defaults() for source in SOURCES.all()) if one is not None],
        }

    @property
    def _rho(self):
        return self.settings.rho or COMPARISON_RHO

    def measure(self, methods):
        """Rows of all methods."""
        outputs = sorted({output for _, concepts in self.channels for concept in concepts for output in concept})
        validation = ValidationInputs(self.store, outputs)
        given = {"number": self.settings.nr_concepts, "references": self.settings.nr_reference_images}
        given = {name: value for name, value in given.items() if value is not None}
        comparison = Comparison(
            self.study,
            self.channels,
            self._maker.mean_inputs,
            self.store,
            validation,
            rho=self._rho,
            given=given,
        )
        made = {name: one.make(comparison) for name, one in methods.items()}
        concepts, channels, problems = compare(comparison, made, self._open_scores())
        problems = [*self.problems.found, *problems]
        return {"images": len(validation.targets), "concepts": concepts, "channels": channels, "problems": problems}

    def _open_scores(self):
        """Scores from embeddings of the validation images, which are made once; None where they are not asked for."""
        if self.embedder is None:
            return None
        study = self.study
        network = study.network
        source = study.image_source(self.store)
        embedder = self.embedder.to(self.device)
        embeddings, path = validation_embeddings(self.store, study, embedder)
        if len(embeddings.indices) < len(self.store.read_labels().indices):
            raise UserError(f"{path} lacks images of {self.store.folder}: leave out --skip_unreadable")
        return EmbeddingScores(EmbeddedImages(network, source, embedder, embeddings))
