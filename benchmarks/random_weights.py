"""Does the method find as much in a network of random weights? A network trained and re-initialised, by all stages.

    python -m benchmarks.random_weights --data_dir tiny-imagenet --proportion_attribution_required 0.01 \\
        --model examples.efficientnet_lite0:efficientnet_lite0

The networks are the trained one and, of each seed, one whose layer of interest, one whose classifier and one whose
every weight is drawn anew by the modules' own ``reset_parameters``. The statistics of the BatchNorms from there on are
estimated anew on training images. All images count, whether classified correctly or not, as a random network classifies
none. In a re-initialised network tau is chosen such that as many (channel, class) are relevant by Ineq. 2 as in the
trained one. There are two rounds: at the same gamma for all networks, and at a gamma for each network at which as many
pairs of classes lie below it as in the trained one.

Prints Markdown tables: what stage 2 finds, how many pairs lie below each gamma, and for each round the separation of
the splits from all other validation images. A value is that of the trained network, else the mean over the seeds, with
the lowest and the highest.

Stores, splits and results of each network stay in a folder of its own, and the same command resumes. Delete the folder
to begin with other images or another number of images for the statistics.
"""

import argparse
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reinitialised import (
    Part,
    estimate_statistics,
    executed_modules,
    modules_of,
    norms_behind,
    reinitialise,
)
from benchmarks.report import print_table
from utils.command_line import flags
from utils.command_line.parser import Parser
from utils.command_line.ranges import cosine, number_of_draws
from utils.command_line.run import run
from utils.command_line.settings import (
    DisentanglingSettings,
    ImageSettings,
    ImportanceSettings,
    ResultSettings,
    SimilaritySettings,
    model_dir_of,
)
from utils.defaults import COS_SIM_HIGH, SEPARATION_MOST_DRAWS, TAU, P
from utils.divisions.division_registry import DIVISIONS
from utils.entries import disentangle, evaluate, find_polysemantic, measure_importances
from utils.errors import UserError
from utils.images.batches import ImageBatches, equal_batches_of
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.method.importance import FLOAT16_MAX
from utils.method.polysemanticity import gamma_polysemantic
from utils.method.significance import Interval, permutation
from utils.networks.layers import find_layer
from utils.networks.loading import load_network
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import choose_device
from utils.plugins import fraction, positive_int
from utils.report.numbers import formatted, interval_text
from utils.report.separation_headline import headline, mean_separation
from utils.store.files import write_bytes
from utils.store.importance_store import ImportanceStore
from utils.store.scores import OWN_LOGIT
from utils.store.separations import Separations

GAMMAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
REFERENCES = {"AP mean difference": "ap_all_mean_difference", "AP probe": "ap_all_probe"}  # columns of separations
LARGEST_GAMMA = 0.999999  # 1 would mean stage 2's usual gamma for groups
TRAINED = "trained"


@dataclass(frozen=True, kw_only=True)
class RandomWeightsSettings(ImageSettings):
    """``tau`` is that of the trained network; ``statistics_images`` give the BatchNorm statistics."""

    folder: Path
    seeds: int
    parts: tuple[Part, ...]
    statistics_images: int
    tau: float
    p: float
    gamma: float
    split_by: str
    draws: int
    class_map: str | None = None


@dataclass(frozen=True)
class StudiedNetwork:
    """A network that goes through all stages; ``weights`` is None where the model has its own."""

    words: str
    weights: str | None
    folder: Path


@dataclass(frozen=True)
class FoundRelations:
    """What stage 2 finds in a network: ``cosines`` are those of all pairs of classes that share a channel.

    ``groups`` is the file of the ``split_channels``, those of several groups of classes.
    """

    accuracy: float
    tau: float
    gamma: float
    relations: int
    channels: int
    shared_channels: int
    cosines: Tensor
    split_channels: int
    groups: Path

    @property
    def pairs(self) -> int:
        return int(gamma_polysemantic(self.cosines, self.gamma).sum())


# --------------------------------------------------------------------------------------------------------------------
# The networks


