"""Networks whose logits depend on the batch or on chance."""

import pytest
import torch
import torchvision
from torch import nn

from tests import factories
from utils.errors import UserError
from utils.networks.independence import check_independence


class Noisy(factories.Small):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5))


def without_statistics():
    network = factories.small()
    network.head[0] = nn.BatchNorm2d(12, track_running_stats=False)
    return network.eval()


def noisy():
    torch.manual_seed(0)
    return Noisy(nn.Conv2d(8, 12, 1)).eval()


@pytest.mark.parametrize("images", [2, 5])
def test_batchnorm_without_statistics_is_named(images):
    with pytest.raises(UserError, match=r"depend on the other images of its batch.*BatchNorm.*track_running_stats"):
        check_independence(without_statistics(), torch.randn(images, 3, 16, 16))
    check_independence(without_statistics(), torch.randn(1, 3, 16, 16))


@pytest.mark.parametrize("images", [1, 2])
def test_randomness_is_named(images):
    with pytest.raises(UserError, match=r"two passes .* dropout"):
        check_independence(noisy(), torch.randn(images, 3, 16, 16))


def test_ordinary_networks_pass_and_a_single_image_takes_two_passes():
    torch.manual_seed(0)
    check_independence(torchvision.models.resnet18(num_classes=5).eval(), torch.randn(7, 3, 64, 64))
    network, passes = factories.small(), []
    network.register_forward_hook(lambda *_: passes.append(1))
    check_independence(network, torch.randn(1, 3, 16, 16))
    assert len(passes) == 2
