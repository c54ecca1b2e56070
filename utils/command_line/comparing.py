"""Stage 4's comparison: methods side by side on the channels of a candidates file, from the stores."""

import hashlib
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import torch

from utils.command_line import flags, opening
from utils.command_line.run import print_end
from utils.command_line.split_opening import NO_VAL_STORE, matching_val_store, model_dir_of
from utils.errors import UserError
from utils.images.batches import ImageBatches
from utils.images.classes import ClassMap
from utils.method.concept_vectors import CUT
from utils.method.unlabelled import ByCircuits, ByPure, usual_references
from utils.networks.circuits import UnitCircuits
from utils.networks.embedding import load_embedder
from utils.report.comparison_figure import write_comparison_figure
from utils.report.comparison_tables import print_comparison, write_comparison_tables
from utils.stages.comparison import Cases, compare, describe_comparison, require_comparable
from utils.stages.comparison_embedding import EmbeddingScores, Seen
from utils.stages.comparison_methods import DRAWS, units_of
from utils.stages.comparison_pure import FromPure, some_of
from utils.stages.comparison_table import METHODS, Sources
from utils.stages.disentangling import CandidateMaker
from utils.stages.embedding import validation_embeddings
from utils.stages.least_squares import StoredInputs
from utils.stages.references import unit_references, unit_rows, usable_images
from utils.stages.separation import ValidationInputs
from utils.stages.virtual_neurons import stored_virtual_neurons
from utils.store.class_statistics import ClassStore
from utils.store.comparisons import Comparisons
from utils.store.files import json_digest, run_name
from utils.store.importances import ImportanceStore
from utils.store.references import ReferenceStore

LONGEST_NAME = 150
DEFAULT_RHO = 1.0  # of Ineq. 5


def measure_comparison(args, run, device):
    """Measure, store and print a comparison.

    Parameters
    ----------
    args : argparse.Namespace
    run : str
    device : torch.device
    """
    world = World(args, run, device)
    comparisons = Comparisons(args.output_dir, model_dir_of(args))
    comparisons.check(run, world.meta["weights_sha256"])
    left_out = args.compare_without or ()
    methods = {name: one for name, one in METHODS.items() if one.source not in left_out}
    needs = {name: one.needs() for name, one in methods.items()}
    asked = comparison_name(args, run), run, world.channels, world.settings, needs
    known = describe_comparison(*asked, world.store, world.training)
    found = comparisons.find(known)
    if found is None:
        found = {**known, **world.measure(methods)}
        comparisons.write(found)
        found = comparisons.read(comparisons.path(found))
    paths = [*write_comparison_tables(comparisons), comparisons.path(found)]
    paths += write_comparison_figure(args.output_dir, found)
    print_comparison(found)
    more = "--candidates", args.candidates, "--concepts_from", "circuits"
    print_end(paths, [("next", flags.next_command("disentangle_channel.py", args, *more))])
    world.problems.finish("compared")


def comparison_name(args, run):
    """What a comparison is called: its candidates file with RUN in front, once, and behind it all that is asked."""
    stem = Path(args.candidates).stem
    name = stem if stem.startswith(run) else f"{run}_{stem}"
    given = {"channel": sorted(set(args.channel_of_interest or ())), "without": sorted(args.compare_without or ())}
    name += "".join(f"_{what}{'-'.join(map(str, values))}" for what, values in given.items() if values)
    for what in ("rho", "nr_concepts", "nr_reference_images"):
        name += "" if getattr(args, what) is None else f"_{what.removeprefix('nr_')}{getattr(args, what)}"
    name += "" if args.embedding is None else f"_embedding_{run_name(args.embedding, 'last_conv')}"
    name += "" if args.only_correct is None else f"_{'' if args.only_correct else 'not_'}only_correct"
    if len(name) > LONGEST_NAME:
        name = f"{run}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