def studied_networks(settings: RandomWeightsSettings, transform: Transform) -> list[list[StudiedNetwork]]:
    """The trained network, and those of all seeds of each part that is re-initialised."""
    trained = StudiedNetwork(TRAINED, settings.weights, settings.folder / TRAINED)
    networks = [[trained]]
    for part in settings.parts:
        of_part = []
        for seed in range(settings.seeds):
            folder = settings.folder / f"{part.name.lower()}_{seed}"
            weights = folder / "weights.pth"
            if not weights.is_file():
                write_weights(weights, settings, transform, part, seed)
            of_part.append(StudiedNetwork(f"re-initialised: {part.value}", str(weights), folder))
        networks.append(of_part)
    return networks


def write_weights(path: Path, settings: RandomWeightsSettings, transform: Transform, part: Part, seed: int) -> None:
    """Write the state dict of a network that is re-initialised in a part."""
    network = load_network(settings.model, settings.weights)
    layer = find_layer(network.module, settings.layer_of_interest, transform.crop_size)
    order = executed_modules(network.module, transform.crop_size)
    names = modules_of(part, network.module, layer.name, order)
    reinitialise(network.module, names, seed)
    norms = norms_behind(network.module, names, order)
    device = choose_device(settings.device)
    opened = OpenedNetwork(network.module, layer, settings.precision).to(device)
    images = list_images(Path(settings.data_dir) / "train")
    chosen = permutation(len(images), "images for BatchNorm statistics")[: settings.statistics_images]
    batches = equal_batches_of(chosen.tolist(), settings.batch_size)
    description = f"statistics of {path.parent.name}"
    loader = ImageBatches(images, transform, batches, description, flags.loading(settings, device))
    if norms:
        estimate_statistics(opened, norms, loader)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(network.module.state_dict(), content)
    write_bytes(path, content.getbuffer())


# --------------------------------------------------------------------------------------------------------------------
# Thresholds such that as much is found as in the trained network


def largest_taus(relative: Tensor, targets: Tensor, p: float) -> Tensor:
    """Ineq. 2: the largest tau at which each channel is relevant for each class, [present classes, C] float16.

    A channel is relevant in ``count`` images of a class at the count-th largest of its relative importances there, and
    ``count / n >= p`` must hold.

    Parameters
    ----------
    relative : Tensor [n, C], float16
        Importances over the positive sum of their image; -inf for an image without positive importance.
    targets : Tensor [n]
    p : float
    """
    taus = []
    for target in targets.unique():
        of_class = relative[targets == target].float()
        needed = next(count for count in range(1, len(of_class) + 1) if count / len(of_class) >= p)
        taus.append(of_class.sort(0, descending=True).values[needed - 1])
    return torch.stack(taus).half()


def tau_of_relations(taus: Tensor, relations: int) -> float:
    """The tau at which the number of (channel, class) that are relevant is nearest to ``relations``.

    ``taus`` float16 are the largest ones for each (channel, class). The tau lies between two of them.
    """
    values, counts = taus[taus > 0].unique(return_counts=True)
    if not len(values):
        raise UserError("no channel is relevant for a class at any tau")
    numbers = counts.flip(0).cumsum(0)
    nearest = int((numbers - relations).abs().argmin())
    value = values.flip(0)[nearest]
    below = value.nextafter(torch.zeros_like(value))
    return float(f"{(float(value) + float(below)) / 2:.5g}")


def gamma_of_pairs(cosines: Tensor, pairs: int) -> float:
    """The gamma under which ``pairs`` of the pairs of classes lie, or all pairs where there are fewer."""
    ascending = cosines.sort().values.tolist()
    if not ascending or not pairs:
        return -1.0
    last = ascending[min(pairs, len(ascending)) - 1]
    following = ascending[pairs] if pairs < len(ascending) else 1.0
    return min((last + following) / 2, LARGEST_GAMMA)


