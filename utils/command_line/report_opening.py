"""What a report begins with: settings of stage 2, what is known of the layer, and what to run for more."""

import re
import sys
from pathlib import Path

from utils.command_line import flags
from utils.command_line.opening import check_asked_network, check_channel_count
from utils.command_line.split_opening import model_dir_of
from utils.errors import UserError
from utils.images.classes import ClassMap
from utils.method.polysemanticity import gamma_polysemantic
from utils.report.page_data import KnownLayer
from utils.report.page_splits import Measured, in_order, kind_of
from utils.stages.relevance import find_classes
from utils.store.class_statistics import ClassStore
from utils.store.effects import Effects
from utils.store.files import damage_is_one_line, read_json, refuse_differences
from utils.store.importances import ImportanceStore
from utils.store.results import Results
from utils.store.separations import Separations
from utils.store.splits import read_split

COUNTED = ("tau", "p", "only_correct", "min_images", "only_above_mean")  # what chose the classes of a channel
ORIGIN = ("model", "layer", "weights_sha256")
AGAIN = "run get_cosine_similarities.py again"


class StageTwo:
    """What stage 2 was asked, and its files: those of ``--candidates``, or the newest of RUN in ``--output_dir``.

    ``others`` are the files of other settings.
    """

    def __init__(self, args, run):
        folder = Path(args.output_dir) / "results_get_cosine_similarities"
        present = sorted(folder.glob(f"{run}_required*_groups.json"), key=lambda path: path.stat().st_mtime)
        if args.candidates is not None:
            chosen = Path(args.candidates)
            if not chosen.is_file():
                raise UserError(f"--candidates {chosen}: there is no such file")
        elif present:
            chosen = present[-1]
        else:
            raise UserError(f"there is no table of {run} in {folder}: run get_cosine_similarities.py first")
        self.stem = chosen.with_name(chosen.stem.removesuffix("_groups"))
        self.groups, self.pairs, self.gamma = (
            self.stem.with_name(f"{self.stem.name}{suffix}.json") for suffix in ("_groups", "", "_gamma")
        )
        self.others = [path for path in present if path.resolve() != self.groups.resolve()]
        content = read_json(chosen, f"--report reads a .json of stage 2: {AGAIN}")
        with damage_is_one_line(chosen, AGAIN):
            self.settings = {name: content["settings"][name] for name in (*ORIGIN, *COUNTED, "gamma", "cosines")}

    def guide(self):
        """What there is to go by in the choice of gamma, or None."""
        return read_json(self.gamma, AGAIN) if self.gamma.is_file() else None


