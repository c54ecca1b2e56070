"""Layers of each kind and shape that can be split, and slow twins of what the normal form says of them.

``tests/networks/test_normal_form.py`` runs every formula on every entry of ``LAYERS``. Another kind of layer is one
more file of ``utils/networks`` and more entries here, with a twin of ``convolution_windows`` of its own.
"""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig

from tests import factories
from utils.networks.layers import Convolution, Layer, Linear

# Middles of so many equal parts of a side
HALVES, THIRDS = (1 / 4, 3 / 4), (1 / 6, 3 / 6, 5 / 6)
QUARTERS, SIXTHS = (1 / 8, 3 / 8, 5 / 8, 7 / 8), (1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12)
EIGHTHS = (1 / 16, 3 / 16, 5 / 16, 7 / 16, 9 / 16, 11 / 16, 13 / 16, 15 / 16)
IMAGE_SIZE = 12


@dataclass(frozen=True)
class Case:
    """A layer of a small frozen network, and what is known of it without the code that is tested.

    ``make`` makes the network, in which ``layer`` is the layer's name and ``kind`` its class. ``windows`` is a function
    of the layer's input that returns what each tap sees at each position, float64 [B, C_in, taps, positions], 0 in the
    padding; ``weight_of`` one of the module that returns its weight, [C, C_in, taps], ``output_at`` one of its output
    and a position's number that returns all channels there, [B, C]. ``places`` are the positions' places by hand, None
    where they lie nowhere; ``rows_per_image`` is the number of rows of the layer's input that are of one image.
    """

    name: str
    kind: type[Layer]
    make: Callable
    layer: str
    windows: Callable
    weight_of: Callable
    output_at: Callable
    num_positions: int
    places: tuple | None
    map_size: tuple | None
    channel_dim: int
    rows_per_image: int = 1

    def of_images(self, x, which):
        """The rows of some images in the layer's input."""
        return torch.cat([x.split(self.rows_per_image)[image] for image in torch.arange(6)[which]])


def images(count=6):
    """Inputs of the networks, with their targets: every class has an image, no two as many."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator), torch.tensor([0, 1, 2, 1, 2, 2])


def passed_through(case, network, pixels, targets):
    """By plain autograd through the network, in float64: the layer's input, activation, gradient and the logits.

    What is added to the layer's output is 0; its gradient is that of the output, whatever changes that in place.
    """
    network, kept = copy.deepcopy(network).double(), {}

    def add_nothing(_, inputs, output):
        kept["input"], kept["activation"] = inputs[0].detach().clone(), output.detach().clone()
        kept["added"] = torch.zeros_like(output, requires_grad=True)
        return output + kept["added"]

    network.get_submodule(case.layer).register_forward_hook(add_nothing)
    logits = network(pixels.double().requires_grad_())
    own = [logits[image, target] for image, target in enumerate(targets.tolist())]
    torch.stack(own).sum().backward()
    return kept["input"], kept["activation"], kept["added"].grad, logits.detach()


def by_position(case, output):
    """An output of the layer, position by position: [B, C, positions]."""
    return torch.stack([case.output_at(output, position) for position in range(case.num_positions)], dim=-1)


def maps_of(case, x, rows, biases):
    """What rows of weights make of the layer's input, from what each tap sees: float64 [B, R, positions]."""
    windows = case.windows(x)
    maps = torch.zeros(len(windows), len(rows), windows.shape[3], dtype=torch.float64)
    for row, weight in enumerate(rows.double()):
        for tap in range(weight.shape[1]):
            for i in range(weight.shape[0]):
                maps[:, row] += weight[i, tap] * windows[:, i, tap]
        maps[:, row] += 0 if biases is None else biases[row].double()
    return maps


