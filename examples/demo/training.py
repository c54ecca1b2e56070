"""A demonstration that needs no download: pictures drawn by code, and a network whose channels are polysemantic.

    python -m examples.demo demo_output            draw the pictures: 100 a class for training, 40 for validation
    python -m examples.demo demo_output --train    make the weights again, from nothing (half a minute on 2 cores)
    python -m examples.demo demo_output --show     figures and a table of what has been split

``demo.sh`` runs the four scripts on them, with ``--model examples.demo:demo_network``.
"""

import io
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from examples.demo.network import TRANSFORM, DemoNetwork
from examples.demo.pictures import CONCEPTS
from utils.images.folders import list_images
from utils.store.files import write_bytes

EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 20, 64, 4e-3, 1e-2
SPARSITY = 0.05
THREADS = 2  # their number changes the order of sums, and so the weights


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


def train(folder, seed=0, sparsity=SPARSITY, make=DemoNetwork, epochs=EPOCHS):
    """Train a network from nothing on ``folder/train``; return it in evaluation mode.

    The loss is cross-entropy and, ramped up over the first 40 % of training, ``sparsity`` times what enters the last
    layer, the output of ``expand`` (mean over images of the sum over channels of the mean over positions). Where few
    inputs are active for a class, the classes of a channel use different ones.
    """
    with _own_arithmetic(seed):
        return _trained(Path(folder) / "train", seed, sparsity, make, epochs)


@contextmanager
def _own_arithmetic(seed):
    """What training sets for the whole process, for as long as it lasts."""
    threads, flushed = torch.get_num_threads(), (torch.tensor(1e-39) * 1).item() == 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        torch.set_flush_denormal(True)  # sparse activations end in denormal numbers, which are slow by a factor of ten
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(flushed)


def _trained(folder, seed, sparsity, make, epochs):
    generator = torch.Generator().manual_seed(seed)
    pixels, targets = read_pictures(folder)
    network = make().to(memory_format=torch.channels_last)
    entering = []
    network.expand.register_forward_hook(lambda _, __, output: entering.append(output))
    steps = epochs * (len(pixels) // BATCH_SIZE)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    order = torch.cat([torch.randperm(len(pixels), generator=generator) for _ in range(epochs)])
    for step in tqdm(range(steps), f"training, seed {seed}", unit=" steps"):
        batch = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
        logits = network(augment(pixels[batch], generator))
        entered = entering.pop()  # channels, or tokens, come after the images
        active = (entered.mean((2, 3)) if entered.ndim == 4 else entered.mean(1)).sum(1).mean()
        loss = nn.functional.cross_entropy(logits, targets[batch]) + sparsity * min(1, step / (0.4 * steps)) * active
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.expand._forward_hooks.clear()
    return network.eval()


@torch.no_grad()
def classify(network, pixels):
    """The classes that a network gives to pictures, uint8 [n, 64, 64, 3] -> [n]."""
    batches = [TRANSFORM.normalise(batch, torch.device("cpu")) for batch in pixels.split(256)]
    return torch.cat([network(batch).argmax(1) for batch in batches])


def accuracy(network, folder):
    """Share of the pictures in ``folder/val`` that are classified correctly."""
    pixels, targets = read_pictures(Path(folder) / "val")
    return (classify(network, pixels) == targets).float().mean().item()


def save_weights(network, path):
    """Write a network's weights in half precision."""
    half = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(half, buffer)
    write_bytes(Path(path), buffer.getvalue())
