"""Feature visualisation on networks whose answer is known."""

import math

import pytest
import torch
from torch import nn

from tests import factories
from tests.helpers import as_layer
from utils.errors import UserError
from utils.images.transform import Transform
from utils.method.disentangling import disentangled_rows, shares_of_owners
from utils.networks import feature_visualization as visualization
from utils.networks.feature_visualization import (
    maximise_activation,
    pixels,
    random_spectra,
    random_views,
    reached_activation,
    transformed,
)
from utils.networks.layers import layer_of
from utils.networks.opened_network import OpenedNetwork

CPU = torch.device("cpu")
SIZE = 16
TRANSFORM = Transform(SIZE, SIZE)


class Colours(nn.Module):
    """A layer whose four channels are red, green, blue, and red + green of the image."""

    def __init__(self):
        super().__init__()
        self.before, self.layer = nn.Identity(), nn.Conv2d(3, 4, 1, bias=False)
        self.layer.weight.data[..., 0, 0] = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
        self.eval().requires_grad_(False)

    def forward(self, x):
        return self.layer(self.before(x)).mean((2, 3))


def all_channels(layer, scale=1):
    return scale * as_layer(layer).weight, None


def maximise(network, layer, channels=None, transform=TRANSFORM, seeds=1, steps=30):
    channels = all_channels(layer) if channels is None else channels
    opened = OpenedNetwork(network, as_layer(layer), "fp32")
    return maximise_activation(opened, *channels, transform, seeds=seeds, steps=steps)


def means(network, layer, images, transform=TRANSFORM):
    """Spatial means of all channels of the layer, for uint8 images [..., H, W, 3]: [images, C]."""
    outputs = []
    handle = layer.register_forward_hook(lambda _, __, output: outputs.append(output.mean((2, 3))))
    network(transform.normalise(images.flatten(0, -4), CPU))
    handle.remove()
    return outputs[0]


@pytest.fixture
def colours():
    return Colours()


def test_each_image_is_of_what_its_channel_responds_to(colours):
    images = maximise(colours, colours.layer, steps=60)[:, 0].float()
    red, green, blue, yellow = images.mean((1, 2))
    assert red.argmax() == 0 and green.argmax() == 1 and blue.argmax() == 2 and yellow.argmin() == 2
    assert red[0] > 200 and green[1] > 200 and blue[2] > 200 and yellow[:2].min() > 200


def test_the_parts_of_a_sum_show_what_each_is_for(colours):
    """The channel red + green, split into red and green as ``disentangled_rows`` does it."""
    weight = as_layer(colours.layer).weight[3]
    rows = torch.cat([weight[None], disentangled_rows(weight, shares_of_owners(torch.tensor([1, 2, 0]), 2))[:-1]])
    images = maximise(colours, colours.layer, (rows, None), steps=60)[:, 0]
    original, red, green = images.float().mean((1, 2)).diff()[:, 0].tolist()  # green minus red
    assert abs(original) < 5 and red < -10 and green > 10


@pytest.mark.parametrize(
    "make", [factories.small, factories.with_kernel, factories.changes_its_input, factories.pads_by_itself]
)
@pytest.mark.parametrize("size", [16, 21])
def test_activations_rise_far_above_those_of_the_start(make, size):
    network, transform = make().requires_grad_(False), Transform(size, size)
    channels = as_layer(network.last).weight, network.last.bias
    start, images = (maximise(network, network.last, channels, transform, seeds=2, steps=n) for n in (0, 40))
    assert images.shape == (12, 2, size, size, 3) and images.dtype == torch.uint8
    before, after = (means(network, network.last, i, transform).unflatten(0, (12, 2)) for i in (start, images))
    spread = before.std((0, 1))
    for channel in range(12):
        assert (after[channel, :, channel] > before[channel, :, channel] + 3 * spread[channel]).all()
        of_all = after[:, :, channel].mean(1)
        assert of_all[channel] >= of_all.quantile(0.75)


def test_the_mean_over_all_positions_counts(colours):
    """One that looked at the centre or the maximum alone would leave the borders as they are."""
    image = maximise(colours, colours.layer, steps=60)[0, 0].float()
    borders = torch.stack([image[0], image[-1], image[:, 0], image[:, -1]])
    assert borders[..., 0].mean(1).min() > 150


def test_equal_seeds_make_equal_images_and_others_do_not():
    network = factories.small()
    images = maximise(network, network.last, seeds=3)
    assert images.equal(maximise(network, network.last, seeds=3))
    assert not images[:, 0].equal(images[:, 1]) and not images[:, 1].equal(images[:, 2])
    fewer = maximise(network, network.last, seeds=1)[:, 0]
    assert (images[:, 0].float() - fewer).abs().mean() < 2  # sums of other batch sizes are rounded otherwise


