"""Where the splits are that stage 4 is asked for."""

from pathlib import Path

import pytest

from tests.scripts import COMPUTE, NETWORK, RUN, run_script
from utils.command_line.settings import ResultSettings
from utils.command_line.split_opening import model_dir_of
from utils.errors import UserError

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
