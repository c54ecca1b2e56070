"""Split files: what is written is read, and what is damaged or of another version is refused."""

import struct
from dataclasses import asdict

import pytest
import torch
from torch import nn

from tests import factories
from tests.stores import CONTEXT, equal, flips, some_flips, split_file
from utils.divisions.arv import OBJECTIVES, Arv
from utils.divisions.least_squares import LeastSquares
from utils.errors import UserError
from utils.method.disentangling import Concept, Split
from utils.method.rho import RHOS
from utils.networks.loading import fingerprint
from utils.store import splits
from utils.store.files import split_suffix
from utils.store.networks import split_network
from utils.store.splits import StoredSplits, read_split, split_path, write_split

MODULE = nn.Conv2d(2, 3, 1)


def parts(file):
    """All of a SplitFile as one dictionary."""
    return {**file.content(), "sha256": file.sha256}


def test_a_flipped_bit_of_a_split_file_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "split.pt"
    write_split(path, split_file(MODULE, 1))
    intact, found = parts(read_split(path)), 0
    for position, damaged in some_flips(path.read_bytes(), every=3):
        path.write_bytes(damaged)
        try:
            read = read_split(path)
        except UserError as error:
            assert str(path) in str(error)
            found += 1
        else:
            assert equal(parts(read), intact), position
    assert found > 300


@pytest.mark.parametrize("bias", [False, True])
def test_a_split_file_holds_the_split_and_what_it_came_from(tmp_path, bias):
    file = split_file(nn.Conv2d(5, 3, 3, bias=bias), 1, num_concepts=3)
    file.split.concepts = [Concept("été", [0]), Concept("one", [1]), Concept("some", [], [3, 5], "images")]
    file.source["state"]["centroids"] = torch.ones(1, 2)
    write_split(tmp_path / "split.pt", file)
    read = read_split(tmp_path / "split.pt")
    assert isinstance(read.split, Split) and read.split.concepts == file.split.concepts
    assert read.split.classes == [[0], [1], []]
    assert equal(parts(read), parts(file))
    assert (read.split.bias is not None) == bias
    assert len(read.sha256) == 64 and read.settings["tau"] == 0.03 and read.settings["gamma"] is None


# --------------------------------------------------------------------------------------------------------------------
# Thresholds of stage 2, which change nothing in a split


def stored_digest(path, **settings):
    """The digest of a split file that is written with these settings, and read."""
    file = split_file(MODULE, 1)
    file.settings |= settings
    write_split(path, file)
    read = read_split(path)
    assert read.sha256 == file.sha256 and read.settings == file.settings
    return read.sha256


@pytest.mark.parametrize(
    ("name", "values"),
    [("tau", (None, 0.05)), ("p", (0.5, 0.75)), ("gamma", (0.4, 0.5)), ("min_images", (1, 30))],
)
def test_thresholds_of_stage_2_are_kept_and_do_not_change_the_digest_of_a_split(tmp_path, name, values):
    digests = {stored_digest(tmp_path / "split.pt", **{name: value}) for value in values}
    assert digests == {stored_digest(tmp_path / "split.pt")}


@pytest.mark.parametrize(
    "other", [{"only_correct": True}, {"precision": "bf16"}, {"decoding": "fast"}, {"batch_size": 3}], ids=str
)
def test_all_other_settings_change_the_digest_of_a_split(tmp_path, other):
    assert stored_digest(tmp_path / "split.pt", **other) != stored_digest(tmp_path / "split.pt")


def test_every_flipped_bit_of_a_threshold_is_found(tmp_path):
    path, tau = tmp_path / "split.pt", 0.0371
    stored_digest(path, tau=tau)
    data, stored = path.read_bytes(), struct.pack(">d", tau)
    assert data.count(stored) == 1
    before, after = data.split(stored)
    for _, damaged in flips(stored):
        path.write_bytes(before + damaged + after)
        with pytest.raises(UserError, match=r"split\.pt is damaged"):
            read_split(path)


