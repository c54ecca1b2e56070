"""Is a shortcut found without labels, and taken out by an edit of weights? A network whose shortcut is known.

    python -m benchmarks.shortcut

The demonstration's second network is trained from several seeds. In its training pictures a small mark stands on the
pictures of one class, and the network takes other classes' pictures with the mark for this class. Prints Markdown
tables, mean and standard deviation over seeds:

1. Whether the network uses the mark.
2. Whether circuits of the last convolution, which need no labels, single out the mark: how many channels have a circuit
   most of whose training pictures carry the mark, and the average precision (AP) of channels and parts for the mark.
3. What it costs to take the mark out, at equal recovery: the strength of each way is the least one that brings back a
   given share of the accuracy lost on marked pictures of other classes. It is chosen on training pictures that got the
   mark for this alone; all figures are of held-out pictures.
4. Whether the parts' choice of inputs counts: parts minus parts whose shares are permuted, in the same networks.

Networks are kept in the folder and used again while their pictures are the same. With them it takes about three minutes
on 2 cores.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.shortcut_edits import (
    Edit,
    Parts,
    RankedParts,
    Way,
    edited_layer,
    least_strengths,
    lower_logit,
    project_input,
    project_output,
    ranked,
    take_out_parts,
)
from examples.demo.network import TRANSFORM
from examples.demo.pictures import CONCEPTS, write_pictures
from examples.demo.shortcut import (
    MARKED_CLASS,
    plain_picture,
    read_shortcut_pictures,
    shortcut_network,
    with_mark,
    write_shortcut_pictures,
)
from utils.command_line.run import run
from utils.concept_sources.circuits import Circuits
from utils.defaults import BACKGROUND_WEIGHT
from utils.method.order import largest_first
from utils.method.shares import least_squares_shares, second_moments
from utils.method.significance import permutation
from utils.processes import progress

TARGETS = (0.25, 0.5)  # shares of the lost accuracy that are brought back
TUNING = 10  # training pictures of each class that get the mark, to choose and to fit edits
TUNING_SEED = 2  # of the mark's positions; those of training and validation pictures have 1
MOST_PARTS = 40  # that are taken out
DRAWS = 5  # of permuted weights, and of permuted shares
MARKED_OUTPUT = CONCEPTS.index(MARKED_CLASS)
SHARES_PERMUTED = {name: f"{name}, shares permuted" for name in ("parts by circuits", "parts by listed pictures")}


@dataclass(frozen=True)
class Pictures:
    """What the layer and the head need of pictures, and which pictures these are.

    ``inputs`` [n, C_in, H, W] enter the layer, ``skipped`` [n, C, H, W] goes past it; ``targets`` and ``is_marked``
    are [n].
    """

    inputs: Tensor
    skipped: Tensor
    targets: Tensor
    is_marked: Tensor

    @property
    def sums(self) -> Tensor:
        """Spatial sums of the inputs: [n, C_in]."""
        return self.inputs.sum((2, 3))

    def where(self, chosen: Tensor) -> "Pictures":
        return Pictures(self.inputs[chosen], self.skipped[chosen], self.targets[chosen], self.is_marked[chosen])


def record(network: nn.Module, pixels: Tensor, targets: Tensor, is_marked: Tensor) -> Pictures:
    """The Pictures of uint8 pixels [n, 64, 64, 3]."""
    skipped = [network.stem(TRANSFORM.normalise(batch, torch.device("cpu"))) for batch in pixels.split(256)]
    return Pictures(torch.cat([network.expand(batch) for batch in skipped]), torch.cat(skipped), targets, is_marked)


def predictions(network: nn.Module, pictures: Pictures, edit: Edit) -> Tensor:
    """The predicted class of each picture with an edited layer, [n]."""
    logits = network.head(pictures.skipped, edited_layer(pictures.inputs, edit)) + edit.logits
    return logits.argmax(1)


@dataclass(frozen=True)
class Accuracies:
    """Shares of pictures that are classified correctly: with and without the mark, of the marked class and of others.

    ``called_marked`` is the share of the other classes' marked pictures that are called by the marked class.
    """

    others: float
    others_marked: float
    own: float
    own_marked: float
    called_marked: float


WORDS = {
    "others": "correct, other classes, without the mark",
    "others_marked": "correct, other classes, with the mark",
    "called_marked": "other classes with the mark, called by the marked class",
    "own": "correct, marked class, without the mark",
    "own_marked": "correct, marked class, with the mark",
}


def accuracies(network: nn.Module, pictures: Pictures, edit: Edit) -> Accuracies:
    """The Accuracies of an edited network."""
    found = predictions(network, pictures, edit)
    is_correct, is_own = found == pictures.targets, pictures.targets == MARKED_OUTPUT

    def share(values: Tensor, chosen: Tensor) -> float:
        return values[chosen].double().mean().item()

    return Accuracies(
        others=share(is_correct, ~is_own & ~pictures.is_marked),
        others_marked=share(is_correct, ~is_own & pictures.is_marked),
        own=share(is_correct, is_own & ~pictures.is_marked),
        own_marked=share(is_correct, is_own & pictures.is_marked),
        called_marked=share(found == MARKED_OUTPUT, ~is_own & pictures.is_marked),
    )


def recovered(before: Accuracies, others_marked: float) -> float:
    """The share of the accuracy that other classes lose by the mark which an edit brings back.

    ``others_marked`` is their accuracy with the mark after the edit.
    """
    return (others_marked - before.others_marked) / (before.others - before.others_marked)


# --------------------------------------------------------------------------------------------------------------------
# Parts of channels


def circuit_parts(weight: Tensor, input_sums: Tensor) -> tuple[Parts, list[Tensor]]:
    """The circuits of every channel as parts, divided by least squares beside everything else as stage 3 does it.

    ``weight`` [C, C_in], ``input_sums`` [n, C_in] of training pictures. Returns the parts, without those of everything
    else, and the indices of the pictures of each.
    """
    source = Circuits(references=min(Circuits.references, len(input_sums) // 4))
    channels, shares, sets = [], [], []
    for channel, row in enumerate(progress(weight, "circuits", unit=" channels", delay=2)):
        strongest = largest_first(input_sums @ row, source.references)
        labels, _ = source.clusters(source.features(row[:, None], input_sums[strongest, :, None]))
        own = [strongest[labels == k] for k in range(source.number)]
        shares.append(divided(row, input_sums, own))
        channels += [channel] * len(own)
        sets += own
    return Parts(torch.tensor(channels), torch.cat(shares)), sets


def listed_parts(weight: Tensor, input_sums: Tensor, is_marked: Tensor) -> Parts:
    """The part of every channel for the training pictures that carry the mark, a concept that is given as a list."""
    shares = [divided(row, input_sums, [is_marked.nonzero()[:, 0]]) for row in weight]
    return Parts(torch.arange(len(weight)), torch.cat(shares))


def divided(row: Tensor, input_sums: Tensor, sets: list[Tensor]) -> Tensor:
    """Shares of a channel's inputs for sets of pictures beside everything else, which is left out: [K, C_in]."""
    is_other = torch.ones(len(input_sums), dtype=torch.bool).index_fill_(0, torch.cat(sets), False)
    moments = [second_moments(input_sums[chosen, :, None]) for chosen in (*sets, is_other)]
    importance = [1.0] * len(sets) + [BACKGROUND_WEIGHT]
    shares = least_squares_shares(row[None, :, None].double(), moments, importance)[0]
    return (shares / shares.sum(0))[:-1].float()


