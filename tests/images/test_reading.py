"""Image files are read once and their content is known; hostile ones are refused, quietly and before they cost much."""

import errno
import hashlib
import io
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from tests.pictures import CPU, LEFT_TO_PIL, PLAIN, SMALL, picture
from tests.scripts import ROOT
from utils.errors import UserError
from utils.images import decoding, device_decoding
from utils.images.batches import ImageBatch, ImageBatches, Loading
from utils.images.decoding import MachineFailure, attempt, content_of
from utils.images.folders import IMAGE_SUFFIXES, list_images

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")
every_way = pytest.mark.parametrize("decode", ["pil", "fast", "gpu"])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for seed, (name, (size, mode, options)) in enumerate({**PLAIN, **LEFT_TO_PIL}.items()):
        picture(size, seed).convert(mode).save(tmp_path / "a" / name, **options)
    return tmp_path


def load(images, decode="pil", cut=None, num_workers=0, skip_unreadable=False):
    cut = [list(range(len(images)))] if cut is None else cut
    return ImageBatches(images, SMALL, cut, "", Loading(CPU, decode, num_workers, skip_unreadable))


def sha(path):
    return int(np.frombuffer(hashlib.sha256(path.read_bytes()).digest()[:8], "<u8")[0])


# --------------------------------------------------------------------------------------------------------------------
# Content


@every_way
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_have_the_content_of_each_readable_image(folder, decode, num_workers):
    (folder / "a" / "no_image.jpg").write_text("nothing")
    images = list_images(folder)
    cut = np.random.default_rng(0).permutation(len(images)).reshape(4, 4).tolist()
    found = list(load(images, decode, cut, num_workers, skip_unreadable=True))
    unreadable = images.paths.tolist().index(b"a/no_image.jpg")
    for batch, asked in zip(found, cut, strict=True):
        assert isinstance(batch, ImageBatch)
        assert batch.indices.tolist() == [index for index in asked if index != unreadable]
        assert batch.contents.dtype == np.uint64
        assert batch.contents.tolist() == [sha(images.path(index)) for index in batch.indices.tolist()]
        assert len(batch.pixels) == len(batch.contents)


def test_content_is_the_beginning_of_the_digest():
    assert content_of(b"abc") == 0xEACF018FBF1678BA  # ba7816bf 8f01cfea ... of FIPS 180-2
    assert content_of(bytearray(b"abc")) == content_of(b"abc")


@every_way
@pytest.mark.parametrize("refused", [False, True])
def test_what_is_decoded_is_what_was_hashed(folder, decode, refused, monkeypatch):
    """Each file is gone as soon as it has been read; also where torchvision refuses to decode what it was given."""
    if refused:
        for module in (decoding, device_decoding):
            monkeypatch.setattr(module, "decode", lambda files, device: [None] * len(files))
    images = list_images(folder)
    (expected,) = load(images, decode)

    def read_and_remove(path):
        data = original(path)
        os.unlink(path)
        return data

    original = decoding.read_file
    monkeypatch.setattr(decoding, "read_file", read_and_remove)
    (found,) = load(images, decode)
    assert not any((folder / "a").iterdir())
    assert torch.equal(found.pixels, expected.pixels)
    assert found.contents.tolist() == expected.contents.tolist()


def known(folder, but=()):
    """The list of a folder's images, their contents known but for some by index."""
    images = list_images(folder)
    indices = [index for index in range(len(images)) if index not in but]
    return images.with_contents(indices, np.array([sha(images.path(i)) for i in indices], dtype=np.uint64))


def change(images, index):
    path = images.path(index)
    path.write_bytes(path.read_bytes() + b"\0")  # decoded as before
    return path


@every_way
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_is_not_the_one_measured_is_named(folder, decode, num_workers):
    images = known(folder)
    cut = [[3, 2], [1, 0]]
    assert [len(batch.indices) for batch in load(images, decode, cut, num_workers)] == [2, 2]
    change(images, 0)
    path = change(images, 2)
    for skip_unreadable in (False, True):
        with pytest.raises(UserError) as error:
            list(load(images, decode, cut, num_workers, skip_unreadable))
        assert str(error.value) == f"{path} is not the image that stage 1 measured: its content has changed"
    assert len(list(load(list_images(folder), decode, cut, num_workers))) == 2  # without contents nothing is compared