class World:
    """What a comparison begins with: stores, channels and their concepts; images and the network where it needs them.

    Parameters
    ----------
    args, run, device
        As above.
    """

    def __init__(self, args, run, device):
        self.args, self.run, self.device = args, run, device
        self.training = ImportanceStore(args.store_dir, run)
        self.meta = self.training.load_meta()
        opening.check_asked_network(args, self.meta, self.training.folder)
        opening.check_channel_count(args, self.meta)
        self.training.require_complete()
        self._transform = opening.open_transform(args, self.meta, self.training.folder)
        if args.weights is not None:
            opening.open_network(args, self.meta, self.training.folder)
        self.store = matching_val_store(args, run, self.meta)
        if self.store is None:
            raise UserError(f"--compare: {NO_VAL_STORE.format(args.store_dir, args.precision, args.decode)}")
        asked = opening.asked_candidates(args, "channel_of_interest")
        opening.check_origin(asked, args, self.meta)
        self.only_correct = opening.setting("only_correct", args, asked.settings)
        self.problems, classes = opening.Problems(len(asked.candidates)), ClassMap(self.meta["classes"])
        class_store = ClassStore(args.store_dir, run, self.meta)
        self.maker = CandidateMaker(self.training, class_store, classes, self.only_correct)
        resolved = opening.resolve_all(asked, "channel_of_interest", self.meta, classes, self.problems)
        self.channels = []
        for channel, concepts in resolved:
            with self.problems.noted(f"channel {channel}"):
                require_comparable(channel, concepts, [one for one, _ in self.channels])
                self.maker.make(channel, concepts)
                self.channels.append((channel, concepts))
        if not self.channels:
            self.problems.finish("compared")
        given = {"number": args.nr_concepts, "references": args.nr_reference_images}
        self.asked = {name: value for name, value in given.items() if value is not None}

    @property
    def settings(self):
        """All that the methods depend on, as plain values."""
        args, embedder = self.args, self.embedder
        given = [] if embedder is None else [embedder.fingerprint, embedder.features, asdict(embedder.transform)]
        return {
            **{"rho": args.rho or DEFAULT_RHO, "only_correct": self.only_correct, "draws": DRAWS},
            **{"concepts": args.nr_concepts, "references": args.nr_reference_images, "embedding": args.embedding},
            "embedder": json_digest(given),
            "defaults": [asdict(ByCircuits()), asdict(ByPure()), CUT],
        }

    @cached_property
    def labels(self):
        return self.training.read_labels()

    @cached_property
    def inputs(self):
        return StoredInputs(self.training, self.labels, self.only_correct)

    @cached_property
    def cases(self):
        usable, outputs = usable_images(self.labels, self.only_correct), self._outputs()
        validation = ValidationInputs(self.store, outputs)
        layer = self.maker.weight, self.maker.bias
        return Cases(self.channels, *layer, self.inputs, self.labels, usable, validation)

    def measure(self, methods):
        """Rows of all methods."""
        how = {"only_correct": self.only_correct, "rho": self.settings["rho"], "asked": self.asked}
        what = self.training, self.inputs, self.labels, self.maker.mean_inputs, self.cases
        sources = Sources(*what, **how, open_pure=self._open_pure)
        made = {name: one.make(sources) for name, one in methods.items()}
        concepts, channels, problems = compare(self.cases, made, self.labels, self._open_scores())
        images = len(self.cases.validation.targets)
        problems = [*self.problems.found, *problems]
        return {"images": images, "concepts": concepts, "channels": channels, "problems": problems}

    def _outputs(self):
        return sorted({output for _, concepts in self.channels for concept in concepts for output in concept})

    @cached_property
    def embedder(self):
        """Of --embedding, on the CPU; None without it."""
        args = self.args
        if args.embedding is None:
            return None
        given = args.embedding_mean, args.embedding_std
        return load_embedder(args.embedding, self.meta["weights_sha256"], self._transform, *given)

    @cached_property
    def _network(self):
        network, layer = opening.open_network(self.args, self.meta, self.training.folder)
        network.module.to(self.device, memory_format=torch.channels_last)
        return network.module, layer

    def _images(self, store):
        labels = store.read_labels()
        root = Path(self.args.data_dir) / store.meta["images"]
        return store.read_images(root).with_contents(labels.indices, labels.contents)

    def _open_pure(self):
        """PURE of all channels and their permuted weights: what images tell is read, or measured and kept."""
        usual = usual_references(ByPure, self.meta["num_images"])
        args, method = self.args, ByPure(**{"references": usual, **self.asked})
        loading, stores = flags.loading(args, self.device), {"train": self.training, "val": self.store}

        def load(which, batches, description):
            return ImageBatches(self._images(stores[which]), self._transform, batches, description, **loading)

        how = {"precision": args.precision, "decoding": args.decode}
        settings = {"number": method.references, "circuit_layer": None, "only_correct": self.only_correct, **how}
        (network, layer), units = self._network, units_of([channel for channel, _ in self.channels])
        kept = Path(args.store_dir) / "models_disentangled", self.run, self.meta, layer.num_inputs, settings
        of_train = network, layer, partial(load, "train"), self.cases.usable, args.batch_size
        found = FromPure(method, self.inputs, unit_references(units, ReferenceStore(*kept), *of_train))
        circuits = UnitCircuits(network, layer, *unit_rows(layer, units), precision=args.precision)
        centroids = found.centroids([channel for channel, _ in self.channels])

        def neurons(which, labels):
            images = stores[which], self.run, labels
            return stored_virtual_neurons(*images, circuits, centroids, partial(load, which), *passes)

        passes = args.batch_size, args.decode
        found.training = neurons("train", some_of(self.labels, self.cases.all_images()))
        found.validation = neurons("val", self.store.read_labels())
        return found

    def _open_scores(self):
        """Scores from embeddings of the validation images, which are made once; None where they are not asked for."""
        if self.embedder is None:
            return None
        args, (network, layer) = self.args, self._network
        how = {"batch_size": args.batch_size, "precision": args.precision}
        how["loading"] = flags.loading(args, self.device)
        root = Path(args.data_dir) / "val"
        embedder, images = self.embedder.to(self.device), self._images(self.store)
        embeddings, path = validation_embeddings(args.store_dir, self.run, self.store, root, embedder, **how)
        if len(embeddings.indices) < len(self.store.read_labels().indices):
            raise UserError(f"{path} lacks images of {self.store.folder}: leave out --skip_unreadable")
        return EmbeddingScores(Seen(network, layer, images, self._transform, embedder, embeddings, how))
