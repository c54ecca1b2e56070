"""DINOv2 (ViT-B/14) through timm, an embedder for scores without labels that was trained without labels itself.

    pip install timm
    python get_results.py --embedding examples.dinov2:dinov2 ...

timm downloads the weights once. Embeddings are the mean over all tokens of the last layer, as PURE takes them. It
carries its own transform: 224 pixels, as in its authors' evaluation; the position embedding is resized to these.
"""

import timm


def dinov2():
    """The network without a classifier; its output are normalised tokens, [B, 257, 768]."""
    how = {"img_size": 224, "num_classes": 0, "global_pool": ""}
    network = timm.create_model("vit_base_patch14_dinov2", pretrained=True, **how)
    colours = {key: list(network.pretrained_cfg[key]) for key in ("mean", "std")}
    network.transform = {"resize_size": 256, "crop_size": 224, "interpolation": "bicubic", **colours}
    return network
