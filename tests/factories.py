"""Small networks for the tests; also reached from the command line, as ``--model tests.factories:small``."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 60, 220), (210, 200, 50))


class Small(nn.Module):
    """Two convolutions behind each other and a linear classifier; the last one is the layer of interest.

    Its input has both signs, so that ARVs can point away from each other.
    """

    def __init__(self, last, num_outputs=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, last.in_channels, 3, stride=2, padding=1), nn.Tanh())
        self.last = last
        self.head = nn.Sequential(nn.BatchNorm2d(last.out_channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(last.out_channels, num_outputs)

    def forward(self, x):
        return self.classifier(self.head(self.last(self.stem(x))).flatten(1))


def make(*args, seed=0, num_outputs=4, **kwargs):
    """A frozen Small whose last convolution has these arguments; equal seeds make equal weights."""
    torch.manual_seed(seed)
    return Small(nn.Conv2d(*args, **kwargs), num_outputs).eval().requires_grad_(False)


def small(seed=17):
    """Tells images by the colours of the tests' classes; channel 9 serves bee and dog (cosine 0.04)."""
    network = make(8, 12, 1, bias=False, seed=seed)
    colours = (torch.tensor(COLOURS) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    flat = colours[:, :, None, None].expand(4, 3, 24, 24)
    prototypes = network.head(network.last(network.stem(flat))).flatten(1)
    network.classifier.weight.copy_(prototypes)
    network.classifier.bias.copy_(-prototypes.square().sum(1) / 2)
    return network


def other_weights():
    return small(seed=5)


def with_kernel():
    return make(8, 12, 3, padding=1, bias=True)


def grouped():
    return make(8, 12, 3, groups=2)


def of_a_thousand():
    return make(8, 12, 1, num_outputs=1000)


def not_a_module():
    return "no network"


class ReflectingConv2d(nn.Conv2d):
    """Pads by itself, which nothing in its attributes tells."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"))


def pads_by_itself():
    torch.manual_seed(0)
    return Small(ReflectingConv2d(8, 12, 3, bias=False)).eval()


def gives_nan():
    network = small()
    network.stem[0].weight.fill_(torch.nan)
    return network


class NanLater(Small):
    """Gives NaN for the first image of a batch, once it sees as many images as only stage 4 gives it."""

    def forward(self, x):
        x = self.stem(x)
        if len(x) == 3:
            x = torch.cat([x[:1] * torch.nan, x[1:]])
        return self.classifier(self.head(self.last(x)).flatten(1))


def nan_in_batches_of_three():
    network = NanLater(nn.Conv2d(8, 12, 1, bias=False)).eval()
    network.load_state_dict(small().state_dict())
    return network


class ChangesItsInput(Small):
    def forward(self, x):
        x = self.stem(x)
        x += self.last(x)
        return self.classifier(self.head(x).flatten(1))


def changes_its_input():
    torch.manual_seed(0)
    return ChangesItsInput(nn.Conv2d(12, 12, 1)).eval()


class Tokens(Small):
    """The same with a linear layer over tokens: with the weights of ``small``, it computes what that computes."""

    def forward(self, x):
        x = self.stem(x)
        x = self.last(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return self.classifier(self.head(x).flatten(1))


class Windows(Small):
    """The same with a linear layer over shifted windows of 3x3, one behind the other in the batch."""

    def forward(self, x):
        x = self.stem(x)
        parts = x.roll((-1, -1), (2, 3)).unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 4, 5, 1)
        parts = self.last(parts.reshape(-1, 9, x.shape[1])).unflatten(1, (3, 3)).unflatten(0, parts.shape[:3])
        whole = parts.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3).roll((1, 1), (2, 3))
        return self.classifier(self.head(whole).flatten(1))


class Vector(Small):
    """The same with a linear layer over one vector an image."""

    def forward(self, x):
        return self.classifier(self.head(self.last(self.stem(x).mean((2, 3)))[..., None, None]).flatten(1))


def with_linear(kind):
    network = kind(nn.Conv2d(8, 12, 1, bias=False))
    network.load_state_dict(small().state_dict())
    weight, network.last = network.last.weight, nn.Linear(8, 12, bias=False)
    network.last.weight.data.copy_(weight.flatten(1))
    return network.eval()


def tokens():
    return with_linear(Tokens)


def windows():
    return with_linear(Windows)


def vector():
    return with_linear(Vector)


class TwoHeads(nn.Module):
    """Two classifiers with a BatchNorm each, as some distilled networks have them."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Linear(8, 12)
        self.head, self.distilled = (nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 4)) for _ in range(2))

    def forward(self, x):
        x = self.last(self.stem(x).flatten(2).transpose(1, 2)).relu().mean(1)
        return (self.head(x) + self.distilled(x)) / 2


