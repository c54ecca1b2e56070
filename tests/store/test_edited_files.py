"""Files of edited networks: known by their content, and never written over another file."""

import json

import pytest
import torch

from tests import factories
from utils.errors import UserError
from utils.networks.loading import fingerprint
from utils.networks.state_dicts import EDIT_RECORD, edit_record
from utils.store.edited_files import EditedFile

EDITS = {"factor": 0.0, "to": "mean", "weights_sha256": "00", "channels": [{"layer": "last", "channel": 3}]}
RECORD = {"model": "m", "factor": 0.0}


def edited():
    network = factories.small()
    setattr(network, EDIT_RECORD, EDITS)
    return network


def test_a_written_network_is_found_and_loads_strictly(tmp_path):
    file = EditedFile(tmp_path / "folder" / "edited.pth")
    file.require_writable()
    assert file.read() is None and file.find(RECORD) is None
    file.write(edited().to(memory_format=torch.channels_last), RECORD)
    assert file.read().items() >= RECORD.items()
    state = torch.load(file.path, weights_only=True)
    assert edit_record(state) == EDITS
    assert all(value.is_contiguous() for value in state.values())
    network = factories.other_weights()
    network.load_state_dict(state, strict=True)
    assert fingerprint(network) == fingerprint(factories.small())
    assert file.find(RECORD) == file.read()
    assert file.find({**RECORD, "factor": 0.5}) is None
    file.require_writable()
    torch.save(edited().state_dict(), file.path)  # by someone else
    assert file.find(RECORD) is None
    with pytest.raises(UserError, match="is there and is no edited network"):
        file.require_writable()


def test_one_of_the_two_files_is_enough_to_go_on(tmp_path):
    file = EditedFile(tmp_path / "edited.pth")
    for left in (file.path, file.record_path):
        file.write(edited(), RECORD)
        left.unlink()
        assert file.find(RECORD) is None
        file.require_writable()


def test_names_that_differ_after_the_last_dot_have_records_of_their_own(tmp_path):
    names = ("edited_0.5", "edited_0.25", "edited.pth", "edited.pt")
    for number, name in enumerate(names):
        file = EditedFile(tmp_path / name)
        file.require_writable()
        file.write(edited(), {"factor": number})
    assert [EditedFile(tmp_path / name).read()["factor"] for name in names] == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, *(f"{name}.json" for name in names)])


def test_where_nothing_can_be_written_is_known_before(tmp_path):
    EditedFile(tmp_path / "new" / "edited.pth").require_writable()
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_text("")
    for name in ("file/edited.pth", "x" * 230 + ".pth"):  # with .json and a temporary file's ending, that is too long
        with pytest.raises(UserError, match=r"cannot write .*\.json \(.*\): nothing was stored in its place"):
            EditedFile(tmp_path / name).require_writable()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("edited.pth", b"text", "edited.pth is there and is no edited network: choose another name"),
        ("edited.pth", b"", "edited.pth is there and is no edited network"),
        ("edited.pth.json", b"{}", "edited.pth.json is there and is no record of an edited network"),
        ("edited.pth.json", b"text", "edited.pth.json is there and is no record of an edited network"),
        ("edited.pth.json", json.dumps({"format": 1, "file_sha256": "00", "sha256": "00"}).encode(), "is no record of"),
    ],
)
def test_other_files_stay_as_they_are(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        EditedFile(tmp_path / "edited.pth").require_writable()
    assert (tmp_path / name).read_bytes() == content


def test_names_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"its record has a name in \.json"):
        EditedFile(tmp_path / "edited.json").require_writable()
    with pytest.raises(UserError, match=r"is a folder: name a file in it, for example edited\.pth"):
        EditedFile(tmp_path).require_writable()
