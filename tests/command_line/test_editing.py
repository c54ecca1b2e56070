"""``--write_edited``: the state dict, what was taken out and what it costs, and the lines that load it anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from tests import factories
from tests.oracles import load
from tests.refusals import STAGE4, refused, usual
from tests.scripts import CHANNEL, COMPUTE, RUN, run_script, stage4, succeed
from tests.splits import fitted_split
from tests.stores import split_file
from utils.command_line.editing import chosen_concepts
from utils.errors import UserError
from utils.method.disentangling import Concept
from utils.networks.ablation import ablated
from utils.networks.layers import find_layer
from utils.networks.loading import fingerprint, load_network
from utils.networks.model_names import model_name
from utils.store import edited_network, split_network
from utils.store.files import json_digest
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import read_split, write_split

SPLIT = f"store/models_disentangled/{RUN}_channel{CHANNEL}_1_3.pt"
EDIT = ("--write_edited", "edited.pth", "--edit_concepts", "bee")
HEAD = "To load it, without this project:\n\n"
CLASSES = {"ant": 0, "bee": 1, "cat": 2, "dog": 3}
OF_A_USER = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Tanh(), nn.Conv2d(8, 6, 1, bias=False), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()
"""
COMPARE = """
images, expected = torch.load({images!r})
torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
"""


def edit(folder, *more):
    return stage4(folder / "data", folder / "store", *EDIT, *more, cwd=folder)


def logits_by_hand(pixels, part):
    """Of the network of the tests, whose channel has lost the part of a concept, and the original's."""
    split = read_split(part).split
    network, edited = factories.small(), factories.small()
    left = 1 - split.shares(split.rho)[0].double()
    edited.last.weight[CHANNEL] = (split.weight.double() * left[:, None]).float()[..., None]
    edited.head[0].running_mean[CHANNEL] -= float(split.exclusive_means(split.rho)[0])
    return network(pixels), edited(pixels)


def test_the_record_says_what_was_taken_out_and_what_it_costs(copy):
    shown = edit(copy)
    record = json.loads((copy / "edited.pth.json").read_text())
    assert record.pop("sha256") == json_digest(record)
    pixels, targets = load(copy, "val")
    before, after = logits_by_hand(pixels, copy / SPLIT)
    cost = record["cost"]
    assert cost["images"] == len(pixels) and cost["classes"] == 4
    correct = [logits.argmax(1) == targets for logits in (before, after)]
    assert [cost["top1_before"], cost["top1_after"]] == [float(of.double().mean()) for of in correct]
    assert cost["changed_predictions"] == int((before.argmax(1) != after.argmax(1)).sum())
    change = (after - before).gather(1, targets[:, None])[:, 0].double()
    assert cost["own_logit_change"] == pytest.approx(float(change.mean()), rel=1e-3)
    rows = {row["name"]: row for row in cost["by_class"]}
    for name, output in CLASSES.items():
        own = targets == output
        counts = [int(of[own].sum()) for of in correct]
        assert [rows[name]["correct_before"], rows[name]["correct_after"]] == counts
        assert rows[name]["images"] == int(own.sum())
        assert rows[name]["own_logit_change"] == pytest.approx(float(change[own].mean()), rel=1e-3, abs=1e-6)
    assert rows["bee"]["own_logit_change"] < 0
    assert cost["lose_most"][0]["name"] == min(
        rows,
        key=lambda name: (rows[name]["correct_after"] - rows[name]["correct_before"], rows[name]["own_logit_change"]),
    )
    assert all(row["own_logit_change"] < 0 or row["correct_after"] < row["correct_before"] for row in cost["lose_most"])
    stored = read_split(copy / SPLIT)
    (split,) = record["splits"]
    assert split["concepts"] == [{"number": 1, "name": "bee", "classes": [1]}]
    assert [split["sha256"], split["channel"], split["rho"]] == [stored.sha256, CHANNEL, stored.split.rho]
    network = edited_network(factories.small(), copy / SPLIT, {CHANNEL: "bee"})
    assert record["weights_sha256"] == fingerprint(factories.small())
    assert record["edited_weights_sha256"] == fingerprint(network)
    assert fingerprint(load_network("tests.factories:small", str(copy / "edited.pth")).module) == fingerprint(network)
    assert "bee" in shown and shown.rstrip().endswith("network.eval()")
    assert f"top-1 of {len(pixels)} validation images of 4 classes" in shown