def stored_taus(store: ImportanceStore, p: float) -> Tensor:
    """``largest_taus`` of a training store."""
    chunks = [
        store.read_chunk(chunk, ["relative_importances", "positive_sums", "targets"])
        for chunk in range(store.num_chunks)
    ]
    relative = torch.cat([chunk["relative_importances"] for chunk in chunks])
    relative[torch.cat([chunk["positive_sums"] for chunk in chunks]) <= 0] = -FLOAT16_MAX
    return largest_taus(relative, torch.cat([chunk["targets"] for chunk in chunks]), p)


# --------------------------------------------------------------------------------------------------------------------
# The stages


@dataclass(frozen=True)
class Stages:
    """The four stages of one network; what they print goes to ``log.txt`` in its folder."""

    settings: RandomWeightsSettings
    transform: Transform
    network: StudiedNetwork

    def shared(self) -> dict[str, Any]:
        """The settings that all stages have."""
        settings = self.settings
        return {
            "model": settings.model,
            "weights": self.network.weights,
            "layer_of_interest": settings.layer_of_interest,
            "data_dir": settings.data_dir,
            "store_dir": str(self.network.folder / "store"),
            "output_dir": str(self.network.folder),
        }

    def of_images(self) -> dict[str, Any]:
        """The settings that all stages that read images have."""
        names = ("skip_unreadable", "batch_size", "num_workers", "decode", "device", "precision")
        transform = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.transform).items()
        }
        return {**self.shared(), **transform, **{name: getattr(self.settings, name) for name in names}}

    def measure(self) -> tuple[ImportanceStore, float]:
        """Stage 1: the training store, and the share of validation images that are classified correctly."""
        shared = self.of_images()
        with self._logged():
            training = measure_importances(ImportanceSettings(**shared, class_map=self.settings.class_map))
            validation = measure_importances(ImportanceSettings(**shared, images="val"))
        labels = validation.read_labels()
        return training, labels.counting(only_correct=True).double().mean().item()

    def find(self, accuracy: float, tau: float, gamma: float) -> FoundRelations:
        """Stage 2."""
        thresholds = {"taus": (tau,), "ps": (self.settings.p,), "cos_sim_highs": (gamma,), "cos_sim_low": -1.0}
        with self._logged():
            found = find_polysemantic(SimilaritySettings(**self.shared(), **thresholds))
        relevant = found.findings.layer.relevant
        return FoundRelations(
            accuracy=accuracy,
            tau=tau,
            gamma=gamma,
            relations=int(relevant.sum()),
            channels=int(relevant.any(0).sum()),
            shared_channels=int((relevant.sum(0) >= 2).sum()),
            cosines=found.findings.layer.pairs.cosine,
            split_channels=len(found.findings.channels.several_groups()),
            groups=found.files.groups,
        )

    def separate(self, found: FoundRelations) -> list[dict[str, Any]]:
        """Stages 3 and 4: the rows of the separation; none where no channel has several groups of classes."""
        if not found.split_channels:
            return []
        shared = self.of_images()
        with self._logged():
            written = disentangle(
                DisentanglingSettings(**shared, candidates=found.groups, split_by=self.settings.split_by)
            )
            results = ResultSettings(
                **shared, splits=(written.manifest,), get_separation=True, draws=self.settings.draws
            )
            paths = evaluate(results)
        separations = Separations(results.output_dir, model_dir_of(results))
        (path,) = set(separations.paths()) & set(paths)
        return separations.read(path)["rows"]

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        self.network.folder.mkdir(parents=True, exist_ok=True)
        with open(self.network.folder / "log.txt", "a") as log, contextlib.redirect_stdout(log):
            yield