class Commands:
    """The command lines that make what a report has not found, or make again what it has."""

    def __init__(self, args, stage_two):
        self._args, self._two = args, stage_two

    def _command(self, script, *more):
        return flags.next_command(script, self._args, *more)

    def split(self, known):
        """What makes a KnownSplit again."""
        split, settings, source = known.split, known.file.settings, known.file.source
        if known.kind == "images":
            more = ["--concepts_from", source["from"], "--channel_disentangle", split.channel]
            for name in ("nr_concepts", "nr_reference_images", "distance_threshold", "circuit_layer"):
                more += [f"--{name}", source[name]] if source.get(name) is not None else []
            more += ["--only_correct"] if settings["only_correct"] else []
        elif known.kind != "own choice" and settings["tau"] is not None:
            candidates = self._two.groups if known.kind == "groups" else self._two.pairs
            more = ["--candidates", candidates, "--channel_disentangle", split.channel]
        else:
            more = ["--channel_disentangle", split.channel]
            for number, concept in enumerate(split.classes, start=1):
                more += [f"--classes_for_concept{number}", *concept]
            more += ["--only_correct"] if settings["only_correct"] else []
        more += ["--split_by", split.split_by]
        more += ["--rho_objective", split.objective] if split.objective not in (None, "positive") else []
        weight, usual = known.file.background, 1 if split.split_by != "arv" or known.kind == "images" else None
        more += ["--background", f"{weight or 0:g}"] if weight != usual else []
        return self._command("disentangle_channel.py", *more)

    def split_channel(self, channel, several_groups):
        """What splits a channel into its groups, or, where they are one, into its pairs."""
        more = ["--candidates", self._two.groups if several_groups else self._two.pairs]
        return self._command(
            "disentangle_channel.py", *more, "--channel_disentangle", channel, "--split_by", "least_squares"
        )

    def split_layer(self):
        return self._command("disentangle_channel.py", "--candidates", self._two.groups, "--split_by", "least_squares")

    def evaluate(self, path, *wishes):
        return self._command("get_results.py", "--splits", path, *wishes)

    def evaluate_layer(self, split_by, *wishes):
        return self._command("get_results.py", "--candidates", self._two.groups, "--split_by", split_by, *wishes)

    def validation_store(self):
        return self._command("get_importances_for_classes.py", "--images", "val")

    def guide(self):
        """Stage 2 with the settings of this report."""
        settings, (low, high) = self._two.settings, self._two.settings["cosines"]
        more = ["--proportion_attribution_required", settings["tau"], "--p", settings["p"], "--cos_sim_high", high]
        more += ["--cos_sim_low", low] if low else []
        more += ["--min_images", settings["min_images"]] if settings["min_images"] > 1 else []
        more += [f"--{name}" for name in ("only_correct", "only_above_mean") if settings[name]]
        more += ["--output_dir", self._args.output_dir] if self._args.output_dir != "." else []
        return self._command("get_cosine_similarities.py", *more)

    def others(self):
        """The reports of other settings of stage 2."""
        return [self._command("get_results.py", "--report", "--candidates", path) for path in self._two.others]


def open_layer(args, run, stage_two):
    """Everything that is there of a layer: a KnownLayer and the Measured results of its splits."""
    store, settings = ImportanceStore(args.store_dir, run), stage_two.settings
    meta = store.load_meta()
    check_asked_network(args, meta, store.folder)
    check_channel_count(args, meta)
    refuse_differences(meta, settings, ORIGIN, stage_two.groups)
    store.require_complete()
    class_store = ClassStore(args.store_dir, run, meta)
    found = find_classes(store, class_store, settings["gamma"], **{name: settings[name] for name in COUNTED})
    counts = class_store.read_relevant(settings["tau"])[int(settings["only_correct"])]
    where = args.output_dir, model_dir_of(args)
    measurements = Results(*where), Separations(*where), Effects(*where)
    for one in measurements:
        one.check(run, meta["weights_sha256"])
    measured = Measured(*measurements, settings["tau"])
    known = KnownLayer(meta, settings, ClassMap(meta["classes"]), found, counts, stage_two.guide(), {})
    for channel, splits in _splits(args, run, meta).items():
        groups, pairs = known.channels.groups(channel), known.channels.pairs_of(channel)
        under = pairs[gamma_polysemantic(pairs.cosine, settings["gamma"])]
        under = {(class1, class2) for _, class1, class2, _ in under.rows()}
        own = [measured.known(path, file, kind_of(file, groups, under)) for path, file in splits]
        known.splits[channel] = in_order(own, settings["only_correct"], args.split_by)
    return known, measured


def _splits(args, run, meta):
    """The split files of a network and layer, as {channel: [(path, SplitFile)]}; others are named and left out."""
    found, left_out = {}, []
    for path in sorted(model_dir_of(args).glob(f"{run}_channel*.pt")):
        if not re.match(r"_channel\d+_", path.name.removeprefix(run)):
            continue
        try:
            file = read_split(path)
            refuse_differences(meta, file.context, ("layer", "weights_sha256", "transform", "classes"), path)
        except UserError as error:
            left_out.append(str(error))
            continue
        found.setdefault(file.split.channel, []).append((path, file))
    for reason in left_out[:5]:
        print(f"warning: left out: {reason}", file=sys.stderr)
    if len(left_out) > 5:
        print(f"warning: {len(left_out) - 5} more splits are left out", file=sys.stderr)
    return found