def whole_channels(weight: Tensor) -> Parts:
    """Every channel as a part."""
    return Parts(torch.arange(len(weight)), torch.ones_like(weight))


def permuted_weights(weight: Tensor, draw: int) -> Tensor:
    """Each channel's weights permuted over its inputs."""
    orders = [permutation(weight.shape[1], "shortcut", "weights", channel, draw) for channel in range(len(weight))]
    return torch.stack([row[order] for row, order in zip(weight, orders, strict=True)])


def permuted_shares(parts: Parts, draw: int) -> Parts:
    """The shares of each channel's parts permuted over its inputs, in the same way for all parts of a channel."""
    orders = [
        permutation(parts.shares.shape[1], "shortcut", "shares", int(channel), draw) for channel in parts.channels
    ]
    return Parts(parts.channels, torch.stack([share[order] for share, order in zip(parts.shares, orders, strict=True)]))


# --------------------------------------------------------------------------------------------------------------------
# One network


@dataclass(frozen=True)
class Network:
    """A network, the weight [C, C_in] of its last convolution, and pictures.

    ``training`` are those it was trained with; ``tuning`` and ``validation`` have each picture without and with the
    mark.
    """

    network: nn.Module
    weight: Tensor
    training: Pictures
    tuning: Pictures
    validation: Pictures

    @property
    def unedited(self) -> Edit:
        return Edit(self.weight, torch.zeros(len(self.weight)))


