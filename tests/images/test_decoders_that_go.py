"""torchvision's decoder is deprecated: nothing but --decode fast and gpu needs it, and torchcodec's follows it."""

import io
import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps

from tests.pictures import CPU, PLAIN, levels, loader, write_images
from tests.scripts import COMPUTE, NETWORK, ROOT, SMALL_IMAGES, python
from utils.errors import UserError
from utils.images import decoding, device_decoding

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")
GONE = "import sys, torchvision.io; del torchvision.io.decode_jpeg; sys.modules['torchcodec'] = None"


@pytest.fixture
def gone(monkeypatch):
    """torchvision without a decoder, and no torchcodec; a function brings a torchcodec with this ``decode_jpeg``."""
    monkeypatch.delattr(torchvision.io, "decode_jpeg", raising=False)

    def bring(decode_jpeg):
        package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
        package.decoders, decoders.decode_jpeg = decoders, decode_jpeg
        monkeypatch.setitem(sys.modules, "torchcodec", package)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)

    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    return bring


def turning(source, *, mode="RGB", output_dtype=torch.uint8, device="cpu"):
    """The parameters of torchcodec 0.17's decode_jpeg; like it, this one turns images as their EXIF data say."""
    assert mode == "RGB" and all(file.dtype == torch.uint8 and file.device.type == "cpu" for file in source)
    images = [ImageOps.exif_transpose(Image.open(io.BytesIO(file.numpy().tobytes()))) for file in source]
    return [torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) for image in images]


def test_pil_works_without_a_decoder_and_the_others_say_what_is_missing(readable, gone):
    assert len(levels(readable, "pil")) > len(PLAIN)
    for decode in ("fast", "gpu"):
        with pytest.raises(UserError, match=r"need torchcodec 0.16 or newer .* or use --decode pil"):
            levels(readable, decode)


@pytest.mark.parametrize("error", [OSError("libavutil.so.60"), RuntimeError("Could not load libtorchcodec")])
def test_a_torchcodec_that_cannot_be_loaded_is_none(readable, gone, error, monkeypatch):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise error

    gone(None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", Broken("torchcodec.decoders"))
    with pytest.raises(UserError, match=r"need torchcodec 0.16 or newer"):
        levels(readable, "fast")


@pytest.mark.parametrize("decode", ["fast", "gpu"])
def test_torchcodec_takes_over_and_turns_no_image(readable, gone, decode, monkeypatch):
    gone(turning)
    found, expected = levels(readable, decode), levels(readable, "pil")
    assert list(found) == list(expected)
    assert all((crop - expected[name]).abs().max() < 2.01 for name, crop in found.items())
    for module in (decoding, device_decoding):
        monkeypatch.setattr(module, "crop_with_pil", None)
    files = loader(readable, decode, skip_unreadable=True)
    (batch,) = files
    assert {files.images.path(index).name for index in batch.indices.tolist()} == {*PLAIN, "trailing.jpg"}


def test_the_real_torchcodec_gives_what_torchvision_gives(readable, monkeypatch):
    pytest.importorskip("torchcodec.decoders", exc_type=Exception)
    if not hasattr(torchvision.io, "decode_jpeg"):
        pytest.skip("there is nothing to compare with")
    expected = levels(readable, "fast")
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    assert decoding.jpeg_decoder().__module__ == "utils.images.decoding"
    found = levels(readable, "fast")
    assert all(torch.equal(found[name], crop) for name, crop in expected.items())


def test_a_torchvision_that_cannot_load_its_decoder_is_refused(readable, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Couldn't load the image extension.")

    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: fail)
    with pytest.raises(UserError, match=r"--decode fast: .* cannot decode on cpu \(Couldn't.*use --decode pil"):
        loader(readable, "fast")


def stage1_without_a_decoder(folder, decode):
    flags = ("--data_dir", "data", "--store_dir", decode, "--decode", decode, *NETWORK, *SMALL_IMAGES, *COMPUTE)
    start = f"{GONE}; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import sys; sys.argv = sys.argv[1:]; {start}"
    return subprocess.run(
        [python(), "-c", code, str(ROOT / "get_importances_for_classes.py"), *flags],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_stage1_without_a_decoder(tmp_path):
    write_images(tmp_path / "data", train=1, val=0)
    result = stage1_without_a_decoder(tmp_path, "pil")
    assert result.returncode == 0, result.stderr
    assert f"next: python {ROOT}/get_cosine_similarities.py" in result.stdout
    result = stage1_without_a_decoder(tmp_path, "fast")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("get_importances_for_classes.py: error: --decode fast and --decode gpu need torchcodec 0.16")


def test_users_see_no_warning_of_torchvision(readable):
    path = str(readable / "a" / "baseline.jpg")
    code = (
        "import sys, torch; from utils.images.decoding import decode; from utils.images.decoding import read_file; "
        "print(decode([read_file(sys.argv[1])], torch.device('cpu'))[0].shape)"
    )
    command = [sys.executable, "-W", "always::DeprecationWarning", "-c", code, path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "torch.Size([3, 45, 60])\n", result.stderr
    assert "TorchVision" not in result.stderr
    assert "writable" not in result.stderr  # the bytes of the file


def test_only_the_exif_data_of_a_copy_are_hidden(readable):
    data = (readable / "a" / "exif.jpg").read_bytes()
    file = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    hidden = bytes(decoding._without_exif(file).numpy())
    assert Image.open(io.BytesIO(data)).getexif() and not Image.open(io.BytesIO(hidden)).getexif()
    assert sum(one != other for one, other in zip(hidden, data, strict=True)) == 1
    assert bytes(file.numpy()) == data
    assert torch.equal(*(decoding.decode([bytearray(one)], CPU)[0] for one in (data, hidden)))