def convolution_windows(x, map_size, kernel, stride, dilation, corner):
    """What each tap of a kernel sees, position by position; ``corner`` is the padding above and at the left."""
    taps, places = (list(itertools.product(*map(range, sides))) for sides in (kernel, map_size))
    seen = torch.zeros(len(x), x.shape[1], len(taps), len(places), dtype=torch.float64)
    for (tap, offsets), (position, place) in itertools.product(enumerate(taps), enumerate(places)):
        row, column = (
            step * at + gap * offset - before
            for step, at, gap, offset, before in zip(stride, place, dilation, offsets, corner, strict=True)
        )
        if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
            seen[:, :, tap, position] = x[:, :, row, column].double()
    return seen


def convolution(name, rows, columns, *, corner=(0, 0), make=None, layer="last", **options):
    """An entry for a convolution of 5 channels of 6x6 to 6 channels (or of the network that ``make`` makes).

    ``rows`` and ``columns`` of its output by hand, ``options`` as ``nn.Conv2d`` takes them.
    """

    def pair(value):
        return value if isinstance(value, tuple) else (value, value)

    shape = {name: pair(options.get(name, 1)) for name in ("stride", "dilation")}
    kernel, map_size = pair(options["kernel_size"]), (len(rows), len(columns))
    return Case(
        name=name,
        kind=Convolution,
        make=make or (lambda: factories.make(5, 6, **options)),
        layer=layer,
        windows=lambda x: convolution_windows(x, map_size, kernel, corner=corner, **shape),
        weight_of=lambda module: torch.stack(
            [module.weight[:, :, u, v] for u, v in itertools.product(*map(range, kernel))], dim=2
        ),
        output_at=lambda output, position: output[:, :, position // len(columns), position % len(columns)],
        num_positions=len(rows) * len(columns),
        places=tuple(itertools.product(rows, columns)),
        map_size=map_size,
        channel_dim=1,
    )


def before_an_in_place_relu():
    network = factories.make(5, 6, 3)
    network.head[0] = nn.Identity()  # else a normalisation is between them
    return network


class OverTokens(nn.Module):
    """A linear layer of 5 channels to 6, over what ``arrange`` makes of a channels-last map of 6x6, and a classifier.

    ``arrange`` keeps the images in the first dimension, in whatever number of rows each.
    """

    def __init__(self, arrange, bias=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Tanh())
        self.norm, self.arrange = nn.LayerNorm(5), arrange
        self.last, self.relu, self.classifier = nn.Linear(5, 6, bias), nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, x):
        tokens = self.relu(self.last(self.arrange(self.norm(self.stem(x).movedim(1, -1)))))
        return self.classifier(tokens.reshape(len(x), -1, 6).mean(1))


