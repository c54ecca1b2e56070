"""Images, networks and stores that have changed, gone or cannot be written since stage 1."""

import json
import os
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import factories
from tests.pictures import write_image, write_images
from tests.scripts import (
    CHANNEL,
    COMPUTE,
    NETWORK,
    PAIR,
    ROOT,
    RUN,
    SMALL_IMAGES,
    contents,
    messages,
    run_script,
    stage1,
    stage2,
    stage3,
    stage4,
    succeed,
)
from utils.errors import UserError
from utils.store.importance_store import ImportanceStore

pytestmark = pytest.mark.usefixtures("without_figures")

TAU = ("--proportion_attribution_required", "0.0001")
RESULTS = "results_quantitative/pairs/*.json"
OWN = ("--model", "own:network", "--store_dir", "store")


def split(folder, *more, pair=PAIR):
    flags = (*NETWORK, *COMPUTE, "--data_dir", "data", "--store_dir", "store", "--channel_disentangle", 4, *pair)
    return run_script("disentangle_channel.py", *flags, *more, cwd=folder)


def replace_image(path):
    """Put another image of the same size in bytes in the place of one; decoders do not read what follows an image."""
    size = path.stat().st_size
    Image.new("RGB", (28, 28), (1, 2, 3)).save(path)
    with open(path, "ab") as file:
        file.write(bytes(size - file.tell()))
    assert path.stat().st_size == size


@pytest.fixture
def own(tmp_path):
    """A folder with a module ``own`` that has the network, and stages 1 to 3 of it; a val store beside the store."""
    write_images(tmp_path / "data")
    (tmp_path / "own.py").write_text("from tests.factories import small as network\n")
    data = ("--data_dir", "data", "--batch_size", "4", *COMPUTE)
    for more in ((), ("--images", "val")):
        succeed("get_importances_for_classes.py", *OWN, *data, *SMALL_IMAGES, *more, cwd=tmp_path)
    succeed("get_cosine_similarities.py", *OWN, cwd=tmp_path)
    succeed("disentangle_channel.py", *OWN, *data, "--channel_disentangle", CHANNEL, *PAIR, cwd=tmp_path)
    return tmp_path


# --------------------------------------------------------------------------------------------------------------------
# Training images


@pytest.mark.parametrize("more", [(), ("--skip_unreadable",)])
def test_an_image_that_was_replaced_since_stage_1_stops_stage_3(copy, more):
    path = copy / "data" / "train" / "bee" / "3.png"
    replace_image(path)
    before = contents(copy / "store")
    result = split(copy, *more)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert f"{path.relative_to(copy)} is not the image that stage 1 measured: its content has changed" in line
    assert contents(copy / "store") == before
    assert split(copy, pair=("--classes_for_concept1", "0", "--classes_for_concept2", "2")).returncode == 0


def test_further_images_in_train_change_nothing(copy):
    stage3("data", "store", channel=4, cwd=copy)
    path = copy / "store" / "models_disentangled" / f"{RUN}_channel4_1_3.pt"
    before = path.read_bytes()
    path.unlink()
    write_image(copy / "data" / "train" / "bee" / "0000.png", 2, 7)
    write_image(copy / "data" / "train" / "aardvark" / "0.png", 2, 8)
    stage3("data", "store", channel=4, cwd=copy)
    assert path.read_bytes() == before


def test_a_missing_image_is_named(copy):
    (copy / "data" / "train" / "dog" / "2.png").unlink()
    before = contents(copy / "store")
    result = split(copy, "--skip_unreadable")
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert "data/train/dog/2.png" in line
    assert "No such file" in line
    assert contents(copy / "store") == before


# --------------------------------------------------------------------------------------------------------------------
# The network


def test_stage_2_needs_no_network_and_compares_one_where_weights_are_named(own):
    out = succeed("get_cosine_similarities.py", *OWN, cwd=own)
    torch.save(factories.small().state_dict(), own / "same.pth")
    torch.save(factories.other_weights().state_dict(), own / "other.pth")
    assert (
        succeed("get_cosine_similarities.py", *OWN, "--weights", "same.pth", cwd=own).split("next: ")[0]
        == (out.split("next: ")[0])
    )
    result = run_script("get_cosine_similarities.py", *OWN, "--weights", "other.pth", cwd=own)
    assert result.returncode == 2
    assert "was made with another weights" in result.stderr
    (own / "own.py").unlink()
    shutil.rmtree(own / "__pycache__", ignore_errors=True)
    assert succeed("get_cosine_similarities.py", *OWN, cwd=own) == out
    result = run_script("get_cosine_similarities.py", *OWN, "--weights", "same.pth", cwd=own)
    assert result.returncode == 2
    assert "own" in result.stderr


