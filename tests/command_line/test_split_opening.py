"""Where the splits are that stage 4 is asked for."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.scripts import COMPUTE, NETWORK, RUN, run_script
from tests.stores import split_file
from utils.command_line import split_opening
from utils.command_line.settings import ResultSettings, model_dir_of
from utils.errors import UserError
from utils.store.splits import read_split, write_split

TAU = ("--proportion_attribution_required", "0.0001")


def asked(splits=(), model_dir=None):
    where = {"splits": tuple(splits), "model_dir": model_dir, "store_dir": "store"}
    return ResultSettings(**where, division_given={}, num_workers=0)


@pytest.mark.parametrize(
    "settings, folder",
    [
        (asked(), "store/models_disentangled"),
        (asked(model_dir="mine"), "mine"),
        (asked(["mine/a.pt", "./mine/../mine/b_layer.json"]), "mine"),
        (asked(["a.pt"]), "."),
        (asked(["mine/a.pt"], "./mine/"), "mine"),
    ],
)
def test_the_folder_of_the_splits_is_that_of_the_named_files(settings, folder):
    assert model_dir_of(settings).resolve() == Path(folder).resolve()


@pytest.mark.parametrize(
    "settings, message",
    [
        (asked(["mine/a.pt", "other/b.pt"]), "--splits names files of several folders, mine and other"),
        (asked(["other/a.pt"], "mine"), "--splits is not in --model_dir, mine and other"),
    ],
)
def test_splits_of_several_folders_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        model_dir_of(settings)


def test_the_folder_is_listed_once_for_all_candidates_and_each_split_is_read_once(tmp_path, monkeypatch):
    folder = tmp_path / "store" / "models_disentangled"
    for channel in range(3):
        write_split(folder / f"m_channel{channel}_0_1.pt", split_file(nn.Conv2d(5, 3, 1), channel))
    (tmp_path / "pairs.txt").write_text("0: 0, 1\n1: 0, 1\n2: 0, 1\n")
    listed, read, listdir = [], [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (listed.append(path), listdir(path))[1])
    monkeypatch.setattr(split_opening, "read_split", lambda path: (read.append(path.name), read_split(path))[1])
    settings = replace(asked(), splits=None, store_dir=str(tmp_path / "store"), candidates=str(tmp_path / "pairs.txt"))
    settings = replace(settings, model="m", layer_of_interest="last_conv")
    opened = split_opening.open_splits(settings, torch.device("cpu"))
    assert [split.file.split.channel for split in opened.splits] == [0, 1, 2]
    assert listed == [folder] and read == [f"m_channel{channel}_0_1.pt" for channel in range(3)]


def test_splits_elsewhere_are_not_compared_with_others_of_their_names(copy, without_figures):
    (copy / "elsewhere").mkdir()
    (split,) = (copy / "store" / "models_disentangled").glob("*.pt")
    split.rename(copy / "elsewhere" / split.name)
    split.write_bytes(b"another one")
    wish = (*TAU, "--get_quantitative", "--get_effect")
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE, *wish, "--splits", f"elsewhere/{split.name}")
    result = run_script("get_results.py", *NETWORK, *flags, cwd=copy)
    assert result.returncode == 0 and "left out" not in result.stderr and "not checked" not in result.stderr
    assert "| 9 " in result.stdout
    assert (copy / "results_quantitative/effect.csv").read_text().count(f"{RUN},last,9,") == 2
