"""The threads of decoding on a device, here the CPU."""

import threading
import time

import pytest
import torch

from tests.pictures import CPU, loader, picture
from tests.scripts import PATIENCE
from utils.errors import UserError
from utils.images import decoding, device_decoding
from utils.images.decoding import Picture, require_decoder
from utils.images.device_decoding import groups_of_similar_size

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "a").mkdir()
    for number in range(3):
        picture((50, 40), number).save(folder / "a" / f"{number}.jpg")
    return folder


def test_a_huge_image_does_not_enlarge_the_batch_of_the_others():
    pictures = [Picture(0, size=(90, 100)), *(Picture(i, size=(10, 9 + i % 2)) for i in range(1, 9))]
    groups = groups_of_similar_size(pictures, 500)
    assert [[picture.index for picture in group] for group in groups] == [[2, 4, 6, 8, 1], [3, 5, 7], [0]]
    assert groups_of_similar_size([], 500) == []


def test_files_are_read_some_batches_ahead_and_no_further(photos, monkeypatch):
    seen = []
    monkeypatch.setattr(device_decoding, "decode", lambda files, device: seen.append(len(files)) or [None] * len(files))
    batches, ahead = iter(loader(photos, "gpu", cut=[[0, 0]] * 40)), device_decoding.BATCHES_AHEAD
    for number in range(1, 41):
        next(batches)
        most = min(number + ahead, 40)
        end = time.monotonic() + PATIENCE
        while len(seen) < most and time.monotonic() < end:
            time.sleep(0.001)
        assert len(seen) == most
    assert list(batches) == []
    assert seen == [2] * 40


@pytest.mark.parametrize("error", [ValueError("boom"), torch.OutOfMemoryError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["read_file", "plain_jpeg_size", "decode", "resize_windows", "here"])
def test_no_thread_outlives_an_error_and_none_is_lost(photos, where, error, monkeypatch):
    def fail(*_):
        raise error

    before = set(threading.enumerate())
    if where == "here":
        batches = iter(loader(photos, "gpu", cut=[[0, 1], [2]] * 30))
        next(batches)
        with pytest.raises(type(error)):
            batches.throw(error)
    else:
        # what reading raises is the image's fault, unless it is no Exception at all
        expected = UserError if where == "read_file" and isinstance(error, Exception) else type(error)
        files = loader(photos, "gpu", cut=[[0, 1], [2]] * 30)
        monkeypatch.setattr(decoding if where == "read_file" else device_decoding, where, fail)
        with pytest.raises(expected, match="boom" if isinstance(error, Exception) else None):
            list(files)
    assert set(threading.enumerate()) == before


def test_memory_that_is_short_is_not_left_to_pil(photos, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("short")

    files = loader(photos, "gpu")
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: fail)
    with pytest.raises(torch.OutOfMemoryError):
        list(files)


def test_a_torchvision_that_cannot_decode_on_the_device_is_refused(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("not compiled with nvJPEG support")

    require_decoder(CPU, "gpu")
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: fail)
    with pytest.raises(UserError, match=r"cannot decode on cpu \(not compiled with nvJPEG.*--decode fast"):
        require_decoder(CPU, "gpu")