def orders_of(of: Network, kinds: dict[str, Parts]) -> dict[str, list[RankedParts]]:
    """Each kind of parts in its order for the mark, and DRAWS of those of SHARES_PERMUTED, by the same rule."""
    drawn = {name: [parts] for name, parts in kinds.items()}
    for name, name_permuted in SHARES_PERMUTED.items():
        drawn[name_permuted] = [permuted_shares(kinds[name], draw) for draw in range(DRAWS)]
    return {
        name: [ranked(parts, of.weight, of.tuning.sums, of.tuning.is_marked) for parts in draws]
        for name, draws in drawn.items()
    }


def found_parts(of: Network) -> tuple[dict[str, list[RankedParts]], dict[str, float]]:
    """The ``orders_of`` parts by how they were found; and how well the mark was found, {figure: value}."""
    parts, sets = circuit_parts(of.weight, of.training.sums)
    kinds = {
        "parts by circuits": parts,
        "parts by listed pictures": listed_parts(of.weight, of.training.sums, of.training.is_marked),
        "whole channels": whole_channels(of.weight),
    }
    orders = orders_of(of, kinds)
    precisions = {
        f"AP, {name}": float(np.mean([held_out_precision(of, order, of.weight) for order in draws]))
        for name, draws in orders.items()
    }
    precisions_of_nulls, channels_of_nulls = [], []
    for draw in range(DRAWS):
        weight = permuted_weights(of.weight, draw)
        null_parts, null_sets = circuit_parts(weight, of.training.sums)
        null_order = ranked(null_parts, weight, of.tuning.sums, of.tuning.is_marked)
        precisions_of_nulls.append(held_out_precision(of, null_order, weight))
        channels_of_nulls.append(len(null_parts.channels[mostly_marked(of, null_sets)].unique()))
    is_mark = mostly_marked(of, sets)
    return orders, {
        "share of marked training pictures": of.training.is_marked.double().mean().item(),
        "circuits of which half or more are marked": float(is_mark.sum()),
        "channels that have one, of 12": float(len(parts.channels[is_mark].unique())),
        "channels that have one, permuted weights": float(np.mean(channels_of_nulls)),
        **precisions,
        "AP, parts by circuits of permuted weights": float(np.mean(precisions_of_nulls)),
    }


def mostly_marked(of: Network, sets: list[Tensor]) -> Tensor:
    """For each set of training pictures, whether half of them or more carry the mark, [K]."""
    return torch.stack([of.training.is_marked[images].double().mean() >= 0.5 for images in sets])


def held_out_precision(of: Network, order: RankedParts, weight: Tensor) -> float:
    """AP of the first of some parts for the mark, with the sign that the tuning pictures gave it.

    It is among held-out pictures of other classes, each without and with the mark: 0.5 is chance.
    """
    others = of.validation.where(of.validation.targets != MARKED_OUTPUT)
    best = RankedParts(order.first(1), order.signs[:1])
    return best.precisions(weight, others.sums, others.is_marked).item()


def ways(of: Network, orders: dict[str, list[RankedParts]]) -> dict[str, list[Way]]:
    """The Ways of editing that are compared, with several draws of a random one: {name: Ways}."""
    clean = of.tuning.where(~of.tuning.is_marked)
    marked = of.tuning.where(of.tuning.is_marked)
    mean = of.training.where(~of.training.is_marked).inputs.mean((0, 2, 3))
    direction = marked.inputs.mean((0, 2, 3)) - clean.inputs.mean((0, 2, 3))
    in_outputs = (of.weight @ direction, of.weight @ mean)
    found = {
        name: [take_out_parts(order.first(MOST_PARTS), of.weight, mean) for order in draws]
        for name, draws in orders.items()
    }
    found["projection of the input"] = [project_input(of.weight, direction, mean)]
    found["projection of the output"] = [project_output(of.weight, *in_outputs)]
    found["the class's logit lowered"] = [lower_logit(of.weight, MARKED_OUTPUT, len(CONCEPTS))]
    return found


