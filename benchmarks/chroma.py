"""JPEG files as a decoder leaves them that repeats chroma instead of interpolating it: torchvision's on a GPU.

Most photographs have chroma of half the resolution (4:2:0). libjpeg, which PIL and torchvision's CPU decoder use,
interpolates it; nvJPEG as torchvision calls it gives the four pixels of a square the same chroma.
"""

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

HALF_CHROMA = 2  # PIL's name of 4:2:0


def repeated_chroma(file):
    """The RGB picture of a JPEG file whose chroma is repeated; other subsampling than 4:2:0 is PIL's, interpolated.

    Decoded at half its size, a picture has the chroma as it is stored; its luma is that of the whole picture.
    """
    with Image.open(file) as image:
        if image.format != "JPEG" or image.mode != "RGB" or get_sampling(image) != HALF_CHROMA or min(image.size) < 2:
            return image.convert("RGB")
        size = image.size
        image.draft("YCbCr", size)
        luma = np.asarray(image)[..., :1].astype(np.float64)
    with Image.open(file) as image:
        image.draft("YCbCr", [side // 2 for side in size])
        assert image.size == tuple(-(-side // 2) for side in size)
        chroma = np.asarray(image)[..., 1:].repeat(2, axis=0).repeat(2, axis=1)[: size[1], : size[0]] - 128.0
    blue, red = chroma[..., :1], chroma[..., 1:]  # of JFIF's conversion to RGB
    colours = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    return Image.fromarray(np.concatenate(colours, axis=2).round().clip(0, 255).astype(np.uint8))
