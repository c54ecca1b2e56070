"""Which division of a channel's inputs is best? Rules and settings on all channels of a layer, from the stores alone.

    python -m benchmarks.shares --store_dir demo_output/store --model examples.demo:demo_network \\
        --candidates demo_output/results_get_cosine_similarities/..._groups.json

Needs the training and the val store of stage 1, and stage 2. Prints a Markdown table: for each way to divide, average
precision (AP) and AUROC of the new channels for their concepts against all other validation images, the same for units
of permuted weights (one draw a channel), and which fraction of the channel's sum the new one carries in validation
images of its own concept, and the largest one that another concept's carries.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.report import print_table
from utils.command_line import flags, opening, split_flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import ResultSettings
from utils.concept_sources.source_registry import SOURCES, USUAL
from utils.defaults import BACKGROUND_WEIGHT
from utils.divisions.arv import ArvRule
from utils.method.shares import RIDGE, least_squares_shares
from utils.method.significance import permutation
from utils.stages.separation import ValidationInputs, rank_rows
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore
from utils.store.splits import transform_from


@dataclass(frozen=True)
class Way:
    """A way to divide inputs: least squares with these settings; without a ridge, the rule at rho = 1."""

    name: str
    background: float | None
    ridge: float | None = None
    whole: bool = False
    taps_alone: bool = False


WAYS = [
    Way("rule, rho = 1", None),
    Way("rule, rho = 1, background", 1.0),
    *(Way(f"least squares, background {weight:g}", weight, RIDGE) for weight in (0.1, 0.3, 1.0, 3.0, 10.0)),
    Way("least squares, no background", None, RIDGE),
    *(Way(f"least squares, background 1, ridge {ridge:g}", 1.0, ridge) for ridge in (0.0001, 0.001, 0.1, 1.0)),
    Way("least squares, background 1, each input whole", 1.0, RIDGE, whole=True),
    Way("least squares, background 1, shares of each tap", 1.0, RIDGE, taps_alone=True),
]


def get_args_parser():
    parser = Parser(__doc__)
    flags.add_store_flag(parser)
    flags.add_network_flags(parser)
    split_flags.add_candidates_flag(parser)
    split_flags.add_channel_flag(parser, "channel_of_interest", "a channel")
    split_flags.add_only_correct_flag(
        parser, "concepts of correctly classified images only (default: as the candidates say)"
    )
    return parser


def settings_from(args, _):
    flags.require(args, "model", "candidates")
    channels = split_flags.channels_from(args, ResultSettings.channel_flag)
    return flags.settings_of(ResultSettings, args, channels=channels, division_given={}, num_workers=0)


def divide(way, weights, moments, means, mean):
    """Rows ``c'_1 .. c'_K`` [K or more, B, C_in, taps] of units [B, C_in, taps].

    ``moments`` are the second moments of the concepts' tap sums and, last, everything else's; ``means``
    [K, C_in, taps] the concepts' means, ``mean`` that of all images.
    """
    if way.ridge is None:
        means = means if way.background is None else torch.cat([means, mean[None]])
        return ArvRule(means, rho=1.0).rows(weights)
    moments = moments if way.background else moments[:-1]
    importance = [1.0] * len(means) + ([way.background] if way.background else [])
    shape = weights.shape
    if way.taps_alone:
        weights = weights.flatten(1)[..., None]
    shares = least_squares_shares(weights.float(), moments, importance, ridge=way.ridge).transpose(0, 1)
    if way.whole:
        shares = torch.nn.functional.one_hot(shares.argmax(0), len(moments)).movedim(-1, 0)
    return (shares[..., None] * weights).view(-1, *shape)


def fractions(rows, weight, own, validation):
    """Own and largest other fraction of the channel's sum, over a concept's images, for each concept [K] arrays."""
    num_own = len(own)
    sums, total = validation.scores(rows[:num_own, 0]), validation.scores(weight[None])[0]
    found = np.array(
        [[float(sums[j, own[k]].sum() / total[own[k]].sum()) for j in range(num_own)] for k in range(num_own)]
    )
    others = np.where(np.eye(num_own, dtype=bool), -np.inf, found).max(1)
    return np.diag(found), np.where(np.isinf(others), np.nan, others)


def main(settings):
    name = run_name(settings.model, settings.layer_of_interest)
    store, val_store = ImportanceStore(settings.store_dir, name), ImportanceStore(settings.store_dir, name, "val")
    meta = store.load_meta()
    val_store.load_meta()
    for one in (store, val_store):
        one.require_complete()
    asked = opening.requested_candidates(settings)
    study = opening.open_study(
        *(settings, store, transform_from(meta["transform"]), torch.device("cpu")),
        open_network=None,
        only_correct=opening.setting("only_correct", settings, asked.settings),
        background=BACKGROUND_WEIGHT,
    )
    problems = opening.Problems(len(asked.candidates))
    channels = opening.resolve_all(asked, settings.channel_flag, meta, study.classes, problems)
    maker = SOURCES.get(USUAL).from_given({}, study).maker(study, [])
    inputs, validation = study.tap_sums, ValidationInputs(val_store, [0])
    found = {way: [] for way in WAYS}
    for channel, concepts in tqdm(channels, "channels"):
        candidate = maker.make(channel, concepts)
        moments, _ = inputs.of_concepts(candidate.own_concepts, BACKGROUND_WEIGHT).second_moments()
        means = torch.stack([maker.mean_inputs[concept].mean(0) for concept in concepts])
        weight = candidate.weight.double()
        units = torch.stack([weight, weight[permutation(len(weight), "shares", channel, concepts)]])
        own = validation.images_of(concepts)
        for way in WAYS:
            rows = divide(way, units, moments, means, maker.mean_input)
            score = rank_rows(rows, own, validation)
            values = [
                *(score.ap[:, 0], score.auroc[:, 0]),
                *(score.ap[:, 1], score.auroc[:, 1]),
                *fractions(rows, weight, own, validation),
            ]
            found[way].append(np.stack([np.asarray(value) for value in values], 1))
    problems.finish("divided")
    header = ["", "AP", "AUROC", "AP, weights permuted", "AUROC, weights permuted", "own", "other"]
    rows = [[way.name, *(f"{value:.3f}" for value in np.nanmean(np.concatenate(found[way]), axis=0))] for way in WAYS]
    count = sum(len(one) for one in found[WAYS[0]])
    print(f"\n{count} concepts of {len(channels)} channels of {name}; means")
    print_table(header, rows)


if __name__ == "__main__":
    run(main, get_args_parser(), settings=settings_from)