def test_channels_share_the_start_and_the_transformations_of_a_seed(colours):
    same = as_layer(colours.layer).weight[[0, 0]], None
    first, second = maximise(colours, colours.layer, same, seeds=2)
    assert first.equal(second)
    start = maximise(colours, colours.layer, seeds=2, steps=0)
    assert start[0].equal(start[1]) and not start[0, 0].equal(start[0, 1])


def test_batches_do_not_matter(colours, monkeypatch):
    images = maximise(colours, colours.layer, seeds=2)
    monkeypatch.setattr(visualization, "BATCH_SIZE", 3)
    sizes = []
    colours.before.register_forward_hook(lambda _, __, output: sizes.append(len(output)))
    assert (maximise(colours, colours.layer, seeds=2).float() - images).abs().max() < 3
    assert set(sizes) == {3, 2} and len(sizes) == 3 * 30


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_a_channel_does_not_matter(colours, scale):
    images = maximise(colours, colours.layer).float()
    scaled = maximise(colours, colours.layer, all_channels(colours.layer, scale)).float()
    assert (scaled - images).abs().mean() < 2


def test_global_random_state_gradients_and_hooks_are_left_alone(colours):
    colours.layer.weight.requires_grad_()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    images = maximise(colours, colours.layer)
    assert torch.rand(3).equal(expected)
    torch.manual_seed(6)
    assert maximise(colours, colours.layer).equal(images)
    assert colours.layer.weight.grad is None and not colours.layer._forward_pre_hooks
    with torch.no_grad():
        assert maximise(colours, colours.layer).equal(images)