def test_what_is_there_and_equal_is_not_measured_again(copy):
    edit(copy)
    before = (copy / "edited.pth").read_bytes(), (copy / "edited.pth.json").read_bytes()
    shown = edit(copy)
    assert "already stored: edited.pth" in shown and "top-1 of" in shown and HEAD in shown
    assert before == ((copy / "edited.pth").read_bytes(), (copy / "edited.pth.json").read_bytes())
    (copy / "edited.pth.json").unlink()  # stopped in between
    edit(copy)
    assert before == ((copy / "edited.pth").read_bytes(), (copy / "edited.pth.json").read_bytes())
    assert "already stored" not in edit(copy, "--edit_factor", "0.5", "--edit_to", "zero")
    record = json.loads((copy / "edited.pth.json").read_text())
    assert [record["factor"], record["to"], record["running_means"]] == [0.5, "zero", {}]
    network = edited_network(factories.small(), copy / SPLIT, {CHANNEL: "bee"}, factor=0.5, to="zero")
    assert record["edited_weights_sha256"] == fingerprint(network)


def test_a_file_that_was_moved_is_not_measured_again_and_loads_from_where_it_is(copy):
    edit(copy)
    (copy / "moved").mkdir()
    for name in ("edited.pth", "edited.pth.json"):
        (copy / name).rename(copy / "moved" / name)
    shown = edit(copy, "--write_edited", "moved/edited.pth")
    assert "already stored: moved/edited.pth" in shown
    assert f"torch.load({str(copy.resolve() / 'moved' / 'edited.pth')!r}" in shown
    record = json.loads((copy / "moved" / "edited.pth.json").read_text())
    assert "torch.load('edited.pth'" in "".join(record["load"])  # in the folder of the file, wherever that is


def test_where_nothing_can_be_written_nothing_is_measured(copy):
    (copy / "file").write_text("")
    spoil_validation_images(copy)  # so that the pass over them would fail
    words = ("--write_edited", "file/edited.pth", "--edit_concepts", "bee")
    refused(STAGE4, usual(STAGE4, *words), "cannot write file/edited.pth.json", copy)


def test_an_edit_that_no_image_can_measure_is_one_line(copy):
    spoil_validation_images(copy)
    result = run_script(STAGE4, *usual(STAGE4, *EDIT, "--skip_unreadable"), cwd=copy)
    line = f"{STAGE4}: error: no validation image could be read: what an edit costs cannot be measured"
    assert result.returncode == 2 and result.stderr.splitlines()[-1] == line and "Traceback" not in result.stderr
    assert not list(copy.glob("edited.pth*"))


def spoil_validation_images(folder):
    for path in (folder / "data" / "val").glob("*/*"):
        path.write_bytes(b"no image")


def test_an_edited_network_is_known_by_its_file(copy):
    edit(copy)
    loaded = load_network("tests.factories:small", str(copy / "edited.pth")).module
    with pytest.raises(ValueError, match="this is an edited network: give all edits in one call with the original"):
        split_network(loaded, copy / SPLIT)
    message = "was made for the original network, of which --weights edited.pth is an edited version: give all edits"
    refused(STAGE4, usual(STAGE4, "--weights", "edited.pth", "--get_effect"), message, copy)


def test_what_cannot_be_written_is_refused(copy):
    torch.save(factories.small().state_dict(), copy / "mine.pth")
    for words, message in (
        (
            ("--write_edited", "mine.pth", "--edit_concepts", "bee"),
            "mine.pth is there and is no edited network: choose",
        ),
        (("--write_edited", "new.pth", "--edit_concepts", "9:eel"), "--edit_concepts 9:eel: channel 9 has no such"),
        (("--write_edited", "new.pth"), "--edit_concepts must be given"),
        (("--edit_concepts", "bee"), "--edit_concepts is for --write_edited: add it"),
        ((*EDIT, "--edit_to", "median"), "--edit_to: must be a number or mean or zero, not 'median'"),
    ):
        refused(STAGE4, usual(STAGE4, *words), message, copy)


