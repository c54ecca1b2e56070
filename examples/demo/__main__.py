"""A demonstration that needs no download: pictures drawn by code, and a network whose channels are polysemantic.

    python -m examples.demo demo_output              draw the pictures: 100 a class for training, 40 for validation
    python -m examples.demo demo_output --train      make the weights again, from nothing (half a minute on 2 cores)
    python -m examples.demo demo_output --show       figures and a table of what has been split
    python -m examples.demo demo_output --shortcut   pictures and weights of a second network, which relies on a mark

``demo.sh`` runs the four scripts on them, with ``--model examples.demo:demo_network``. The second network is for
``--data_dir demo_output/shortcut --model examples.demo:demo_network --weights demo_output/shortcut/weights_0.pth``.
"""

from pathlib import Path

import numpy as np
import torch

from examples.demo.network import TRANSFORM, WEIGHTS, demo_network
from examples.demo.pictures import CONCEPTS, write_pictures
from examples.demo.shortcut import (
    MARKED_CLASS,
    read_shortcut_pictures,
    shortcut_network,
    write_shortcut_pictures,
)
from examples.demo.training import accuracy, classify, read_pictures, save_weights, train
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.errors import UserError
from utils.method.disentangling import merge, spatial_sums
from utils.method.evaluation import summarise
from utils.networks.layers import layer_of
from utils.networks.loading import fingerprint
from utils.networks.recording import Recorder
from utils.report.figure_files import write_figure
from utils.report.plots import DISENTANGLED, GREY, pictures_figure
from utils.report.sheets import Titles
from utils.store.results import Results
from utils.store.splits import read_split

WRONG = "#b22222"  # the frame of a picture that is classified wrongly


def top_pictures(split, rho, names, validation, count=9):
    """Rows for ``plots.pictures_figure``: what activates the channel and its parts most.

    Among the validation pictures of the split's concepts (called ``names``), by the activation summed over space.
    """
    colours = {output: DISENTANGLED[k][0] for k, concept in enumerate(split.classes) for output in concept}
    pixels, targets = validation
    own = torch.isin(targets, torch.tensor(list(colours)))
    pixels, targets, network = pixels[own], targets[own].tolist(), demo_network().eval().requires_grad_(False)
    layer = layer_of("last", network.last)
    with Recorder(network, layer) as recorder:
        record = recorder.forward(TRANSFORM.normalise(pixels, torch.device("cpu")))
    tap_sums = layer.tap_sums(record.input).double()
    sums = spatial_sums(split.rows(rho).double(), split.biases(), tap_sums, record.activation.shape[2])
    rows = {"original": merge(sums, dim=1)}
    rows |= {f"c'_{k}, for {name}": sums[:, k - 1] for k, name in enumerate(names, start=1)}
    found = {}
    for label, values in rows.items():
        best = values.argsort(descending=True)[:count].tolist()
        found[label] = [(pixels[i].numpy(), colours[targets[i]], str(rank)) for rank, i in enumerate(best, start=1)]
    return found