@dataclass(frozen=True)
class Outcome:
    """One Way at one target: its strength and the held-out Accuracies, or None where the target is not reached."""

    strength: float
    recovered: float
    after: Accuracies


def outcomes(of: Network, way: Way, targets: Sequence[float] = TARGETS) -> list[Outcome | None]:
    """The Outcomes of a Way at the least strengths that bring back ``targets`` on the tuning pictures."""
    before = accuracies(of.network, of.tuning, of.unedited)
    marked = of.tuning.where(of.tuning.is_marked & (of.tuning.targets != MARKED_OUTPUT))

    def recovery(strength: float) -> float:
        correct = predictions(of.network, marked, way.edit(strength)) == marked.targets
        return recovered(before, correct.double().mean().item())

    held_out = accuracies(of.network, of.validation, of.unedited)
    found: list[Outcome | None] = []
    for strength in least_strengths(recovery, way.strengths, targets):
        if strength is None:
            found.append(None)
            continue
        after = accuracies(of.network, of.validation, way.edit(strength))
        found.append(Outcome(strength, recovered(held_out, after.others_marked), after))
    return found


def study(pictures: Path, folder: Path, seed: int) -> Network:
    """The Network of a seed, trained where its weights are not in ``folder`` yet, and its pictures."""
    network = shortcut_network(folder, seed).requires_grad_(False)
    training, validation = (read_shortcut_pictures(folder, part) for part in ("train", "val"))
    first = len(list((pictures / "train" / MARKED_CLASS).iterdir())) - TUNING  # the last ones are not marked
    keys = [(index, number) for index in range(len(CONCEPTS)) for number in range(first, first + TUNING)]
    plain = [plain_picture(pictures / "train", CONCEPTS[index], number) for index, number in keys]
    marked = [with_mark(picture, TUNING_SEED, *key) for picture, key in zip(plain, keys, strict=True)]
    both = torch.from_numpy(np.stack(plain + marked))
    is_marked = torch.arange(len(both)) >= len(plain)
    targets = torch.tensor([index for index, _ in keys]).repeat(2)
    tuning = record(network, both, targets, is_marked)
    weight = network.last.weight.detach()[..., 0, 0]
    return Network(network, weight, record(network, *training), tuning, record(network, *validation))


def most_recovered(of: Network) -> float:
    """What is recovered where the layer's output is that of the same held-out pictures without the mark.

    The rest of what is lost goes past the layer, and no edit of it can be better informed.
    """
    is_other = of.validation.targets != MARKED_OUTPUT
    marked, plain = (
        of.validation.where(is_other & which) for which in (of.validation.is_marked, ~of.validation.is_marked)
    )
    mixed = Pictures(plain.inputs, marked.skipped, marked.targets, marked.is_marked)
    correct = predictions(of.network, mixed, of.unedited) == mixed.targets
    return recovered(accuracies(of.network, of.validation, of.unedited), correct.double().mean().item())


# --------------------------------------------------------------------------------------------------------------------
# Tables


def spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def print_figures(title: str, rows: dict[str, list[float]]) -> None:
    """A Markdown table of {figure: its value for each seed}."""
    print(f"\n| {title} | |\n| --- | --- |")
    for name, values in rows.items():
        print(f"| {name} | {spread(values)} |")


COSTS = {"others": "other classes", "own": "marked class", "own_marked": "marked class, marked"}


