"""Stage 1 writes chunks in a thread: no error is lost, one chunk is on its way, and a kill leaves no half file."""

import os
import re
import resource
import signal
import subprocess
import threading
import time

import pytest
import torch

from tests.pictures import batches, write_image, write_images
from tests.scripts import COMPUTE, NETWORK, PATIENCE, ROOT, RUN, SMALL_IMAGES, contents, messages, python, run_script
from utils.errors import UserError
from utils.images import batches as images_batches
from utils.images.batches import MOST_PREFETCHED, PREFETCHED_BYTES, prefetched
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.stages.importances import ChunkWriter

SCRIPT = "get_importances_for_classes.py"
FINITE = {"positive_sums": torch.ones(2), "input_sums": torch.ones(2, 3, 1), "indices": torch.tensor([0, 1])}


class Store:
    """Notes the chunks that are written; ``hold`` makes it wait for ``go``, ``error`` makes it fail."""

    def __init__(self, error=None, hold=False):
        self.error, self.written, self.go, self.busy = error, [], threading.Event(), 0
        if not hold:
            self.go.set()

    def write_chunk(self, chunk, batches):
        self.busy += 1
        assert self.busy == 1
        assert self.go.wait(PATIENCE)
        self.busy -= 1
        if self.error and chunk == 0:
            raise self.error
        self.written.append((chunk, {name: values.tolist() for name, values in batches[0].items()} if batches else {}))


def nan(name):
    return {**FINITE, name: torch.full_like(FINITE[name], torch.nan)}


# --------------------------------------------------------------------------------------------------------------------
# The writer


def test_chunks_are_written_in_their_order_and_all_of_them_by_the_end():
    store = Store()
    with ChunkWriter(store) as writer:
        for chunk in range(5):
            writer.write(chunk, [FINITE, {name: values[:1] for name, values in FINITE.items()}])
        writer.write(5, [])  # all of its images were unreadable
    assert [chunk for chunk, _ in store.written] == [0, 1, 2, 3, 4, 5]
    assert store.written[4][1]["indices"] == [0, 1, 0]
    assert store.written[5][1] == {}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write")]


def test_at_most_one_chunk_is_on_its_way():
    store, returned = Store(hold=True), [threading.Event() for _ in range(3)]

    def three_chunks():
        with ChunkWriter(store) as writer:
            for chunk, event in enumerate(returned):
                writer.write(chunk, [FINITE])
                event.set()

    main = threading.Thread(target=three_chunks)
    main.start()
    assert returned[0].wait(PATIENCE)  # the first write waits for no disk, the second one for the first chunk
    assert not returned[1].wait(0.3)
    store.go.set()
    main.join(PATIENCE)
    assert all(event.is_set() for event in returned)
    assert len(store.written) == 3


@pytest.mark.parametrize("chunks", [1, 2])
@pytest.mark.parametrize("fault", [UserError("disk full"), OSError(28, "No space left"), nan("positive_sums")])
def test_an_error_of_the_thread_is_raised_by_the_next_write_or_at_the_end(fault, chunks):
    error = fault if isinstance(fault, Exception) else None
    store = Store(error)
    with (
        pytest.raises(type(error) if error else UserError, match=r"disk full|No space|NaN or infinite"),
        ChunkWriter(store) as writer,
    ):
        writer.write(0, [FINITE if error else fault])
        if chunks == 2:
            writer.write(1, [FINITE])
            pytest.fail("the error was not raised")
    assert store.written == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("write")]


