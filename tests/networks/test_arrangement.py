"""Where tokens lie: what is found in networks of several families, and what is not believed."""

import pytest
import torch
import torchvision
from torch import nn

from tests.layers import OverTokens, in_windows, small_convnext, small_swin, vision_transformer, window_places
from utils.errors import UserError
from utils.networks.layers import find_layer


def opened(make, name, image_size=32):
    torch.manual_seed(0)
    return find_layer(make(), name, image_size)


@pytest.mark.parametrize(
    ("make", "name", "map_size", "class_tokens"),
    [
        (vision_transformer, "encoder.layers.encoder_layer_0.mlp.0", (4, 4), 1),
        (small_convnext, "features.1.0.block.3", (8, 8), 0),
        (small_swin, "features.1.1.mlp.0", (16, 16), 0),
        (small_swin, "features.2.reduction", (8, 8), 0),  # of four neighbours
    ],
)
def test_tokens_of_a_network_lie_in_a_grid(make, name, map_size, class_tokens):
    layer = opened(make, name)
    assert layer.map_size == map_size
    assert layer.arrangement.order.tolist() == [*[-1] * class_tokens, *range(map_size[0] * map_size[1])]


def small_maxvit():
    sizes = {"stem_channels": 8, "partition_size": 4, "block_channels": [8], "block_layers": [1], "head_dim": 4}
    return torchvision.models.MaxVit((32, 32), **sizes, stochastic_depth_prob=0.0, num_classes=4).eval()


@pytest.mark.parametrize("layer", ["attn_layer.1.to_qkv", "attn_layer.1.merge", "mlp_layer.1", "mlp_layer.3"])
@pytest.mark.parametrize("attention", ["window", "grid"])
def test_windows_and_grids_of_one_block_are_put_back_in_order_each(attention, layer):
    """MaxViT's map of 8x8: in windows of 4x4, then in grids of every other place."""
    found = opened(small_maxvit, f"blocks.0.layers.0.layers.{attention}_attention.{layer}")
    step, apart = (1, 4) if attention == "window" else (2, 1)
    inner = [(row * step, column * step) for row in range(4) for column in range(4)]
    corners = [(row * apart, column * apart) for row in range(2) for column in range(2)]
    expected = [8 * (top + row) + left + column for top, left in corners for row, column in inner]
    assert found.map_size == (8, 8)
    assert found.arrangement.order.tolist() == expected
    assert found.places()[1].tolist() == [0.5 / 8, (step + 0.5) / 8]


class Cut(nn.Module):
    def forward(self, x):
        return in_windows(3, 1)(x.unflatten(1, (6, 6)))


@pytest.mark.parametrize("changed", [False, True])
def test_windows_are_put_back_in_the_order_of_tokens_in_a_row(changed):
    """Also where the tokens are changed once they are in windows."""
    arrange = nn.Sequential(
        nn.Flatten(1, 2), nn.LayerNorm(5), Cut(), nn.Sequential(nn.Tanh() if changed else nn.Identity())
    )
    layer = opened(lambda: OverTokens(arrange).eval(), "last", 12)
    assert layer.places().tolist() == [pytest.approx(place) for place in window_places(3, 1)]


class Unroll(nn.Module):
    """Quarters of a map of 6x6 one behind the other."""

    def forward(self, x):
        return x.unflatten(1, (2, 3, 2, 3)).transpose(2, 3).flatten(1, 4)


class EmbeddedAndUnrolled(nn.Module):
    """With position embeddings: no module sees the tokens as they were when they were a map."""

    def __init__(self):
        super().__init__()
        self.unroll = Unroll()

    def forward(self, x):
        return self.unroll(x.flatten(1, 2) + torch.linspace(0, 1, 36)[:, None])


def test_tokens_that_a_module_has_put_in_another_order_are_followed_or_in_no_known_one():
    def order(*modules):
        return opened(lambda: OverTokens(nn.Sequential(*modules)).eval(), "last", 12).arrangement.order

    quarters = Unroll()(torch.arange(36)[None, :, None]).flatten().tolist()
    assert order(nn.Flatten(1, 2), nn.Tanh()).tolist() == [*range(36)]
    assert order(nn.Flatten(1, 2), Unroll(), nn.Tanh()).tolist() == quarters
    assert order(nn.Flatten(1, 2), nn.LayerNorm(5), nn.Identity(), Unroll(), nn.LayerNorm(5)).tolist() == quarters
    assert order(EmbeddedAndUnrolled(), nn.LayerNorm(5)) is None