def opened_split(channel, *names):
    file = split_file(nn.Conv2d(5, 12, 1), channel, len(names))
    file.split.concepts = [Concept(name, [output]) for output, name in enumerate(names)]
    return OpenedSplit(Path(f"m_channel{channel}.pt"), file, None)


def test_a_concept_is_one_of_a_channel_or_of_every_channel_that_has_it():
    splits = [opened_split(3, "bee", "dog"), opened_split(5, "dog", "eel"), opened_split(7, "ant", "eel")]
    for words, expected in (
        (["dog"], {0: (1,), 1: (0,)}),
        (["3:dog", "eel"], {0: (1,), 1: (1,), 2: (1,)}),
        (["7:eel", "7:ant", "7:EEL"], {2: (1, 0)}),
    ):
        assert chosen_concepts(splits, words) == expected
    for word, message in (
        ("fox", "--edit_concepts fox: no split has such a concept; there are bee, dog, eel, ant"),
        ("3:eel", "--edit_concepts 3:eel: channel 3 has no such concept; there are bee, dog"),
        ("4:eel", "--edit_concepts 4:eel: channel 4 is not among the splits"),
    ):
        with pytest.raises(UserError, match=message):
            chosen_concepts(splits, [word])
    twice = [*splits, opened_split(3, "dog", "fox")]
    assert chosen_concepts(twice, ["fox"]) == {3: (1,)}
    with pytest.raises(UserError, match="channel 3 is split in several of the files: give one of them"):
        chosen_concepts(twice, ["dog"])


# --------------------------------------------------------------------------------------------------------------------
# In a process without this project


def stored_split(folder, model, weights, channel):
    """A network as stage 4 opens it, and a split of a channel of its last convolution, in a file."""
    loaded = load_network(model, weights)
    layer = find_layer(loaded.module, "last_conv", 24)
    transform = {"resize_size": 24, "crop_size": 24, "interpolation": "bilinear"}
    transform |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    context = {
        "model": model_name(model),
        "weights": loaded.weights,
        "weights_sha256": loaded.fingerprint,
        "layer": layer.name,
    }
    context |= {"num_channels": layer.num_channels, "num_outputs": 4, "transform": transform, "classes": CLASSES}
    file = split_file(layer.module, channel, **context)
    file.split = fitted_split(layer.module, channel, 2, seed=channel)
    file.split.concepts = [Concept("bee", [1]), Concept("everything else", [], kind="background")]
    path = folder / f"{model.replace(':', '-')}_channel{channel}_1.pt"
    write_split(path, file)
    return loaded.module, path


def test_the_printed_lines_load_it_in_a_process_without_this_project(finished, tmp_path, monkeypatch):
    """A torchvision network with a BatchNorm after the layer, and a user's, whose layer gets a bias; two channels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OF_A_USER)
    torch.manual_seed(0)
    torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=4).state_dict(), "local.pth")
    code = ""
    for model, weights in (("shufflenet_v2_x0_5", "local.pth"), ("mine.py:network", None)):
        paths = [stored_split(tmp_path, model, weights, channel)[1] for channel in (2, 4)]
        network = load_network(model, weights).module
        words = ("--model", model, *(["--weights", weights] if weights else []), "--splits", *paths)
        edits = ("--write_edited", f"{network.__class__.__name__}.pth", "--edit_concepts", "bee", "4:everything-else")
        shown = succeed("get_results.py", *words, *edits, "--data_dir", finished / "data", *COMPUTE, cwd=tmp_path)
        pixels = torch.randn(3, 3, 32, 32)
        split = split_network(network, *paths)
        with ablated(split, 2, "bee"), ablated(split, 4, "bee"), ablated(split, 4, 2), torch.no_grad():
            torch.save((pixels, split(pixels)), f"{model.partition('.')[0]}.images")
        lines = shown.partition(HEAD)[2]
        assert ("bias = " in lines) == (weights is None)
        code += lines + COMPARE.format(images=f"{model.partition('.')[0]}.images")
    code += "print([name for name in sys.modules if name.split('.')[0] in ('utils', 'tests')])"
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "[]"
