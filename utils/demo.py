"""A demonstration that needs no download: pictures drawn by code, and a network whose channels are polysemantic.

    python -m utils.demo demo_output            draw the pictures: 100 a class for training, 40 for validation
    python -m utils.demo demo_output --train    make the weights again, from nothing (half a minute on 2 cores)
    python -m utils.demo demo_output --show     figures and a table of what has been split

``demo.sh`` runs the four scripts on them, with ``--model utils.demo:demo_network``.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from utils import command_line
from utils.attribution import forward
from utils.data import Transform, list_images
from utils.disentangling import merge
from utils.errors import UserError
from utils.evaluation import disentangled_sums, summarise
from utils.files import write_bytes
from utils.layers import tap_sums
from utils.models import fingerprint
from utils.pictures import CONCEPTS, SIZE, write_pictures
from utils.plots import DISENTANGLED, pictures_figure
from utils.results import PairResults, write_figure
from utils.store import read_split, split_path

WEIGHTS = Path(__file__).with_name("demo_weights.pth")
TRANSFORM = Transform(resize_size=SIZE, crop_size=SIZE)
EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 20, 64, 4e-3, 1e-2
SPARSITY = 0.05


def convolution(num_inputs, num_outputs, kernel_size, stride=1):
    layer = nn.Conv2d(num_inputs, num_outputs, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(num_outputs), nn.ReLU())


class DemoNetwork(nn.Module):
    """Four convolutions and one bottleneck block; twelve channels have to serve thirty classes.

    ``expand[-1][-1]``'s output is what enters the last convolution, ``last`` (1x1, 96 -> 12, no bias).
    """

    def __init__(self, channels=12):
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, 24, 5, 2), convolution(24, 48, 3, 2), convolution(48, 96, 3, 2), convolution(96, channels, 1)
        )
        self.expand = nn.Sequential(convolution(channels, 96, 1), convolution(96, 96, 3))
        self.last = nn.Conv2d(96, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, len(CONCEPTS))

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.norm(self.last(self.expand(x))))
        return self.classifier(x.mean((2, 3)))


def demo_network():
    """The network with the weights beside this file, as ``--model utils.demo:demo_network`` makes it."""
    network = DemoNetwork()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return network


def read_pictures(folder):
    """All pictures of ``folder`` in memory: uint8 [n, 64, 64, 3], and their classes [n]."""
    images = list_images(folder)
    order = torch.tensor([CONCEPTS.index(name) for name in images.folders])
    indices = tqdm(range(len(images)), "reading", delay=2, leave=False)
    pixels = [np.array(Image.open(images.path(index))) for index in indices]
    return torch.from_numpy(np.stack(pixels)), order[torch.from_numpy(images.folder_of)]


def augment(pixels, generator):
    """Mirror, permute the colours of, and invert random pictures: uint8 [B, 64, 64, 3] to normalised [B, 3, 64, 64]."""
    n = len(pixels)
    pixels = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, pixels, pixels.flip(2))
    pixels = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, pixels, 255 - pixels)
    colours = torch.rand(n, 3, generator=generator).argsort(1)
    pixels = pixels.gather(3, colours[:, None, None].expand_as(pixels))
    return TRANSFORM.normalise(pixels, torch.device("cpu"))


def train(folder, seed=0, sparsity=SPARSITY):
    """Train the network from nothing on ``folder/train``; return it in evaluation mode.

    The loss is cross-entropy and, ramped up over the first 40 % of training, ``sparsity`` times what enters the last
    convolution (mean over images of the sum over channels of the spatial mean). Where few inputs are active for a
    class, the classes of a channel use different ones.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(2)  # the number of threads changes the order of sums, and so the weights
    torch.set_flush_denormal(True)  # sparse activations end in denormal numbers, which are slow by a factor of ten
    generator = torch.Generator().manual_seed(seed)
    pixels, targets = read_pictures(Path(folder) / "train")
    network = DemoNetwork().to(memory_format=torch.channels_last)
    entering = []
    network.expand.register_forward_hook(lambda _, __, output: entering.append(output))
    steps = EPOCHS * (len(pixels) // BATCH_SIZE)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    order = torch.cat([torch.randperm(len(pixels), generator=generator) for _ in range(EPOCHS)])
    for step in tqdm(range(steps), f"training, seed {seed}", unit=" steps"):
        batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
        logits = network(augment(pixels[batch], generator))
        active = entering.pop().mean((2, 3)).sum(1).mean()
        loss = nn.functional.cross_entropy(logits, targets[batch]) + sparsity * min(1, step / (0.4 * steps)) * active
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.expand._forward_hooks.clear()
    return network.eval()


@torch.no_grad()
def accuracy(network, folder):
    """Share of the pictures in ``folder/val`` that are classified correctly."""
    pixels, targets = read_pictures(Path(folder) / "val")
    return (network(TRANSFORM.normalise(pixels, torch.device("cpu"))).argmax(1) == targets).float().mean().item()


def save_weights(network, path):
    """Write a network's weights in half precision."""
    half = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(half, buffer)
    write_bytes(Path(path), buffer.getvalue())


def top_pictures(split, rho, names, validation, count=9):
    """Rows for ``plots.pictures_figure``: what activates the channel and its parts most.

    Among the validation pictures of the split's concepts (called ``names``), by the activation summed over space.
    """
    colours = {output: DISENTANGLED[k][0] for k, concept in enumerate(split.concepts) for output in concept}
    pixels, targets = validation
    own = torch.isin(targets, torch.tensor(list(colours)))
    pixels, targets, network = pixels[own], targets[own].tolist(), demo_network().eval().requires_grad_(False)
    record = forward(network, network.last, TRANSFORM.normalise(pixels, torch.device("cpu")))
    sums = disentangled_sums(split, rho, tap_sums(network.last, record.input), positions=0)
    rows = {"original": merge(sums, dim=1)}
    rows |= {f"c'_{k}, for {name}": sums[:, k - 1] for k, name in enumerate(names, start=1)}
    return {
        label: [(pixels[i].numpy(), colours[targets[i]]) for i in values.argsort(descending=True)[:count].tolist()]
        for label, values in rows.items()
    }


def show(folder):
    """Draw a figure for every split that stage 4 has evaluated, and print a table of the fractions it has measured."""
    validation, weights = read_pictures(folder / "pictures" / "val"), fingerprint(demo_network())
    print(f"{'channel':>7}  {'concepts':22}{'mean fraction kept: own':>25}{'other':>14}   rho")
    for pair in PairResults(folder).read_all():
        if pair["run"] != "utils.demo-demo_network":
            continue
        if pair["weights_sha256"] != weights:
            raise UserError(f"{folder} holds results of other weights than {WEIGHTS.name}: delete the folder")
        path = split_path(folder / "store" / "models_disentangled", pair["run"], pair["channel"], pair["concepts"])
        (split, _), names, rho = read_split(path), pair["concept_names"], pair["rho"]
        title = f"Channel {split.channel}: what activates it most, and what activates its parts"
        count = sum(len(part["paths"]) for part in pair["images"])
        subtitle = f"of {count} validation pictures of {' and '.join(names)}"
        figure = pictures_figure(top_pictures(split, rho, names, validation), title, subtitle)
        write_figure(folder / "plots" / f"channel{split.channel}_{'_'.join(names)}_top_pictures", figure)
        means = [summarise(part["original"], part["sums"], part["included"]).mean for part in pair["images"]]
        own = " / ".join(f"{means[k][k]:.2f}" for k in range(len(names)))
        other = " / ".join(f"{np.mean([m[k] for j, m in enumerate(means) if j != k]):.2f}" for k in range(len(names)))
        print(f"{split.channel:7d}  {' / '.join(names):22}{own:>25}{other:>14}  {rho:.2f}")
    print("own: c'_1 on concept 1 / c'_2 on concept 2; other: c'_1 on concept 2 / c'_2 on concept 1 (ideal: 1 and 0)")
    print(f"figures: {folder / 'plots'}")


def get_args_parser():
    parser = command_line.Parser(__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("demo_output"),
        help="everything goes below it: pictures/, store/, plots/ ... (demo_output)",
    )
    parser.add_argument("--train", action="store_true", help=f"train the network again and replace {WEIGHTS.name}")
    parser.add_argument("--show", action="store_true", help="figures and a table of the pairs that have been split")
    parser.add_argument(
        "--pictures",
        type=command_line.positive_int,
        nargs=2,
        default=(100, 40),
        help="of each class, for training and validation (100 40)",
    )
    return parser


def main(args):
    if args.show:
        show(args.folder)
        return
    write_pictures(args.folder / "pictures", *args.pictures)
    print(f"pictures of {len(CONCEPTS)} concepts: {args.folder / 'pictures'}")
    if args.train:
        network = train(args.folder / "pictures")
        save_weights(network, WEIGHTS)
        print(f"{accuracy(network, args.folder / 'pictures'):.1%} of the validation pictures correct; wrote {WEIGHTS}")


if __name__ == "__main__":
    command_line.run(main, get_args_parser())