class WithClassTokens(OverTokens):
    """Tokens that no image changes in front of, among and behind the others, then something that mixes all of them."""

    def __init__(self, front, middle, back):
        super().__init__(nn.Identity())
        self.numbers, self.mix = (front, middle, back), nn.Sequential(nn.Identity(), nn.Softmax(1))

    def forward(self, x):
        first, second = self.norm(self.stem(x).movedim(1, -1)).flatten(1, 2).chunk(2, 1)
        front, middle, back = (torch.ones(len(x), number, 5) for number in self.numbers)
        return self.classifier(self.last(self.mix(torch.cat([front, first, middle, second, back], 1))).mean(1))


@pytest.mark.parametrize("numbers", [(1, 0, 0), (5, 0, 0), (0, 1, 0), (0, 0, 2), (2, 1, 1)])
def test_tokens_that_no_image_changes_lie_nowhere(numbers):
    layer, (front, middle, back) = opened(lambda: WithClassTokens(*numbers).eval(), "last", 12), numbers
    expected = [*[-1] * front, *range(18), *[-1] * middle, *range(18, 36), *[-1] * back]
    assert layer.arrangement.order.tolist() == expected
    assert layer.places().isnan().any(1).tolist() == [place < 0 for place in expected]


@pytest.mark.parametrize(
    "arrange",
    [
        lambda x: x.flatten(1, 2).movedim(1, 2)[:, :3, :5],  # channels in place of tokens
        lambda x: torch.cat([x.flatten(1, 2)] * 2, 1)[:, :49],  # a square, but of no map
        lambda x: (x + 1).reshape(len(x), 4, 9, 5),
        lambda x: (x + 1).reshape(-1, 9, 5),  # changed since the map was seen
        lambda x: x.reshape(-1, 9, 5)[:, :8],  # some are missing
        lambda x: x.flatten(1, 2)[:, :1],
    ],
)
def test_what_is_in_no_known_order_has_no_places(arrange):
    layer = opened(lambda: OverTokens(arrange).eval(), "last", 12)
    assert layer.places() is None and layer.map_size is None and layer.num_positions > 0


class ByWindow(nn.Module):
    """A linear layer over windows with those of one place together, whatever image they are of."""

    def __init__(self, images_first):
        super().__init__()
        self.images_first = images_first
        self.stem, self.last, self.classifier = nn.Conv2d(3, 5, 1), nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        parts = self.stem(x).flatten(2).unflatten(2, (4, -1)).permute(2, 0, 3, 1)
        parts = parts.transpose(0, 1) if self.images_first else parts
        found = self.last(parts.flatten(0, 1)).relu().unflatten(0, (-1, 4) if self.images_first else (4, -1))
        return self.classifier(found.mean((1, 2) if self.images_first else (0, 2)))


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.last, self.classifier = nn.Conv2d(3, 5, 1), nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x):
        return self.classifier(self.last(self.stem(x).flatten(2).permute(2, 0, 1)).relu().mean(0))


def test_a_layer_without_the_images_in_its_first_dimension_is_refused_in_one_line():
    assert opened(lambda: ByWindow(True).eval(), "last", 8).arrangement.windows == 4
    for make, shape in ((lambda: ByWindow(False), r"\[12, 16, 5\] for 3"), (SequenceFirst, r"\[64, 3, 5\] for 3")):
        with pytest.raises(UserError, match=f"layer last does not have the images in the first dimension .*{shape}"):
            opened(lambda make=make: make().eval(), "last", 8)
    with pytest.raises(UserError, match=r"\[49, 2, 5\] for 2 images"):
        opened(lambda: SequenceFirst().eval(), "last", 7)


def test_maps_that_are_not_one_an_image_are_refused():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.classifier = nn.Conv2d(3, 5, 1), nn.Linear(5, 4)

        def forward(self, x):
            return self.classifier(self.last(torch.cat(x.chunk(2, 3))).mean((2, 3)).chunk(2)[0])

    with pytest.raises(UserError, match="layer last is called with 4 maps for 2 images: they cannot be told apart"):
        find_layer(Halves().eval(), "last", 8)
