"""Feature visualisation: images that activate a channel as much as possible.

After Olah, Mordvintsev, Schubert: Feature Visualization, Distill 2017 (https://distill.pub/2017/feature-visualization).
An image is optimised as the Fourier spectrum of decorrelated colours, seen through random small transformations:
without these it turns into fine noise that only the network understands.
"""

import math

import torch
from torch.nn import functional as F
from torchvision.transforms import functional as TF
from tqdm import tqdm

from utils.defaults import VISUALIZATION_SEEDS, VISUALIZATION_STEPS
from utils.errors import UserError
from utils.networks.recording import layer_input

BATCH_SIZE = 12  # images in memory at a time
LEARNING_RATE, START_SCALE = 0.05, 0.01
SPECTRAL_DECAY = 1.5  # natural images have 1; more makes large forms come first
ROTATION, ZOOM, SHIFT = 20, 0.25, 0.07  # at most: degrees, factor beside 1, share of the side

# Square root of the covariance of ImageNet's colours: axes in columns, of which the longest has length 1. From Lucid.
COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
COLOURS /= COLOURS.norm(dim=0).max()


def maximise_activation(
    network,
    layer,
    rows,
    biases,
    transform,
    *,
    device,
    seeds=VISUALIZATION_SEEDS,
    steps=VISUALIZATION_STEPS,
    description="feature visualization",
):
    """Images that maximise the spatial mean of channels computed from a layer's input.

    Every channel starts from the same noise, and is seen through the same transformations, under the same seed, so
    that what differs between channels is due to them. The images do not depend on the scale of a channel. One that
    no image can change leaves the noise it started from, which is nearly grey.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen, on ``device``.
    layer : Layer of ``network``
    rows : Tensor [N, C_in, taps]
        The channels, as weights for the layer's input.
    biases : Tensor [N] or None
    transform : Transform
        Its ``crop_size`` is the side of the images, its ``mean`` and ``std`` normalise them.
    device : torch.device
    seeds : int
        Images a channel: seeds 0, 1, ... On the CPU equal seeds make equal images; on CUDA rounding differs from run
        to run, because the gradient of resampling is summed in no fixed order.
    steps : int
    description : str
        Of the progress bar.

    Returns
    -------
    uint8 Tensor [N, seeds, crop_size, crop_size, 3], on the CPU

    Raises
    ------
    UserError
        The layer's input has no gradient towards the image, or one that is not finite.
    """
    maps = layer.maps(rows, biases)
    wanted = [(channel, seed) for channel in range(len(rows)) for seed in range(seeds)]
    batches = [wanted[start : start + BATCH_SIZE] for start in range(0, len(wanted), BATCH_SIZE)]
    with tqdm(total=steps * len(batches), desc=description, unit=" steps") as bar, torch.enable_grad():

        def optimise(batch):
            own = torch.tensor([channel for channel, _ in batch], device=device)[:, None]
            generators = [torch.Generator().manual_seed(seed) for _, seed in batch]
            spectra = random_spectra(transform.crop_size, generators).to(device).requires_grad_()
            # far below any gradient, so that weak channels are followed as strong ones are
            optimiser = torch.optim.Adam([spectra], LEARNING_RATE, eps=1e-30)
            for _ in range(steps):
                images = transformed(pixels(spectra, transform.crop_size), generators)
                images = TF.normalize(images, transform.mean, transform.std)
                activations = maps(layer_input(network, layer.module, images))
                spectra.grad = _gradient(-activations.mean(-1).gather(1, own).sum(), spectra)
                optimiser.step()
                bar.update()
            return pixels(spectra.detach(), transform.crop_size)

        images = torch.cat([optimise(batch) for batch in batches])
    return images.mul(255).round().byte().permute(0, 2, 3, 1).unflatten(0, (len(rows), seeds)).cpu()


@torch.no_grad()
def reached_activation(network, layer, rows, biases, pictures, transform, *, device):
    """The spatial mean that each channel has in the images made for it, seen as they are.

    Parameters as for ``maximise_activation``; ``pictures`` is what that returns.

    Returns
    -------
    Tensor [N, seeds], on the CPU
    """
    maps = layer.maps(rows, biases)
    inputs = (layer_input(network, layer.module, transform.normalise(own, device)) for own in pictures)
    return torch.stack([maps(x)[:, channel].mean(-1).cpu() for channel, x in enumerate(inputs)])


def random_spectra(size, generators):
    """A spectrum of weak noise from each generator: [B, 3, size, size // 2 + 1, 2], real and imaginary parts last."""
    noise = [torch.randn(3, size, size // 2 + 1, 2, generator=generator) for generator in generators]
    return START_SCALE * torch.stack(noise)


def pixels(spectra, size):
    """The images of spectra of decorrelated colours.

    A coefficient at k cycles an image stands for a wave of ``k ** -SPECTRAL_DECAY`` times its amplitude (the mean for
    one of k = 1): steps of one size in all coefficients change an image as natural images differ, in large forms.

    Parameters
    ----------
    spectra : Tensor [B, 3, size, size // 2 + 1, 2]
    size : int

    Returns
    -------
    Tensor [B, 3, size, size], red, green and blue in 0..1
    """
    rows, columns = (f(size, 1 / size, device=spectra.device) for f in (torch.fft.fftfreq, torch.fft.rfftfreq))
    weights = torch.hypot(rows[:, None], columns).clamp(min=1) ** -SPECTRAL_DECAY
    waves = torch.fft.irfft2(torch.view_as_complex(spectra) * weights, s=(size, size), norm="forward")
    return torch.sigmoid(torch.einsum("rc,bchw->brhw", COLOURS.to(waves), waves))


def transformed(images, generators):
    """Rotate, zoom and shift each image ``[B, 3, H, W]`` a little, at random, mirrored beyond its borders."""
    random = torch.stack([torch.rand(4, generator=generator) for generator in generators]).to(images) * 2 - 1
    angle, zoom, right, down = (random * random.new_tensor([math.radians(ROTATION), ZOOM, 2 * SHIFT, 2 * SHIFT])).T
    cos, sin = (1 + zoom) * angle.cos(), (1 + zoom) * angle.sin()
    matrices = torch.stack([cos, -sin, right, sin, cos, down], dim=1).unflatten(1, (2, 3))
    grid = F.affine_grid(matrices, images.shape, align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _gradient(loss, spectra):
    if not loss.requires_grad:
        raise UserError("feature visualization: the network forbids gradients before the layer of interest")
    (gradient,) = torch.autograd.grad(loss, spectra)
    if not gradient.isfinite().all():
        raise UserError("feature visualization: the gradient of the channels is not finite (overflow in the network?)")
    return gradient