@every_way
def test_an_image_that_was_damaged_since_is_not_left_out(folder, decode):
    images = known(folder)
    images.path(1).write_bytes(b"no image any more")
    with pytest.raises(UserError, match="is not the image that stage 1 measured"):
        list(load(images, decode, skip_unreadable=True))


def test_an_image_whose_content_is_not_known_may_have_any(folder):
    images = known(folder, but=[1])
    assert images.content(0) == sha(images.path(0))
    assert images.content(1) is None
    change(images, 1)
    (batch,) = load(images, cut=[[0, 1]])
    assert batch.contents.tolist() == [sha(images.path(0)), sha(images.path(1))]
    images.path(1).write_bytes(b"")
    ((indices, *_),) = load(images, cut=[[0, 1]], skip_unreadable=True)
    assert indices.tolist() == [0]


# --------------------------------------------------------------------------------------------------------------------
# What is no file


@pytest.fixture
def waiting(folder, monkeypatch):
    """Next to the images a FIFO, a socket and a folder, all named as images, and links to a file and to the FIFO."""
    os.mkfifo(folder / "a" / "fifo.jpg")
    (folder / "a" / "folder.jpg").mkdir()
    monkeypatch.chdir(folder / "a")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    (folder / "a" / "link.jpg").symlink_to("grey.jpg")
    (folder / "a" / "link_to_fifo.jpg").symlink_to("fifo.jpg")
    return folder


def test_only_regular_files_and_links_to_them_are_images(waiting):
    names = {path.decode() for path in list_images(waiting).paths.tolist()}
    assert names == {f"a/{name}" for name in (*PLAIN, *LEFT_TO_PIL, "link.jpg")}