def show(folder):
    """Draw a figure for every pair, split at a rho, that stage 4 has evaluated; print the fractions it has measured."""
    validation, weights = read_pictures(folder / "pictures" / "val"), fingerprint(demo_network())
    print(f"{'channel':>7}  {'concepts':22}{'mean fraction kept: own':>25}{'other':>14}   rho")
    splits = folder / "store" / "models_disentangled"
    for result in sorted(Results(folder, splits).read_all(), key=lambda one: one["channel"]):
        is_pair = len(result["concepts"]) == 2 and result["background"] is None and result["rho"] is not None
        if result["run"] != "examples.demo-demo_network" or not is_pair:
            continue
        if result["weights_sha256"] != weights:
            raise UserError(f"{folder} holds results of other weights than {WEIGHTS.name}: delete the folder")
        split, names, rho = read_split(splits / f"{result['split']}.pt").split, result["concept_names"], result["rho"]
        title = f"Channel {split.channel}: what activates it most, and what activates its parts"
        count = sum(len(part["paths"]) for part in result["images"])
        subtitle = f"of {count} validation pictures of {' and '.join(names)}"
        figure = pictures_figure(top_pictures(split, rho, names, validation), Titles(title, subtitle))
        write_figure(folder / "plots" / f"channel{split.channel}_{'_'.join(names)}_top_pictures", figure)
        means = [summarise(part["original"], part["sums"], part["included"]).mean for part in result["images"]]
        own = " / ".join(f"{means[k][k]:.2f}" for k in range(len(names)))
        other = " / ".join(f"{np.mean([m[k] for j, m in enumerate(means) if j != k]):.2f}" for k in range(len(names)))
        print(f"{split.channel:7d}  {' / '.join(names):22}{own:>25}{other:>14}  {rho:.2f}")
    print("own: c'_1 on concept 1 / c'_2 on concept 2; other: c'_1 on concept 2 / c'_2 on concept 1 (ideal: 1 and 0)")
    print(f"figures: {folder / 'plots'}")


def shortcut(folder):
    """Write the pictures with a shortcut, train the network on them, and show what it makes of the mark."""
    own = folder / "shortcut"
    write_shortcut_pictures(folder / "pictures", own)
    pixels, targets, is_marked = read_shortcut_pictures(own, "val")
    predictions = classify(shortcut_network(own), pixels)
    is_own, is_correct = targets == CONCEPTS.index(MARKED_CLASS), predictions == targets
    print(f"{'correct, validation pictures':30}without the mark  with the mark")
    for words, chosen in ((f"of {MARKED_CLASS}", is_own), ("of other classes", ~is_own)):
        without, marked = (is_correct[chosen & which].float().mean().item() for which in (~is_marked, is_marked))
        print(f"{words:30}{without:16.1%}{marked:15.1%}")
    called = (predictions[~is_own & is_marked] == CONCEPTS.index(MARKED_CLASS)).float().mean().item()
    print(f"{called:.1%} of the marked pictures of other classes are called {MARKED_CLASS}")
    path = write_figure(folder / "plots" / "shortcut", shortcut_figure(pixels, predictions, targets, is_marked))
    print(f"pictures and weights: {own}; figure: {path}")


def shortcut_figure(pixels, predictions, targets, is_marked, count=8):
    """Pictures of other classes without and with the mark, framed and named by what the network calls them."""
    rows = {}
    for label, which in (("without the mark", ~is_marked), ("with the mark", is_marked)):
        others = (which & (targets != CONCEPTS.index(MARKED_CLASS))).nonzero()[:, 0]
        shown = others[torch.linspace(0, len(others) - 1, count).long()].tolist()
        rows[label] = [
            (pixels[i].numpy(), GREY if predictions[i] == targets[i] else WRONG, CONCEPTS[predictions[i]])
            for i in shown
        ]
    subtitle = "below each: what the network calls it; frames of wrong answers are red"
    return pictures_figure(rows, Titles("Pictures of other classes without and with the mark", subtitle))


def get_args_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("demo_output"),
        help="everything goes below it: pictures/, store/, plots/ ... (demo_output)",
    )
    parser.add_argument("--train", action="store_true", help=f"train the network again and replace {WEIGHTS.name}")
    parser.add_argument("--shortcut", action="store_true", help="a second network, which relies on a mark: shortcut/")
    parser.add_argument("--show", action="store_true", help="figures and a table of the pairs that have been split")
    return parser


def main(args):
    if args.show:
        show(args.folder)
        return
    write_pictures(args.folder / "pictures")
    print(f"pictures of {len(CONCEPTS)} concepts: {args.folder / 'pictures'}")
    if args.shortcut:
        shortcut(args.folder)
    if args.train:
        network = train(args.folder / "pictures")
        save_weights(network, WEIGHTS)
        print(f"{accuracy(network, args.folder / 'pictures'):.1%} of the validation pictures correct; wrote {WEIGHTS}")


if __name__ == "__main__":
    run(main, get_args_parser())
