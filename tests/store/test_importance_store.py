"""Stage 1's and stage 2's files: what is written is read, and what they promise is checked."""

import time
import zipfile

import numpy as np
import pytest
import torch

from tests.pictures import write_images
from tests.stores import IMAGES, META, batch, equal, layer_of, opened, some_flips
from utils.errors import UserError
from utils.images.folders import list_images
from utils.report.store_text import kept_chunks
from utils.store import importance_store as store
from utils.store.files import write_json


def test_a_flipped_bit_of_a_chunk_is_found_or_changes_nothing(tmp_path):
    chunks = opened(tmp_path)
    chunks.write_chunk(0, [batch(0), batch(1)])
    path, intact = chunks.chunk_path(0), chunks.read_chunk(0)
    found, data = 0, path.read_bytes()
    entries = [data.index(b"PK\x01\x02")]  # of the archive's list of arrays, which are all alike
    entries.append(data.index(b"PK\x01\x02", entries[0] + 1))
    whole = {*range(data.index(b"PK\x03\x04", 1)), *range(*entries), *range(len(data) - 22, len(data))}
    for position, damaged in some_flips(data, whole):
        path.write_bytes(damaged)
        try:
            arrays = chunks.read_chunk(0)
        except UserError as error:
            assert str(path) in str(error)
            found += 1
        else:
            assert all(equal(arrays[name], intact[name]) for name in intact), position
    assert found > 1000


def test_where_a_store_is_missing_those_that_are_there_are_listed(tmp_path):
    missing = store.ImportanceStore(tmp_path / "none", "other").load_meta
    with pytest.raises(
        UserError,
        match=r"none/other_\S+/meta.json \(there is no folder /\S+/none; .*\$STORE_DIR\): run",
    ):
        missing()
    missing = store.ImportanceStore(tmp_path, "other").load_meta
    with pytest.raises(UserError, match=r"other_\S+/meta.json \(\S+ has no store of stage 1; .*\$STORE_DIR\)"):
        missing()
    opened(tmp_path)
    opened(tmp_path, images="val")
    with pytest.raises(UserError, match=r"other_\S+/meta.json \(\S+ has m, m \(val\); select one by --model and"):
        missing()


@pytest.mark.parametrize(
    ("stored", "wanted", "call"),
    [
        ("nets.lite0:make", "lite0:make", "--model nets.lite0:make"),
        ("lite0:make", "nets.lite0:make", "--model path/to/lite0.py:make"),
    ],
)
def test_a_store_that_is_there_under_the_other_name_of_a_factory_is_named(tmp_path, stored, wanted, call):
    run, other = (f"{model.replace(':', '-')}_layer4.2.conv2" for model in (stored, wanted))
    begun = store.ImportanceStore(tmp_path, run)
    begun.begin({**META, "model": stored}, layer_of(), IMAGES)
    with pytest.raises(UserError) as error:
        store.ImportanceStore(tmp_path, other).load_meta()
    assert f"({tmp_path} has {begun.folder.name}, of a function of this name: {call} uses it)" in str(error.value)
    with pytest.raises(UserError, match="select one by --model and --layer_of_interest"):
        store.ImportanceStore(tmp_path, other.replace("make", "remake")).load_meta()


def test_meta_that_was_changed_by_hand_is_noticed(tmp_path):
    path = opened(tmp_path).meta_path
    path.write_text(path.read_text().replace('"num_images": 3', '"num_images": 2'))
    with pytest.raises(UserError, match=r"meta\.json is damaged"):
        store.ImportanceStore(tmp_path, "m").load_meta()


def test_a_chunk_with_other_arrays_or_types_is_noticed(tmp_path):
    chunks = opened(tmp_path)
    kept = {name: np.asarray(values) for name, values in batch(0, 1).items() if name in chunks.layout()}
    np.savez(chunks.chunk_path(0), **kept, origin=np.zeros(32))
    with pytest.raises(UserError, match="float64"):
        chunks.read_chunk(0)
    np.savez(chunks.chunk_path(0), targets=np.zeros(2))
    with pytest.raises(UserError, match="it holds"):
        chunks.read_chunk(0)