@pytest.mark.parametrize("name", ["positive_sums", "input_sums"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nothing_infinite_is_written(name, value):
    store = Store()
    with pytest.raises(UserError, match="NaN or infinite"), ChunkWriter(store) as writer:
        writer.write(0, [FINITE, {**FINITE, name: torch.full_like(FINITE[name], value)}])
    assert store.written == []


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_what_ends_the_pass_is_what_is_raised_and_what_was_handed_over_is_written(error):
    store = Store()
    with pytest.raises(type(error)), ChunkWriter(store) as writer:
        writer.write(0, [FINITE])
        raise error
    assert [chunk for chunk, _ in store.written] == [0]


# --------------------------------------------------------------------------------------------------------------------
# The script


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with ``data`` of 48 images, and ``whole``: their store of 6 chunks."""
    folder = tmp_path_factory.mktemp("writer")
    write_images(folder / "data", train=12, val=0)
    result = run_script(SCRIPT, *flags("whole"), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def flags(store):
    sizes = ("--batch_size", "4", "--chunk_size", "8", *SMALL_IMAGES, *COMPUTE)
    return (*NETWORK, "--data_dir", "data", "--store_dir", store, *sizes)


def start(folder, store, code="", **options):
    """Stage 1 as a process of its own, behind some code."""
    run = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.Popen(
        [python(), "-c", f"{code}\n{run}", str(ROOT / SCRIPT), *flags(store)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


FULL = """
import utils.store.files as files
write = files.write_bytes
def write_bytes(path, content):
    if path.name == "chunk_000002.npz":
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    write(path, content)
files.write_bytes = write_bytes
"""


def test_a_disk_that_is_full_at_a_chunk_is_one_line_and_the_next_run_goes_on(folder):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    process = start(folder, "full", FULL)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    (line,) = messages(stderr)
    assert line.startswith(f"{SCRIPT}: error: cannot write ")
    assert "chunk_000002.npz (File too large)" in line
    store = folder / "full" / f"{RUN}_channel_importances"
    assert sorted(path.name for path in store.glob("*chunk_*")) == ["chunk_000000.npz", "chunk_000001.npz"]
    assert not list(store.glob(".*"))
    result = run_script(SCRIPT, *flags("full"), cwd=folder)
    assert "resuming: 2 of 6 chunks are stored" in result.stdout
    assert contents(folder / "full") == contents(folder / "whole")


NAN_LATER = """
import utils.stages.importances as stage
original, passes = stage.importances_of, []
def importances_of(layer, record):
    passes.append(1)
    kept = original(layer, record)
    return {**kept, "positive_sums": kept["positive_sums"] * float("nan")} if len(passes) == 4 else kept
stage.importances_of = importances_of
"""


def test_nan_in_a_later_chunk_is_one_line_and_leaves_the_chunks_before(folder):
    process = start(folder, "nan", NAN_LATER)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    (line,) = messages(stderr)
    assert line.startswith(f"{SCRIPT}: error: the network gives NaN or infinite values")
    assert [path.name for path in (folder / "nan").rglob("*chunk_*")] == ["chunk_000000.npz"]


HELD = """
import os, time
import utils.stages.importances as stage
sync, write = os.fsync, stage.ChunkWriter.write
def fsync(file):
    if "chunk_000002" in os.readlink(f"/proc/self/fd/{file}"):
        open("writing", "w").close()
        time.sleep(1200)  # returns only where nobody comes for it
    sync(file)
def write_chunk(writer, chunk, batches):
    if chunk == 3:
        open("fourth", "w").close()
    write(writer, chunk, batches)
os.fsync, stage.ChunkWriter.write = fsync, write_chunk
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_process_killed_while_it_writes_leaves_no_half_chunk(folder):
    process, end = start(folder, "killed", HELD, start_new_session=True), time.monotonic() + PATIENCE
    marks = [folder / "writing", folder / "fourth"]  # the pass goes on, to the end of the next chunk
    while not all(mark.exists() for mark in marks) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    store = folder / "killed" / f"{RUN}_channel_importances"
    assert sorted(path.name for path in store.glob("chunk_*")) == ["chunk_000000.npz", "chunk_000001.npz"]
    (half,) = store.glob(".*")  # of the third chunk; the fourth one has not begun
    assert re.fullmatch(r"\.chunk_000002\.npz\..*\.tmp", half.name)
    os.utime(half, (time.time() - 7200,) * 2)  # old enough to be nobody's
    result = run_script(SCRIPT, *flags("killed"), cwd=folder)
    assert "resuming: 2 of 6 chunks are stored" in result.stdout
    assert contents(folder / "killed") == contents(folder / "whole")


# --------------------------------------------------------------------------------------------------------------------
# What comes before: images that are decoded ahead, and how long they are waited for


@pytest.mark.parametrize("num_workers", [1, 2, 16, 32, 128])
@pytest.mark.parametrize("batch_size", [1, 64, 254, 4096])
@pytest.mark.parametrize("crop_size", [24, 224, 600])
def test_what_is_decoded_ahead_fits_a_bound_of_bytes(num_workers, batch_size, crop_size):
    cut = [list(range(batch_size)), [0]]
    factor = prefetched(cut, Transform(crop_size, crop_size), num_workers)
    assert 1 <= factor <= MOST_PREFETCHED
    step = num_workers * batch_size * 3 * crop_size**2
    assert factor == 1 or factor * step <= PREFETCHED_BYTES
    assert factor == MOST_PREFETCHED or (factor + 1) * step > PREFETCHED_BYTES  # and no fewer than would fit


def test_the_bound_reaches_the_loader(tmp_path, monkeypatch):
    write_image(tmp_path / "a" / "x.png", 0, 0)
    images = list_images(tmp_path)
    assert prefetched([[0]], Transform(), 0) is None
    assert prefetched([], Transform(), 2) == MOST_PREFETCHED
    monkeypatch.setattr(images_batches, "PREFETCHED_BYTES", 2 * 3 * 3 * 16**2)
    assert batches(images, Transform(16, 16), [[0]], num_workers=1).loader.prefetch_factor == MOST_PREFETCHED
    assert batches(images, Transform(16, 16), [[0]], num_workers=2).loader.prefetch_factor == 3
    assert batches(images, Transform(16, 16), [[0] * 9], num_workers=2).loader.prefetch_factor == 1
    assert batches(images, Transform(16, 16), [[0]], num_workers=0).loader.prefetch_factor is None


@pytest.mark.parametrize("slow", ["data", "network"])
def test_the_bar_shows_what_share_of_time_is_spent_waiting_for_data(tmp_path, slow, monkeypatch, capsys):
    write_image(tmp_path / "a" / "x.png", 0, 0)
    read = images_batches.read_picture

    def read_picture(*arguments):
        time.sleep(0.4 if slow == "data" else 0)
        return read(*arguments)

    monkeypatch.setattr(images_batches, "read_picture", read_picture)
    for _ in batches(list_images(tmp_path), Transform(16, 16), [[0]] * 4):
        time.sleep(0 if slow == "data" else 0.4)
    shares = [int(share) for share in re.findall(r"waiting for data (\d+)%", capsys.readouterr().err)]
    assert shares[-1] > 60 if slow == "data" else shares[-1] < 40