# --------------------------------------------------------------------------------------------------------------------
# The val store


def evaluate(folder, *more, output="."):
    flags = ("--data_dir", "data", *COMPUTE, "--channel_of_interest", CHANNEL, *PAIR, "--output_dir", output)
    return run_script("get_results.py", *OWN, *flags, "--batch_size", "4", "--rho", "0.5", *more, cwd=folder)


def measured(folder):
    (path,) = folder.glob(RESULTS)
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in ("evaluation", "sha256")}


def test_the_val_store_makes_the_results_of_a_pass_without_images_and_network(own):
    hidden = (own / "store" / "own-network_channel_importances_val").rename(own / "hidden")
    result = evaluate(own, *TAU, output="pass")
    assert result.returncode == 0, result.stderr
    assert "; images of data/val\n" in result.stdout
    hidden.rename(own / "store" / "own-network_channel_importances_val")
    shutil.rmtree(own / "data")
    (own / "own.py").unlink()
    shutil.rmtree(own / "__pycache__", ignore_errors=True)
    result = evaluate(own, *TAU, output="stored")
    assert result.returncode == 0, result.stderr
    assert "; measured by store/own-network_channel_importances_val\n" in result.stdout
    assert measured(own / "stored") == measured(own / "pass")
    tables = [contents(own / way / "results_quantitative") for way in ("stored", "pass")]
    texts = [{name: data for name, data in one.items() if not name.startswith("pairs")} for one in tables]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 5
    assert sorted(contents(own / "stored" / "plots")) == sorted(contents(own / "pass" / "plots"))


@pytest.mark.parametrize("more", [("--get_channel_card",), ("--get_quantitative", "--precision", "bf16")])
def test_what_the_val_store_does_not_have_makes_a_pass(own, more):
    result = evaluate(own, *more)
    assert result.returncode == 0, result.stderr
    assert "; images of data/val\n" in result.stdout
    assert bool(list((own / "plots").glob("*_card.png"))) == (more[0] == "--get_channel_card")


def test_unknown_folders_of_val_are_named_and_left_out(copy):
    for name in ("aardvark", "zebra"):
        write_image(copy / "data" / "val" / name / "0.png", 0, 0)
    shutil.rmtree(copy / "data" / "val" / "cat")
    out = stage1("data", "store", "--images", "val", cwd=copy)
    assert "2 folders of data/val are not in the training store and are left out: aardvark, zebra\n" in out
    assert "12 images of 3 classes" in out
    store = ImportanceStore(copy / "store", RUN, "val")
    assert store.load_meta()["class_counts"] == {"ant": 4, "bee": 4, "dog": 4}
    out = stage4("data", "store", "--get_quantitative", *TAU, cwd=copy)
    assert "; measured by store/" in out


def test_a_val_image_that_has_gone_is_a_missing_one_only_for_a_pass(own):
    (own / "data" / "val" / "bee" / "1.png").unlink()
    assert evaluate(own, "--get_quantitative", *TAU).returncode == 0
    assert len(measured(own)["images"][0]["paths"]) == 4


# --------------------------------------------------------------------------------------------------------------------
# A store that cannot be written


def test_a_store_that_cannot_be_written_is_read_where_everything_is_there(copy, tmp_path, monkeypatch, capsys):
    """Nobody can be kept from writing who may do everything, as those who run tests in containers: renaming fails."""
    out = stage2("store", cwd=copy)
    replace = os.replace

    def read_only(source, target):
        if (copy / "store") in Path(target).resolve().parents:
            raise PermissionError(13, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", read_only)
    monkeypatch.chdir(copy)
    flags = (*NETWORK, "--store_dir", "store", "--p", "0.5", "--cos_sim_high", "1")
    flags += ("--output_dir", str(tmp_path / "out"))
    script = runpy.run_path(str(ROOT / "get_cosine_similarities.py"))
    parser = script["get_args_parser"]()
    before = contents(copy / "store")

    def settings(tau):
        return script["settings_from"](parser.parse_args([*flags, "--proportion_attribution_required", tau]), parser)

    script["main"](settings("0.05"))
    assert capsys.readouterr().out.split("\n")[0] == out.split("\n")[0]
    assert contents(copy / "store") == before
    with pytest.raises(UserError, match=r"cannot write .*Permission denied"):
        script["main"](settings("0.2"))