@pytest.mark.parametrize("name", splits.THRESHOLDS)
def test_a_threshold_that_was_changed_without_its_checksum_is_refused(tmp_path, name):
    path = tmp_path / "split.pt"
    stored_digest(path)
    content = torch.load(path, weights_only=True)
    content["settings"][name] = 0.5
    torch.save(content, path)
    with pytest.raises(UserError, match="its checksum is wrong"):
        read_split(path)


# --------------------------------------------------------------------------------------------------------------------
# What is no split of this program


def test_a_split_by_a_way_of_dividing_that_is_not_registered_is_one_line(tmp_path):
    path = tmp_path / "split.pt"
    file = split_file(MODULE, 1)
    file.split.division.name = "registered_elsewhere"
    write_split(path, file)
    with pytest.raises(UserError, match=r"split\.pt was made by the .* registered_elsewhere, which is not registered"):
        read_split(path)


def test_content_that_was_changed_without_the_checksum_is_refused(tmp_path):
    path = tmp_path / "split.pt"
    write_split(path, split_file(MODULE, 1))
    content = torch.load(path, weights_only=True)
    torch.save({**content, "source": {"name": "circuits", "state": {}}}, path)
    with pytest.raises(UserError, match="its checksum is wrong"):
        read_split(path)


def test_a_file_of_format_4_is_the_same_split(tmp_path):
    file = split_file(MODULE, 1)
    write_split(tmp_path / "packed.pt", file)
    torch.save(file.content(), tmp_path / "plain.pt")  # as it was written before
    assert torch.load(tmp_path / "packed.pt", weights_only=True)["format"] == 5
    packed, plain = (read_split(tmp_path / name) for name in ("packed.pt", "plain.pt"))
    assert equal(parts(packed), parts(plain)) and plain.sha256 == file.sha256


def test_a_digest_is_read_again_when_the_file_has_changed(tmp_path, monkeypatch):
    path, read = tmp_path / "split.pt", []
    monkeypatch.setattr(splits, "read_split", lambda path: (read.append(path), read_split(path))[1])
    for channel in (1, 2):
        file = split_file(MODULE, channel)
        write_split(path, file)
        assert [splits.stored_digest(path) for _ in range(3)] == [file.sha256] * 3
        assert len(read) == channel
    path.unlink()
    with pytest.raises(UserError, match=r"there is no split file .*: run disentangle_channel.py again"):
        splits.stored_digest(path)


OTHER_VERSION = "old.pt was made by another version of this program: run disentangle_channel.py again"


@pytest.mark.parametrize("version", [1, 2, 3, 6])
def test_a_split_of_another_format_is_one_line(tmp_path, version):
    torch.save({"format": version, "weight": torch.ones(2)}, tmp_path / "old.pt")
    with pytest.raises(UserError) as refused:
        read_split(tmp_path / "old.pt")
    assert str(refused.value).endswith(OTHER_VERSION)
    with pytest.raises(UserError, match=r"there is no split file .*: run disentangle_channel.py again"):
        read_split(tmp_path / "none.pt")


def test_a_whole_split_file_of_format_3_is_the_same_line(tmp_path):
    """A file as it was written before divisions and sources of concepts were plug-ins, with a right checksum."""
    file = split_file(MODULE, 1)
    split, division = file.split, file.split.division
    content = {"format": 3, "rhos": list(RHOS), "objective_names": list(OBJECTIVES), **vars(split)}
    del content["division"]
    content |= {"concepts": [asdict(concept) for concept in split.concepts], "owners": division.owners}
    content |= {"objectives": division.objectives, "objective": "positive", "rho": division.rho, "fitted": None}
    content |= {name: getattr(file, name) for name in ("context", "settings", "background", "proof")}
    content |= {"source": {"from": "classes"}}
    torch.save({**content, "sha256": splits.digest_of(content)}, tmp_path / "old.pt")
    with pytest.raises(UserError) as refused:
        read_split(tmp_path / "old.pt")
    assert str(refused.value).endswith(OTHER_VERSION)


# --------------------------------------------------------------------------------------------------------------------
# Names