def means_of_draws(draws: list[Outcome | None], unedited: Accuracies) -> dict[str, float]:
    """The mean strength, recovery and COSTS of the draws of a network that reach a target; {} where none does.

    Costs are differences from the accuracies of the ``unedited`` network.
    """
    reached = [outcome for outcome in draws if outcome is not None]
    if not reached:
        return {}
    means = {
        "strength": np.mean([outcome.strength for outcome in reached]),
        "recovered": np.mean([outcome.recovered for outcome in reached]),
    }
    for field, words in COSTS.items():
        means[words] = np.mean([getattr(outcome.after, field) for outcome in reached]) - getattr(unedited, field)
    return {name: float(value) for name, value in means.items()}


Results = dict[str, list[list[Outcome | None]]]  # of a target: {way: for each network, for each draw}


def print_outcomes(target: float, results: Results, before: list[Accuracies]) -> None:
    """A Markdown table of the Outcomes at one target, given the Accuracies of each network ``before`` the edit.

    A figure is the mean over the draws of a network that reach the target, and then over the networks.
    """
    columns = ("strength", "recovered", *COSTS.values())
    head = ("networks that reach it", "draws that reach it, by network", *columns)
    print(f"\n| {target:.0%} brought back, by | {' | '.join(head)} |\n|{' --- |' * (len(head) + 1)}")
    for name, of_networks in results.items():
        means = [means_of_draws(draws, unedited) for draws, unedited in zip(of_networks, before, strict=True)]
        means = [figures for figures in means if figures]
        counts = [f"{sum(one is not None for one in draws)} of {len(draws)}" for draws in of_networks]
        cells = [spread([figures[column] for figures in means]) if means else "–" for column in columns]
        print(f"| {name} | {len(means)} of {len(of_networks)} | {', '.join(counts)} | {' | '.join(cells)} |")


def print_pairs(results: dict[float, Results], before: list[Accuracies]) -> None:
    """A Markdown table: parts, minus parts with permuted shares, of the same networks; and how the draws compare.

    A draw needs less where it reaches the target with at most the strength of the part, or where the part does not
    reach it and the draw does.
    """
    columns = ("strength", "recovered", *COSTS.values())
    head = ("draws that need no more strength", "networks where both reach it", *columns)
    print(f"\n| parts minus those with permuted shares | {' | '.join(head)} |\n|{' --- |' * (len(head) + 1)}")
    for target, of_target in results.items():
        for name, name_permuted in SHARES_PERMUTED.items():
            no_more, number, differences = 0, 0, []
            for (part,), draws, unedited in zip(of_target[name], of_target[name_permuted], before, strict=True):
                least = np.inf if part is None else part.strength
                no_more += sum(draw is not None and draw.strength <= least for draw in draws)
                number += len(draws)
                figures, of_draws = (means_of_draws(one, unedited) for one in ([part], draws))
                if figures and of_draws:
                    differences.append({column: figures[column] - of_draws[column] for column in columns})
            cells = [spread([one[column] for one in differences]) if differences else "–" for column in columns]
            both = f"{len(differences)} of {len(before)}"
            print(f"| {target:.0%}, {name} | {no_more} of {number} | {both} | {' | '.join(cells)} |")


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("demo_output/pictures"), help="drawn if missing")
    parser.add_argument("--folder", type=Path, default=Path("demo_output/shortcut"), help="pictures, networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


def main(args: argparse.Namespace) -> None:
    write_pictures(args.pictures)
    write_shortcut_pictures(args.pictures, args.folder)
    before, found = [], defaultdict(list)
    results = {target: defaultdict(list) for target in TARGETS}
    for seed in args.seeds:
        network = study(args.pictures, args.folder, seed)
        before.append(accuracies(network.network, network.validation, network.unedited))
        orders, figures = found_parts(network)
        figures["recovered, the layer's output being that without the mark"] = most_recovered(network)
        for name, value in figures.items():
            found[name].append(value)
        for name, draws in ways(network, orders).items():
            of_draws = [outcomes(network, way) for way in draws]
            for number, target in enumerate(TARGETS):
                results[target][name].append([of_draw[number] for of_draw in of_draws])
    used = {words: [getattr(one, field) for one in before] for field, words in WORDS.items()}
    print_figures("is the mark used? held-out pictures", used)
    print_figures("is the mark found?", found)
    for target in TARGETS:
        print_outcomes(target, results[target], before)
    print_pairs(results, before)


if __name__ == "__main__":
    run(main, get_args_parser())