def test_unreadable_images_may_be_missing_only_where_that_was_asked_for(tmp_path):
    chunks = opened(tmp_path, skip_unreadable=True)
    chunks.write_chunk(0, [batch(1)])
    assert chunks.read_chunk(0)["indices"].tolist() == [1]
    chunks.write_chunk(0, [])
    assert chunks.read_chunk(0)["relative_importances"].shape == (0, 2)


def test_completeness_counts_the_images_of_missing_chunks(tmp_path):
    chunks = opened(tmp_path)
    with pytest.raises(UserError, match="3 of 3 images are missing"):
        chunks.require_complete()
    chunks.write_chunk(0, [batch(0, 1)])
    with pytest.raises(UserError, match="1 of 3 images are missing"):
        chunks.require_complete()
    chunks.write_chunk(1, [batch(2)])
    chunks.require_complete()
    labels = chunks.read_labels()
    assert labels.indices.tolist() == [0, 1, 2]
    assert labels.targets.tolist() == [0] * 3 and labels.predictions.tolist() == [1] * 3
    assert labels.contents.tolist() == [2**63, 2**63 + 1, 2**63]


def test_processes_after_the_first_wait_for_its_meta(tmp_path, monkeypatch):
    late, waits = store.ImportanceStore(tmp_path, "m"), []

    def sleep(seconds):
        """The first process comes while the other one waits for the third time."""
        waits.append(seconds)
        if len(waits) == 3:
            opened(tmp_path)

    monkeypatch.setattr(time, "sleep", sleep)
    late.begin(META, layer_of(), IMAGES, process=1)
    assert late.meta == META
    assert len(waits) == 3


def test_a_store_without_a_chunk_keeps_a_meta_that_agrees(tmp_path):
    opened(tmp_path)
    late = store.ImportanceStore(tmp_path, "m")
    late.begin({**META, "versions": {"torch": "2"}}, layer_of(), IMAGES, process=1)
    assert opened(tmp_path, versions={"torch": "2"}).meta == late.meta == META


def test_equal_arrays_make_equal_bytes(tmp_path):
    chunks, one = opened(tmp_path), batch(0, 1)
    chunks.write_chunk(0, [one])
    first = chunks.chunk_path(0).read_bytes()
    chunks.write_chunk(0, [{name: values[:1] for name, values in one.items()}, {n: v[1:] for n, v in one.items()}])
    assert chunks.chunk_path(0).read_bytes() == first
    with zipfile.ZipFile(chunks.chunk_path(0)) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_store_goes_on_only_with_what_it_was_begun_with(tmp_path):
    opened(tmp_path).write_chunk(0, [batch(0, 1)])
    assert opened(tmp_path, versions={"torch": "2"}, weights="elsewhere").meta["versions"] == {"torch": "1"}
    with pytest.raises(UserError, match="another chunk size"):
        opened(tmp_path, chunk_size=5)


def test_a_store_without_a_chunk_may_begin_anew(tmp_path):
    opened(tmp_path)
    chunks = opened(tmp_path, chunk_size=1)
    assert chunks.num_chunks == 3
    chunks.write_chunk(0, [batch(0)])
    with pytest.raises(UserError, match="another chunk size"):
        opened(tmp_path)


def test_the_layer_and_the_list_of_images_are_read_as_they_were(tmp_path):
    images = list_images(write_images(tmp_path / "data") / "train")
    changes = {
        **{"num_images": len(images), "data_sha256": images.digest(), "class_counts": images.counts()},
        **{"classes": {name: output for output, name in enumerate(images.folders)}, "num_outputs": 4},
    }
    begun = opened(tmp_path, images, **changes)
    weight, bias = begun.read_layer()
    assert torch.equal(weight, layer_of().weight) and torch.equal(bias, layer_of().bias)
    read = begun.read_images(tmp_path / "elsewhere")
    assert read.root == tmp_path / "elsewhere" and read.folders == images.folders
    assert read.paths.tolist() == images.paths.tolist()
    assert equal(read.sizes, images.sizes) and equal(read.folder_of, images.folder_of)
    assert read.digest() == images.digest()