def test_a_link_to_an_image_that_is_gone_is_not_passed_over(folder):
    (folder / "a" / "gone.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(FileNotFoundError):
        list_images(folder)


@every_way
@pytest.mark.parametrize("kind", ["fifo.jpg", "socket.jpg", "folder.jpg", "/dev/null"])
def test_what_became_no_file_since_it_was_listed_does_not_hang(waiting, decode, kind):
    images = list_images(waiting)
    index = images.paths.tolist().index(b"a/grey.jpg")
    images.path(index).unlink()
    images.path(index).symlink_to(kind)
    with pytest.raises(UserError, match=r"cannot read image .*grey.jpg \(.*Error: .*\)$"):
        list(load(images, decode, skip_unreadable=True))


@every_way
def test_a_file_that_is_far_too_large_is_not_read(folder, decode, monkeypatch):
    monkeypatch.setattr(decoding, "LARGEST_FILE", 10_000)
    (folder / "a" / "baseline.jpg").write_bytes(bytes(10_001))
    with pytest.raises(UserError, match=r"baseline.jpg \(ValueError: 10001 bytes are too many.*--skip_unreadable"):
        list(load(list_images(folder), decode))


# --------------------------------------------------------------------------------------------------------------------
# What is no image


def reasons(folder, decode):
    """Why images cannot be read, by name, as the loader sees them."""
    images = list_images(folder)
    return {
        images.path(index).name: reason for batch in load(images, decode).loader for index, reason in batch.unreadable
    }


def test_formats_are_those_of_the_suffixes():
    extensions = Image.registered_extensions()
    assert sorted(decoding.FORMATS) == sorted({extensions[suffix] for suffix in IMAGE_SUFFIXES})


@every_way
def test_every_format_of_the_suffixes_is_read_whatever_its_name(tmp_path, decode):
    (tmp_path / "a").mkdir()
    for suffix in IMAGE_SUFFIXES:
        picture((40, 30)).convert("L" if suffix == ".pgm" else "RGB").save(tmp_path / "a" / f"x{suffix}")
        (tmp_path / "a" / f"x{suffix}").rename(tmp_path / "a" / f"{suffix[1:]}.JPEG")
    picture((40, 30)).save(tmp_path / "a" / "camera.jpg", "MPO", save_all=True, append_images=[picture((40, 30), 1)])
    picture((40, 30)).convert("CMYK").save(tmp_path / "a" / "cmyk.JPEG")
    assert reasons(tmp_path, decode) == {}


@every_way
def test_no_other_format_is_decoded_and_ghostscript_is_not_run(tmp_path, decode, monkeypatch):
    (tmp_path / "a").mkdir()
    for kind in ("EPS", "GIF", "ICO", "SGI", "TGA", "PCX"):
        picture((40, 30)).save(tmp_path / "a" / f"{kind}.jpg", kind)
    program, ran = tmp_path / "gs", tmp_path / "ran"
    program.write_text(f"#!/bin/sh\necho >> {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    found = reasons(tmp_path, decode)
    assert sorted(found) == sorted(path.name for path in (tmp_path / "a").iterdir())
    assert set(found.values()) == {"UnidentifiedImageError: not recognised as JPEG, PNG, PPM, BMP, TIFF, WEBP"}
    assert not ran.exists()


@every_way
def test_slivers_are_refused_before_they_are_resized(tmp_path, decode):
    (tmp_path / "a").mkdir()
    for name, size in (("tall.jpg", (1, 65500)), ("wide.png", (65500, 1)), ("51.jpg", (2, 102)), ("50.jpg", (100, 2))):
        Image.new("L", size).save(tmp_path / "a" / name)
    assert reasons(tmp_path, decode) == {
        "51.jpg": "ValueError: 2 x 102 pixels: one side is more than 50 times the other",
        "tall.jpg": "ValueError: 1 x 65500 pixels: one side is more than 50 times the other",
        "wide.png": "ValueError: 65500 x 1 pixels: one side is more than 50 times the other",
    }


QUIET = """
import sys
from pathlib import Path
import torch
from PIL import Image
from utils.images.batches import ImageBatches, Loading
from utils.images.folders import list_images
from utils.images.transform import Transform

Image.MAX_IMAGE_PIXELS = 2000
images = list_images(Path(sys.argv[1]))
for decode, num_workers in (("pil", 0), ("pil", 1), ("fast", 0), ("gpu", 2)):
    loading = Loading(torch.device("cpu"), decode, num_workers, skip_unreadable=True)
    loader = ImageBatches(images, Transform(32, 28), [list(range(len(images)))], "", loading).loader
    print(*(reason for batch in loader for _, reason in batch.unreadable))
"""


def test_warnings_of_pil_do_not_reach_standard_error(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (50, 60)).save(tmp_path / "a" / "large.png")
    Image.new("RGB", (70, 60)).save(tmp_path / "a" / "larger.png")
    Image.new("P", (20, 20)).save(tmp_path / "a" / "palette.png", transparency=bytes(range(256)))
    file = io.BytesIO()
    Image.new("RGB", (40, 40)).save(file, "TIFF", compression="tiff_lzw")
    (tmp_path / "a" / "cut.tif").write_bytes(file.getvalue()[:-60])
    command = [sys.executable, "-c", QUIET, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.stderr == ""
    lines = found.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.count("Error") == 2
        assert "DecompressionBombError: Image size (4200 pixels) exceeds limit of 4000 pixels" in line


# --------------------------------------------------------------------------------------------------------------------
# Whose fault it is


def raising(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_ends_too_early_for_its_decoder_is_unreadable(folder, num_workers, capsys):
    loader = load(list_images(folder), num_workers=num_workers, cut=[[0], [1]], skip_unreadable=True)
    loader.loader.dataset.crop = raising(EOFError())
    assert [len(batch.indices) for batch in loader] == [0, 0]
    assert loader.skipped == 2
    assert "left out unreadable image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (OSError("image file is truncated"), False),
        (EOFError(), False),
        (SyntaxError("broken PNG file"), False),
        (RuntimeError("damaged"), False),
        (OSError(errno.EIO, "Input/output error"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
    ],
)
def test_damage_is_the_images_fault_and_all_else_the_machines(error, machine):
    value, reason = attempt(raising(error))
    assert value is None
    assert isinstance(reason, MachineFailure) == machine
    assert reason.startswith(type(error).__name__)
    assert not reason.endswith(": ")


def test_names_of_images_carry_nothing_that_a_terminal_obeys(tmp_path, capsys):
    (tmp_path / "a\x1b[2J").mkdir()
    (tmp_path / "a\x1b[2J" / "x\n.jpg").write_text("nothing")
    images = list_images(tmp_path)
    with pytest.raises(UserError) as error:
        list(load(images))
    assert str(error.value).isprintable()
    list(load(images, skip_unreadable=True))
    assert r"a\x1b[2J/x\n.jpg" in capsys.readouterr().err
    (tmp_path / "b\x1b[2J").mkdir()
    for folders in (None, ["c\x1b[2J"]):
        with pytest.raises(UserError) as error:
            list_images(tmp_path, folders)
        assert str(error.value).isprintable()
