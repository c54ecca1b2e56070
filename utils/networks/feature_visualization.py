"""Feature visualisation: images that activate a channel as much as possible.

After Olah, Mordvintsev, Schubert: Feature Visualization, Distill 2017 (https://distill.pub/2017/feature-visualization).
An image is optimised as the Fourier spectrum of decorrelated colours, seen through small random transformations.
Without these transformations it becomes fine noise to which only the network responds.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.defaults import VISUALIZATION_SEEDS, VISUALIZATION_STEPS
from utils.errors import UserError
from utils.images.transform import Transform
from utils.networks.arithmetic import fastest_memory_format, upload
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import layer_input
from utils.processes import progress

BATCH_SIZE = 12  # images in memory at a time
CHECKED_STEPS = 16  # after as many, overflow is looked for
LEARNING_RATE = 0.05
START_SCALE = 0.01
SPECTRAL_DECAY = 1.5  # natural images have 1; with more, large forms appear first
ROTATION = 20  # degrees at most
ZOOM = 0.25  # the factor is 1 plus or minus at most this
SHIFT = 0.07  # share of the side at most

# Square root of the covariance of ImageNet's colours: axes in columns, of which the longest has length 1. From Lucid.
COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOURS /= COLOURS.norm(dim=0).max()


def maximise_activation(
    network: OpenedNetwork,
    rows: Tensor,
    biases: Tensor | None,
    transform: Transform,
    *,
    seeds: int = VISUALIZATION_SEEDS,
    steps: int = VISUALIZATION_STEPS,
    description: str = "feature visualization",
) -> Tensor:
    """Images that maximise the spatial mean of channels computed from a layer's input.

    Under the same seed every channel starts from the same noise, and is seen through the same transformations, so that
    differences between channels are due to them. The images do not depend on the scale of a channel. For a channel that
    no image can change, the image stays the noise it started from, which is nearly grey.

    Parameters
    ----------
    network : OpenedNetwork
    rows : Tensor [N, C_in, taps]
        The channels, as weights for the input of the layer of interest.
    biases : Tensor [N] or None
    transform : Transform
        Its ``crop_size`` is the side of the images, its ``mean`` and ``std`` normalise them.
    seeds : int
        Images a channel: seeds 0, 1, ... On the CPU equal seeds make equal images; on CUDA rounding differs from run
        to run, because the gradient of resampling is summed in no fixed order.
    steps : int
    description : str
        Text of the progress bar.

    Returns
    -------
    uint8 Tensor [N, seeds, crop_size, crop_size, 3], on the CPU

    Raises
    ------
    UserError
        The layer's input has no gradient towards the image, or one that is not finite.
    """
    maps = network.layer.maps(rows, biases)
    wanted = [(channel, seed) for channel in range(len(rows)) for seed in range(seeds)]
    batches = [wanted[start : start + BATCH_SIZE] for start in range(0, len(wanted), BATCH_SIZE)]
    colours = COLOURS.to(network.device)
    mean, std = torch.tensor([transform.mean, transform.std], device=network.device)[..., None, None]
    memory_format = fastest_memory_format(network.precision, network.device)
    with progress(total=steps * len(batches), desc=description, unit=" steps") as bar, torch.enable_grad():

        def optimise(batch: list[tuple[int, int]]) -> Tensor:
            """The images of a batch; the device is waited for every ``CHECKED_STEPS`` steps."""
            channels = torch.tensor([channel for channel, _ in batch], device=network.device)[:, None]
            generators = [torch.Generator().manual_seed(seed) for _, seed in batch]
            spectra = random_spectra(transform.crop_size, generators).to(network.device).requires_grad_()
            views = upload(random_views(generators, steps), network.device)
            # eps is far below any gradient, so that weak channels are followed as strong ones are
            optimiser = torch.optim.Adam([spectra], LEARNING_RATE, eps=1e-30)
            finite = torch.ones((), dtype=torch.bool, device=network.device)
            for step, view in enumerate(views, start=1):
                images = transformed(pixels(spectra, transform.crop_size, colours), view)
                images = images.sub(mean).div(std).contiguous(memory_format=memory_format)
                activations = maps(layer_input(network.module, network.layer.module, images))
                spectra.grad = _gradient(-activations.mean(-1).gather(1, channels).sum(), spectra)
                finite &= spectra.grad.isfinite().all()
                optimiser.step()
                if step % CHECKED_STEPS == 0 or step == steps:
                    _require_finite(finite)
                bar.update()
            return pixels(spectra.detach(), transform.crop_size, colours)

        images = torch.cat([optimise(batch) for batch in batches])
    return images.mul(255).round().byte().permute(0, 2, 3, 1).unflatten(0, (len(rows), seeds)).cpu()


@torch.no_grad()
def reached_activation(
    network: OpenedNetwork, rows: Tensor, biases: Tensor | None, pictures: Tensor, transform: Transform
) -> Tensor:
    """The spatial mean that each channel has in the images made for it, without random transformations.

    Parameters as for ``maximise_activation``; ``pictures`` is its result.

    Returns
    -------
    Tensor [N, seeds], on the CPU
    """
    maps = network.layer.maps(rows, biases)
    inputs = (
        layer_input(network.module, network.layer.module, transform.normalise(pictures_of_channel, network.device))
        for pictures_of_channel in pictures
    )
    return torch.stack([maps(x)[:, channel].mean(-1).cpu() for channel, x in enumerate(inputs)])


def random_spectra(size: int, generators: Sequence[torch.Generator]) -> Tensor:
    """A spectrum of weak noise from each generator: [B, 3, size, size // 2 + 1, 2], real and imaginary parts last."""
    noise = [torch.randn(3, size, size // 2 + 1, 2, generator=generator) for generator in generators]
    return START_SCALE * torch.stack(noise)


def pixels(spectra: Tensor, size: int, colours: Tensor = COLOURS) -> Tensor:
    """The images of spectra of decorrelated colours.

    A coefficient at k cycles an image stands for a wave of ``k ** -SPECTRAL_DECAY`` times its amplitude (the mean
    counts as k = 1). So equal steps in all coefficients change an image as natural images differ, in large forms.

    Parameters
    ----------
    spectra : Tensor [B, 3, size, size // 2 + 1, 2]
    size : int
    colours : Tensor [3, 3]
        ``COLOURS`` on the device of the spectra.

    Returns
    -------
    Tensor [B, 3, size, size], red, green and blue in 0..1
    """
    rows = torch.fft.fftfreq(size, 1 / size, device=spectra.device)
    columns = torch.fft.rfftfreq(size, 1 / size, device=spectra.device)
    weights = torch.hypot(rows[:, None], columns).clamp(min=1) ** -SPECTRAL_DECAY
    waves = torch.fft.irfft2(torch.view_as_complex(spectra) * weights, s=(size, size), norm="forward")
    return torch.sigmoid(torch.einsum("rc,bchw->brhw", colours, waves))


def random_views(generators: Sequence[torch.Generator], number: int) -> Tensor:
    """Random views from each generator, [number, B, 4]: rotation, zoom, and shifts to the right and down."""
    random = torch.stack([torch.rand(number, 4, generator=generator) for generator in generators], dim=1) * 2 - 1
    return random * torch.tensor([math.radians(ROTATION), ZOOM, 2 * SHIFT, 2 * SHIFT])


def transformed(images: Tensor, view: Tensor) -> Tensor:
    """Rotate, zoom and shift each image ``[B, 3, H, W]`` as its view [B, 4] says, mirrored beyond its borders."""
    angle, zoom, right, down = view.T
    cos = (1 + zoom) * angle.cos()
    sin = (1 + zoom) * angle.sin()
    matrices = torch.stack([cos, -sin, right, sin, cos, down], dim=1).unflatten(1, (2, 3))
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _gradient(loss: Tensor, spectra: Tensor) -> Tensor:
    if not loss.requires_grad:
        raise UserError("feature visualization: the network forbids gradients before the layer of interest")
    (gradient,) = torch.autograd.grad(loss, spectra)
    return gradient


def _require_finite(finite: Tensor) -> None:
    if not finite:
        raise UserError("feature visualization: the gradient of the channels is not finite (overflow in the network?)")