def linear(name, arrange, places, *, tokens=(), rows_per_image=1, map_size=(6, 6), **options):
    """An entry for a linear layer over tokens; ``tokens`` are the dimensions between rows and channels."""
    of_row = list(itertools.product(*map(range, tokens)))
    spots = [(row, *token) for row in range(rows_per_image) for token in of_row]

    def make():
        torch.manual_seed(0)
        return OverTokens(arrange, **options).eval().requires_grad_(False)

    def windows(x):
        images = range(len(x) // rows_per_image)
        rows = [[x[image * rows_per_image + row][tuple(token)] for row, *token in spots] for image in images]
        return torch.stack([torch.stack(one, dim=-1) for one in rows]).double()[:, :, None]

    return Case(
        name=name,
        kind=Linear,
        make=make,
        layer="last",
        windows=windows,
        weight_of=lambda module: torch.stack([module.weight], dim=2),
        output_at=lambda output, position: output[spots[position][0] :: rows_per_image][
            (slice(None), *spots[position][1:])
        ],
        num_positions=len(spots),
        places=places,
        map_size=None if places is None else map_size,
        channel_dim=-1,
        rows_per_image=rows_per_image,
    )


def in_windows(size, shift=0):
    """As shifted windows are made of a channels-last map (Swin): roll, pad, cut, one behind the other."""

    def arrange(x):
        x = x.roll((-shift, -shift), (1, 2))
        x = nn.functional.pad(x, (0, 0, 0, -6 % size, 0, -6 % size))
        return x.unfold(1, size, size).unfold(2, size, size).permute(0, 1, 2, 4, 5, 3).reshape(-1, size * size, 5)

    return arrange


def window_places(size, shift=0):
    """Places of the positions of ``in_windows``, window by window; nowhere for padding."""
    corners = range(0, 6, size)
    rolled = [(top + row, left + column) for top in corners for left in corners
              for row in range(size) for column in range(size)]  # fmt: skip
    return tuple(
        (SIXTHS[(row + shift) % 6], SIXTHS[(column + shift) % 6]) if max(row, column) < 6 else NOWHERE
        for row, column in rolled
    )


def behind_a_class_token(x):
    return torch.cat([torch.linspace(-1, 1, 5).expand(len(x), 1, 5), x.flatten(1, 2)], dim=1)


NOWHERE = (torch.nan, torch.nan)
GRID = tuple(itertools.product(SIXTHS, SIXTHS))
LAYERS = [
    convolution("1x1", SIXTHS, SIXTHS, kernel_size=1, bias=False),
    convolution("1x1 biased", SIXTHS, SIXTHS, kernel_size=1),
    convolution("3x3", QUARTERS, QUARTERS, kernel_size=3, bias=False),
    convolution("3x3 biased", QUARTERS, QUARTERS, kernel_size=3),
    convolution("strided", HALVES, QUARTERS, kernel_size=3, stride=(2, 1)),
    convolution("dilated", HALVES, QUARTERS, kernel_size=3, dilation=(2, 1)),
    convolution("padded", EIGHTHS, SIXTHS, kernel_size=3, padding=(2, 1), corner=(2, 1)),
    convolution("padding valid", THIRDS, QUARTERS, kernel_size=(4, 3), padding="valid"),
    convolution("padding same", SIXTHS, SIXTHS, kernel_size=(2, 3), padding="same", corner=(0, 1), bias=False),
    convolution(
        "padding same dilated", SIXTHS, SIXTHS, kernel_size=(2, 4), dilation=(3, 1), padding="same", corner=(1, 1)
    ),
    convolution("asymmetric", SIXTHS, THIRDS, kernel_size=(1, 4)),
    convolution(
        "everything",
        THIRDS,
        THIRDS,
        **{"kernel_size": (3, 2), "stride": (2, 3), "dilation": (1, 2), "padding": (1, 2), "corner": (1, 2)},
    ),
    convolution("before an in-place ReLU", QUARTERS, QUARTERS, kernel_size=3, make=before_an_in_place_relu),
    convolution(
        "in the middle of a network",
        SIXTHS,
        SIXTHS,
        **{"kernel_size": 3, "stride": 2, "corner": (1, 1), "make": lambda: factories.make(6, 6, 3), "layer": "stem.0"},
    ),
    linear("vector", lambda x: x.mean((1, 2)), None),
    linear("tokens", lambda x: x.flatten(1, 2), GRID, tokens=(36,), bias=False),
    linear("tokens and a class token", behind_a_class_token, (NOWHERE, *GRID), tokens=(37,)),
    linear("tokens in no known order", lambda x: x.flatten(1, 2)[:, :32], None, tokens=(32,)),
    linear("channels-last map", lambda x: x, GRID, tokens=(6, 6)),
    linear("shifted windows", in_windows(3, 1), window_places(3, 1), tokens=(9,), rows_per_image=4),
    linear("padded windows", in_windows(4, 2), window_places(4, 2), tokens=(16,), rows_per_image=4),
    linear("tokens of all images in a row", lambda x: x.reshape(-1, 5), GRID, rows_per_image=36),
]


def vision_transformer():
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    return torchvision.models.VisionTransformer(**sizes, num_classes=10).eval()


def small_convnext():
    blocks = [CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 2)]
    return torchvision.models.ConvNeXt(blocks, num_classes=10).eval()


def small_swin():
    return torchvision.models.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [3, 3], num_classes=10).eval()