class LinearPatches(nn.Module):
    """A linear layer that sees the image itself, and a classifier."""

    def __init__(self):
        super().__init__()
        self.embed, self.classifier = nn.Linear(3 * 8 * 8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.classifier(self.embed(nn.functional.unfold(x, 8, stride=8).transpose(1, 2)).mean(1))


class WidthAware(nn.Conv2d):
    """Computes something else as soon as it has more output channels, as no split can allow for."""

    def forward(self, x):
        return super().forward(x) * (1 if len(self.weight) == 12 else 1.01)


def width_aware():
    network = small()
    last = WidthAware(8, 12, 1, bias=False)
    last.weight = network.last.weight
    network.last = last
    return network


class RowAware(nn.Conv2d):
    """Adds to its first channel wherever that is a part of the row that channel 0 had."""

    def forward(self, x):
        out, row = super().forward(x), self.weight[0]
        part = torch.equal(row, self.own_row.where(row != 0, 0)) and not torch.equal(row, self.own_row)
        return out + torch.eye(out.shape[1])[0, :, None, None] * part


def row_aware():
    network = small()
    last = RowAware(8, 12, 1, bias=False)
    last.weight = network.last.weight
    last.own_row = network.last.weight[0].clone()
    network.last = last
    return network


class ByKeyword(Small):
    def forward(self, x):
        return self.classifier(self.head(self.last(input=self.stem(x))).flatten(1))


def by_keyword():
    return ByKeyword(nn.Conv2d(8, 12, 1)).eval()


class Detached(Small):
    def forward(self, x):
        return super().forward(x).detach()


def detached():
    return Detached(nn.Conv2d(8, 12, 1)).eval()


def stops():
    raise SystemExit(0)


def without_parameters():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def normalises_over_the_batch():
    network = small()
    network.head[0] = nn.BatchNorm2d(12, track_running_stats=False)
    return network


class DropsOut(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class AddsNoise(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


def with_after_pooling(module):
    network = small()
    network.head.append(module)
    return network


def drops_out():
    return with_after_pooling(DropsOut())


def adds_noise():
    return with_after_pooling(AddsNoise())


def with_dropout():
    """Dropout that ``.eval()`` turns off; it comes in training mode."""
    return with_after_pooling(nn.Dropout(0.5)).train()


def always_eleven():
    """Twelve outputs, the last of which always wins."""
    network = make(8, 12, 1, num_outputs=12)
    network.classifier.bias[11] = 1000
    return network


class Mortal(Small):
    """The process whose number $VICTIM names is killed at its tenth pass, unless torchrun has started it again.

    Five passes come before its first chunk: two find the layer, three compare the logits of the first images. It waits
    for a file that matches $VICTIM_AFTER, which another thread writes.
    """

    passes = 0

    def forward(self, x):
        self.passes += 1
        names = ("RANK", "TORCHELASTIC_RESTART_COUNT")
        if self.passes == 10 and [os.environ.get(name) for name in names] == [os.environ.get("VICTIM"), "0"]:
            deadline = time.monotonic() + 60
            while not any(Path().glob(os.environ["VICTIM_AFTER"])) and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def mortal():
    network = Mortal(nn.Conv2d(8, 12, 1, bias=False))
    network.load_state_dict(small().state_dict())
    return network.eval()


class Held(Small):
    """Once a file matches $HOLD_AFTER, writes its process into the file $HOLD in its next pass, and stays there until
    it is killed."""

    def forward(self, x):
        if "HOLD" in os.environ and any(Path().glob(os.environ["HOLD_AFTER"])):
            Path(f"{os.environ['HOLD']}.new").write_text(str(os.getpid()))
            Path(f"{os.environ['HOLD']}.new").rename(os.environ["HOLD"])
            time.sleep(1200)  # returns only where nobody comes for it
        return super().forward(x)


def held():
    network = Held(nn.Conv2d(8, 12, 1, bias=False))
    network.load_state_dict(small().state_dict())
    return network.eval()


def paper_pairs():
    lines = (Path(__file__).parent.parent / "paper_pairs.txt").read_text().splitlines()[1:]
    return [tuple(map(int, line.replace(":", ",").split(","))) for line in lines]


def paper_colour(output):
    """A colour for each class of ImageNet; those of neighbours differ."""
    return tuple(30 + 65 * (output // base % 4) for base in (1, 4, 16))


def paper():
    """2048 channels and 1000 outputs; each channel of the paper's pairs is all that matters for its classes."""
    network = make(8, 2048, 1, bias=False, seed=3, num_outputs=1000)
    network.classifier.weight.fill_(0)
    network.head[0].bias.fill_(3)  # so that ReLU lets everything pass
    for channel in {pair[0] for pair in paper_pairs()}:
        classes = sorted({output for pair in paper_pairs() if pair[0] == channel for output in pair[1:]})
        colours = torch.tensor([paper_colour(output) for output in classes]) / 255
        normal = (colours - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        inputs = network.stem(normal[:, :, None, None].expand(-1, 3, 24, 24)).mean((2, 3))
        network.last.weight[channel] = (torch.linalg.pinv(inputs) @ torch.ones(len(classes)))[:, None, None]
        network.classifier.weight[classes, channel] = 1
    return network