# --------------------------------------------------------------------------------------------------------------------
# Tables


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, how numbers are written, and the value of a network."""

    heading: str
    style: str
    value: Callable[[Any], float]


OF_STAGE_TWO = (
    Column("accuracy", ".3f", lambda found: found.accuracy),
    Column("tau", ".4g", lambda found: found.tau),
    Column("relevant (channel, class)", ".0f", lambda found: found.relations),
    Column("relevant channels", ".0f", lambda found: found.channels),
    Column("of several classes", ".0f", lambda found: found.shared_channels),
    Column("pairs in all", ".0f", lambda found: len(found.cosines)),
    Column("pairs under gamma", ".0f", lambda found: found.pairs),
    Column("lowest cosine", ".3f", lambda found: found.cosines.min().item() if len(found.cosines) else np.nan),
    Column("channels of several groups", ".0f", lambda found: found.split_channels),
)
BELOW = tuple(
    Column(f"{gamma:g}", ".0f", lambda found, gamma=gamma: gamma_polysemantic(found.cosines, gamma).sum().item())
    for gamma in GAMMAS
)


@dataclass(frozen=True)
class SeparatedNetwork:
    """The separation of one network at one gamma: counts, and means over the concepts that were measured.

    A mean is NaN where nothing was measured. ``gain`` is that over the primary null. ``references`` are the means of
    REFERENCES.
    """

    gamma: float
    channels: int
    concepts: int
    above: int
    prevalence: float
    original: float
    split: float
    null: float
    own_logit: float
    gain: Interval
    references: dict[str, float]

    @property
    def share_above(self) -> float:
        """Share of the concepts that stand above their primary null."""
        return self.above / self.concepts if self.concepts else np.nan


def separated_network(gamma: float, rows: Sequence[dict[str, Any]]) -> SeparatedNetwork:
    """The SeparatedNetwork of the rows of a separation."""

    def mean(column: str) -> float:
        values = [row[column] for row in rows if not np.isnan(row.get(column, np.nan))]
        return float(np.mean(values)) if values else np.nan

    leading = headline(rows)
    means = mean_separation(rows)
    return SeparatedNetwork(
        gamma=gamma,
        channels=leading.channels if leading else 0,
        concepts=leading.concepts if leading else 0,
        above=leading.above if leading else 0,
        prevalence=mean("prevalence"),
        original=means.before,
        split=means.after,
        null=means.null,
        own_logit=mean(OWN_LOGIT.ap),
        gain=leading.gain if leading else Interval(np.nan, np.nan, np.nan),
        references={heading: mean(column) for heading, column in REFERENCES.items()},
    )


OF_SEPARATION = (
    Column("gamma", ".3f", lambda separated: separated.gamma),
    Column("channels", ".0f", lambda separated: separated.channels),
    Column("concepts", ".0f", lambda separated: separated.concepts),
    Column("prevalence", ".3f", lambda separated: separated.prevalence),
    Column("AP original", ".3f", lambda separated: separated.original),
    Column("AP split", ".3f", lambda separated: separated.split),
    Column("AP primary null", ".3f", lambda separated: separated.null),
    Column("gain", "+.3f", lambda separated: separated.gain.mean),
    Column("concepts above the null, q < 0.05", ".0f", lambda separated: separated.above),
    Column("their share", ".0%", lambda separated: separated.share_above),
    Column("AP own logit", ".3f", lambda separated: separated.own_logit),
    *(
        Column(heading, ".3f", lambda separated, heading=heading: separated.references[heading])
        for heading in REFERENCES
    ),
)


def over_seeds(values: Sequence[float], style: str) -> str:
    """A value; of several their mean, with the lowest and the highest. Values that are NaN do not count."""
    measured = [value for value in values if not np.isnan(value)]
    if not measured:
        return "–"
    mean = format(np.mean(measured), style)
    return mean if len(values) == 1 else f"{mean} ({min(measured):{style}} to {max(measured):{style}})"


def print_columns(title: str, columns: Sequence[Column], networks: dict[str, list[Any]]) -> None:
    """A Markdown table with a row for each kind of network, given what was found in that of each seed."""
    rows = []
    for words, of_seeds in networks.items():
        cells = [over_seeds([column.value(values) for values in of_seeds], column.style) for column in columns]
        rows.append([f"{words}, {len(of_seeds)} seeds" if len(of_seeds) > 1 else words, *cells])
    print_table([title, *(column.heading for column in columns)], rows)


def print_gains(networks: dict[str, list[SeparatedNetwork]]) -> None:
    """The gain over the primary null of each network, with its interval over channels."""
    rows = [
        [
            f"{words}, seed {seed}" if len(of_seeds) > 1 else words,
            f"{formatted(separated.gain.mean, '+.3f')}{interval_text(separated.gain.low, separated.gain.high)}",
        ]
        for words, of_seeds in networks.items()
        for seed, separated in enumerate(of_seeds)
    ]
    print_table(["gain over the primary null", ""], rows)


# --------------------------------------------------------------------------------------------------------------------


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_network_flags(parser)
    flags.add_class_map_flag(parser)
    parser.add_argument("--folder", type=Path, default=Path("random_weights"), help="stores and results (%(default)s)")
    parser.add_argument(
        "--seeds", type=positive_int, default=3, help="re-initialised networks of each kind (%(default)s)"
    )
    parts = {part.name.lower(): part for part in Part}
    parser.add_argument(
        "--parts", nargs="+", choices=parts, default=list(parts), help="what is re-initialised (default: each in turn)"
    )
    help = "training images that give the BatchNorm statistics (%(default)s)"
    parser.add_argument("--statistics_images", type=positive_int, default=1000, help=help)
    help = "tau of the trained network (%(default)s)"
    parser.add_argument("--proportion_attribution_required", dest="tau", type=fraction, default=TAU, help=help)
    parser.add_argument("--p", type=fraction, default=P, help="share of a class's images that must agree (%(default)s)")
    parser.add_argument("--gamma", type=cosine, default=COS_SIM_HIGH, help="of the first round (%(default)s)")
    divisions = [division.name for division in DIVISIONS.all()]
    parser.add_argument("--split_by", choices=divisions, default="least_squares", help="(%(default)s)")
    help = "the most draws of the primary null (%(default)s)"
    parser.add_argument("--draws", type=number_of_draws, default=SEPARATION_MOST_DRAWS, help=help)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def settings_from(args: argparse.Namespace, _: argparse.ArgumentParser) -> RandomWeightsSettings:
    flags.require(args, "model")
    parts = {part.name.lower(): part for part in Part}
    return flags.settings_of(RandomWeightsSettings, args, parts=tuple(parts[name] for name in args.parts))


def main(settings: RandomWeightsSettings) -> None:
    transform = flags.transform_from_flags(settings, load_network(settings.model, settings.weights).transform)
    networks = studied_networks(settings, transform)
    stages = {of_part[0].words: [Stages(settings, transform, network) for network in of_part] for of_part in networks}

    # Round 1: the same gamma. The first network is the trained one, which decides how much is to be found.
    first: dict[str, list[FoundRelations]] = {}
    for words, of_seeds in stages.items():
        first[words] = []
        for of_network in of_seeds:
            training, accuracy = of_network.measure()
            tau = settings.tau
            if words != TRAINED:
                tau = tau_of_relations(stored_taus(training, settings.p), first[TRAINED][0].relations)
            first[words].append(of_network.find(accuracy, tau, settings.gamma))
    print_columns("found", OF_STAGE_TWO, first)
    print_columns("pairs with a cosine below", BELOW, first)
    print_separations(f"gamma {settings.gamma:g} for all", stages, first)

    # Round 2: as many pairs
    pairs = first[TRAINED][0].pairs
    second: dict[str, list[FoundRelations]] = {}
    for words, of_seeds in stages.items():
        second[words] = [
            of_network.find(found.accuracy, found.tau, gamma_of_pairs(found.cosines, pairs))
            if words != TRAINED
            else found
            for of_network, found in zip(of_seeds, first[words], strict=True)
        ]
    print_columns("found, gamma for as many pairs", OF_STAGE_TWO, second)
    print_separations("gamma for as many pairs", stages, second)


def print_separations(title: str, stages: dict[str, list[Stages]], found: dict[str, list[FoundRelations]]) -> None:
    """Stages 3 and 4 of all networks, and their tables."""
    separated = {
        words: [
            separated_network(of_found.gamma, of_network.separate(of_found))
            for of_network, of_found in zip(of_seeds, found[words], strict=True)
        ]
        for words, of_seeds in stages.items()
    }
    print_columns(title, OF_SEPARATION, separated)
    print_gains(separated)


if __name__ == "__main__":
    run(main, get_args_parser(), settings=settings_from)