def suffix_of(division=Arv, given=None, only_correct=False, background=None):
    """What follows in the name of a split by a way of dividing with the settings that are ``given``."""
    own = division.suffix_of(division.settings_from(given or {}))
    return split_suffix(only_correct=only_correct, division=own, background=background)


def test_everything_that_makes_another_split_makes_another_name_that_is_found(tmp_path):
    wishes = [
        {"only_correct": correct, "division": division, "given": given, "background": background}
        for correct in (False, True)
        for division, given in (*((Arv, {"objective": objective}) for objective in OBJECTIVES), (LeastSquares, {}))
        for background in (None, 1, 3, 0.001)
    ]
    suffixes = [suffix_of(**wish) for wish in wishes]
    assert len(set(suffixes)) == len(wishes)
    for suffix in suffixes:
        split_path(tmp_path, "m", 1, [[2], [3]], suffix).touch()
    assert len(StoredSplits(tmp_path, "m").find(1, [[2], [3]])) == len(wishes)
    for expected, wish in (
        ("", {}),
        ("_only_correct", {"only_correct": True}),
        ("_only_correct_contrast", {"only_correct": True, "given": {"objective": "contrast"}}),
        ("_absolute", {"given": {"objective": "absolute"}}),
        ("_background", {"background": 1.0}),
        ("_least_squares_background0.1", {"division": LeastSquares, "background": 0.1}),
    ):
        assert suffix_of(**wish) == expected
    assert str(split_path("f", "m", 1, [[2, 3], [4]], "_absolute")) == "f/m_channel1_2-3_4_absolute.pt"


def test_exactly_the_splits_of_a_channel_and_its_concepts_are_found(tmp_path):
    own = ["", "_only_correct", "_absolute", "_contrast", "_only_correct_contrast", "_least_squares_background"]
    channel = ["m_channel1_2_3_4", "m_channel1_2-3_4", "m_channel1_3_2", "m_channel1_2_30", "m_channel1_2_3_best"]
    others = ["m_channel10_2_3", "m_channel11_2_3", "other_channel1_2_3", "xm_channel1_2_3", "m_references"]
    names = [f"m_channel1_2_3{suffix}" for suffix in own]
    for name in [*names, *channel, *others]:
        (tmp_path / f"{name}.pt").touch()
    (tmp_path / "m_channel1_2_3.json").touch()
    (tmp_path / ".m_channel1_2_3.pt.ab.tmp").touch()
    stored = StoredSplits(tmp_path, "m")
    assert [path.stem for path in stored.find(1, [[2], [3]])] == sorted(names)
    assert [path.stem for path in stored.find(1)] == sorted([*names, *channel])
    assert [path.stem for path in stored.find(1, [[2, 3], [4]])] == ["m_channel1_2-3_4"]
    assert [path.stem for path in stored.all()] == sorted([*names, *channel, *others[:2]])
    assert stored.find(1, [[5], [6]]) == stored.find(12) == StoredSplits(tmp_path / "none", "m").find(1) == []


def test_a_split_file_is_applied_to_a_network_in_one_call(tmp_path):
    network = factories.small()
    context = {"layer": "last", "weights_sha256": fingerprint(network), "num_channels": 12}
    paths = [tmp_path / f"{channel}.pt" for channel in (1, 2)]
    for channel, path in zip((1, 2), paths, strict=True):
        write_split(path, split_file(network.last, channel, **context))
    changed = split_network(network, *paths)
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(changed(x), network(x), rtol=1e-4, atol=1e-5)
    assert changed.last.channels == [1, 2]
    with pytest.raises(ValueError, match="only once"):
        split_network(network, paths[0], paths[0])
    with pytest.raises(ValueError, match="with other weights"):
        split_network(factories.other_weights(), *paths)
    with pytest.raises(ValueError, match="split already"):
        split_network(changed, paths[0])
    with pytest.raises(ValueError, match="no split file"):
        split_network(network)


def test_the_context_of_the_tests_is_that_of_split_files():
    assert set(CONTEXT) == set(splits.SPLIT_CONTEXT)