def test_names_that_are_no_text_and_layers_without_bias_are_kept(tmp_path):
    begun = opened(tmp_path)
    read = begun.read_images("x")
    assert read.paths.tolist() == IMAGES.paths.tolist()
    layer = layer_of()
    layer.module.bias = None
    begun._write_layer(layer)
    weight, bias = begun.read_layer()
    assert bias is None and torch.equal(weight, layer.weight)


def test_missing_files_of_the_layer_and_the_images_are_made_again(tmp_path):
    begun = opened(tmp_path)
    begun.write_chunk(0, [batch(0, 1)])
    before = [path.read_bytes() for path in (begun.layer_path, begun.images_path)]
    for path in (begun.layer_path, begun.images_path):
        path.unlink()
    with pytest.raises(UserError, match=r"images\.npz is missing or damaged"):
        begun.require_complete()
    opened(tmp_path)
    assert [path.read_bytes() for path in (begun.layer_path, begun.images_path)] == before


def test_content_of_images_and_what_validation_adds_are_kept_as_they_are(tmp_path):
    train, val = opened(tmp_path), opened(tmp_path, images="val")
    assert train.folder.name == "m_channel_importances" and val.folder.name == "m_channel_importances_val"
    kept = batch(0, 1)
    for chunks in (train, val):
        chunks.write_chunk(0, [kept])
        read = chunks.read_chunk(0)
        assert set(read) == set(chunks.layout())
        assert all(equal(read[name], kept[name]) for name in read)
        assert read["content"].dtype == np.uint64 and read["content"].max() > 2**63
        assert set(chunks.read_chunk(0, ["targets"])) == {"targets", "indices"}
    assert set(val.layout()) - set(train.layout()) == {"shares", "logits"}


@pytest.mark.parametrize("version", [None, 1, 3])
def test_a_store_of_another_format_is_one_line(tmp_path, version):
    begun = opened(tmp_path)
    content = {name: value for name, value in META.items() if name != "format"}
    write_json(begun.meta_path, content if version is None else {**content, "format": version})
    with pytest.raises(UserError, match=r"was made by another version of this program: delete .* and run get_import"):
        begun.load_meta()
    begun.write_chunk(0, [batch(0, 1)])
    with pytest.raises(UserError, match="was made by another version"):
        opened(tmp_path)


def test_files_of_another_store_are_refused(tmp_path):
    one, other = opened(tmp_path / "one"), opened(tmp_path / "other", precision="bf16")
    for begun in (one, other):
        begun.write_chunk(0, [batch(0, 1)])
    for path, read in (
        (one.chunk_path(0), lambda: one.read_chunk(0)),
        (one.layer_path, one.read_layer),
        (one.images_path, lambda: one.read_images("x")),
    ):
        path.write_bytes((other.folder / path.name).read_bytes())
        with pytest.raises(UserError, match=f"{path.name} is of another store: delete it and run"):
            read()


def test_a_new_store_has_a_tenth_of_its_images_in_a_chunk_within_bounds(tmp_path):
    new = store.ImportanceStore(tmp_path, "new")
    sizes = {images: new.chunk_size_for(images) for images in (1, 640, 641, 2250, 20_480, 20_481, 1_281_167)}
    assert sizes == {1: 64, 640: 64, 641: 65, 2250: 225, 20_480: 2048, 20_481: 2048, 1_281_167: 2048}
    assert opened(tmp_path).chunk_size_for(2250) == META["chunk_size"]


def test_an_interrupt_says_how_many_chunks_there_are(tmp_path):
    interrupted = opened(tmp_path)
    assert kept_chunks(interrupted) == "no chunk was complete yet: the same command starts from the beginning"
    interrupted.write_chunk(0, [batch(0, 1)])
    assert kept_chunks(interrupted) == "1 of 2 chunks are kept: the same command resumes after them"