def test_the_images_are_normalised(colours):
    seen = []
    colours.before.register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    for transform in (Transform(SIZE, SIZE, mean=(0,) * 3, std=(1,) * 3), Transform(SIZE, SIZE, mean=mean, std=std)):
        maximise(colours, colours.layer, transform=transform, steps=1)
    torch.testing.assert_close(
        seen[1], (seen[0] - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    )
    assert seen[0].min() >= 0 and seen[0].max() <= 1


def infinite_gradient(network):
    network.before.register_forward_hook(lambda _, __, output: (output - output).sqrt())


def not_a_number(network):
    network.layer.weight.fill_(torch.nan)


def no_gradient(network):
    network.before.register_forward_hook(lambda _, __, output: output.detach())


def never_reached(network):
    network.forward = lambda x: x.mean((2, 3))


def broken(network):
    def fail(*_):
        raise RuntimeError("somebody else's")

    network.before.register_forward_hook(fail)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (infinite_gradient, UserError, "not finite"),
        (not_a_number, UserError, "not finite"),
        (no_gradient, UserError, "forbids gradients"),
        (never_reached, UserError, "does not execute the layer"),
        (broken, RuntimeError, "somebody else's"),
    ],
)
def test_what_cannot_be_maximised_is_an_error_and_no_grey_image(colours, spoil, error, message):
    spoil(colours)
    with pytest.raises(error, match=message):
        maximise(colours, colours.layer, steps=3)
    assert not colours.layer._forward_pre_hooks


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("row", "column"), [(0, 1), (1, 0), (2, 1), (-3, 2), (0, 0)])
def test_a_coefficient_is_a_wave_that_its_frequency_weakens(size, row, column):
    spectra, amplitude = torch.zeros(1, 3, size, size // 2 + 1, 2), 0.3
    spectra[0, 1, row, column, 0] = amplitude
    position = torch.arange(size) / size
    phase = 2 * math.pi * (row * position[:, None] + column * position)
    decay = max(1, math.sqrt(row**2 + column**2)) ** -visualization.SPECTRAL_DECAY
    # the half spectrum stands for its mirror image too, except in the column of 0 where nothing mirrors it here
    wave = amplitude * decay * phase.cos() * (2 if column else 1)
    red, green, blue = (torch.sigmoid(weight * wave) for weight in (0.09 / NORM, 0.0, -0.09 / NORM))
    torch.testing.assert_close(pixels(spectra, size)[0], torch.stack([red, green, blue]))


NORM = math.sqrt(0.26**2 + 0.27**2 + 0.27**2)


def test_colours_are_those_of_natural_images():
    """Their covariance: brightness first by far, then blue against red, then green against both."""
    covariance = visualization.COLOURS @ visualization.COLOURS.T
    values, axes = torch.linalg.eigh(covariance)
    assert values[2] > 5 * values[1] > 5 * values[0]
    assert (axes[:, 2].sign() == axes[0, 2].sign()).all()
    assert axes[0, 1] * axes[2, 1] < 0 and axes[1, 0] * axes[0, 0] < 0 and axes[1, 0] * axes[2, 0] < 0
    assert visualization.COLOURS.norm(dim=0).max() == pytest.approx(1)


def test_the_start_is_weak_noise_that_large_forms_dominate():
    start = random_spectra(64, [torch.Generator().manual_seed(seed) for seed in range(4)])
    assert start.std() == pytest.approx(visualization.START_SCALE, rel=0.05)
    images = pixels(start, 64)
    assert 0.002 < images.std() < 0.1 and abs(images.mean() - 0.5) < 0.05
    smooth = torch.nn.functional.avg_pool2d(images, 4)
    assert smooth.flatten(2).var(-1).mean() > 0.8 * images.flatten(2).var(-1).mean()


def test_transformations_are_small_and_each_images_own():
    ramp = torch.linspace(-1, 1, 65).expand(65, 65)
    images = torch.stack([ramp, ramp.T, torch.ones_like(ramp)]).expand(200, 3, 65, 65)
    generators = [torch.Generator().manual_seed(seed) for seed in range(200)]
    seen = transformed(images, random_views(generators, 1)[0])
    torch.testing.assert_close(seen[:, 2], torch.ones(200, 65, 65))  # nothing foreign comes in at the borders
    centre = seen[:, :2, 32, 32]
    right, down = ((seen[:, :2, 32, 34] - centre) * 16).T, ((seen[:, :2, 34, 32] - centre) * 16).T
    angles, zooms = torch.atan2(right[1], right[0]).rad2deg(), torch.hypot(*right)
    torch.testing.assert_close(torch.stack([-right[1], right[0]]), down, rtol=1e-3, atol=1e-3)
    bounds = {"ROTATION": angles, "ZOOM": zooms - 1, "SHIFT": centre / 2}
    for name, values in bounds.items():
        largest = getattr(visualization, name)
        assert values.abs().max() <= 1.02 * largest and values.max() > 0.9 * largest and values.min() < -0.9 * largest
    assert not transformed(images, random_views(generators, 1)[0]).equal(seen)  # anew in every step


def test_every_step_sees_other_views_and_the_result_is_none_of_them(colours, monkeypatch):
    monkeypatch.setattr(visualization, "LEARNING_RATE", 0)
    seen = []
    colours.before.register_forward_hook(lambda _, __, output: seen.append(output.detach().clone()))
    transform = Transform(SIZE, SIZE, mean=(0,) * 3, std=(1,) * 3)
    image = maximise(colours, colours.layer, transform=transform, steps=2)[0, 0].permute(2, 0, 1)
    still = pixels(random_spectra(SIZE, [torch.Generator().manual_seed(0)]), SIZE)[0]
    torch.testing.assert_close(image / 255, still, rtol=0, atol=0.501 / 255)
    for one, other in ((seen[0][0], still), (seen[1][0], still), (seen[0], seen[1])):
        assert (one - other).abs().max() > 0.1 * still.std()


def test_steps_do_not_wait_for_the_device(colours, monkeypatch):
    """Only what is not finite is looked for, now and then: on the meta device anything else that waits fails."""
    checked = []
    monkeypatch.setattr(visualization, "_require_finite", checked.append)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda images: images)
    opened = OpenedNetwork(colours.to("meta"), as_layer(colours.layer), "fp32")
    transform = Transform(SIZE, SIZE)
    images = maximise_activation(opened, *all_channels(colours.layer), transform, seeds=1, steps=37)
    assert images.is_meta and len(checked) == 3


def test_every_step_has_its_place_on_the_progress_bar(colours, capsys, monkeypatch):
    monkeypatch.setattr(visualization, "BATCH_SIZE", 2)
    opened = OpenedNetwork(colours, as_layer(colours.layer), "fp32")
    maximise_activation(opened, *all_channels(colours.layer), TRANSFORM, seeds=1, steps=7, description="seven")
    error = capsys.readouterr().err
    assert "seven" in error and "14/14" in error


@pytest.mark.parametrize("make", [factories.small, factories.with_kernel, factories.tokens])
def test_what_is_reached_is_the_mean_over_positions_of_the_channel_in_its_own_images(make):
    network, transform = make().requires_grad_(False), Transform(16, 16)
    opened = OpenedNetwork(network, layer_of("last", network.last), "fp32")
    pictures = torch.randint(0, 256, (12, 2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    outputs = []
    network.last.register_forward_hook(lambda _, __, output: outputs.append(output))
    network(transform.normalise(pictures.flatten(0, 1), CPU))
    (output,) = outputs
    means = output.mean((2, 3)) if output.ndim == 4 else output.mean(1)  # [24, 12]
    expected = torch.stack([means[2 * channel : 2 * channel + 2, channel] for channel in range(12)])
    reached = reached_activation(opened, opened.layer.weight, opened.layer.bias, pictures, transform)
    torch.testing.assert_close(reached, expected, rtol=1e-4, atol=1e-5)
