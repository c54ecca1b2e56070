"""Nothing wrong is stored, nothing of different networks is mixed, and what is damaged harms nothing else."""

import re
import resource
import shutil
import subprocess

import pytest
import torch

from tests import factories
from tests.refusals import IMPORTANCES, NEW, SPLIT, STAGE1, STAGE2, STAGE3, STAGE4, refused, usual
from tests.scripts import COMPUTE, NETWORK, ROOT, RUN, contents, python, run_script

pytestmark = pytest.mark.usefixtures("without_figures")


def test_results_of_other_weights_are_not_mixed(copy):
    result = run_script(STAGE4, *usual(STAGE4, "--get_quantitative"), cwd=copy)
    assert result.returncode == 0, result.stderr
    (path,) = (copy / "results_quantitative" / "pairs").iterdir()
    (copy / "results_quantitative" / "pairs" / "damaged.json").write_text(path.read_text()[:-30])
    refused(STAGE4, usual(STAGE4), "damaged.json is damaged", copy)
    (copy / "results_quantitative" / "pairs" / "damaged.json").unlink()
    torch.save(factories.other_weights().state_dict(), copy / "other.pth")
    shutil.rmtree(copy / "store")
    for script in (STAGE1, STAGE2, STAGE3):
        result = run_script(script, *usual(script, "--weights", "other.pth"), cwd=copy)
        assert result.returncode == 0, result.stderr
    result = run_script(STAGE4, *usual(STAGE4, "--weights", "other.pth", "--rho", "0.5"), cwd=copy)
    assert result.returncode == 0, result.stderr
    assert "1 result left out, as the split has changed since" in result.stderr


@pytest.mark.parametrize("script", [STAGE2, STAGE3, STAGE4])
def test_weights_that_were_given_once_must_be_given_again(copy, script):
    torch.save(factories.other_weights().state_dict(), copy / "other.pth")
    shutil.rmtree(copy / "store")
    for stage in (STAGE1, STAGE2, STAGE3):
        result = run_script(stage, *usual(stage, "--weights", "other.pth"), cwd=copy)
        assert result.returncode == 0, result.stderr
    refused(script, usual(script), "was made with --weights other.pth: give them again", copy)


@pytest.mark.parametrize("script", [STAGE1, STAGE2, STAGE3])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(copy, script):
    """Files may not grow beyond 200 bytes here, which writing notices as it notices a full disk."""
    before = contents(copy)
    arguments = usual(script, *{STAGE1: NEW, STAGE2: ("--p", "0.6"), STAGE3: ("--rho_objective", "contrast")}[script])
    result = subprocess.run(
        [python(), ROOT / script, *map(str, arguments)],
        cwd=copy,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200)),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert re.search("^[a-z0-9_.]+py: error: .*cannot write.*File too large", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr
    assert contents(copy) == before


def test_a_place_that_takes_no_result_of_many_is_named(copy):
    (copy / "results_quantitative").write_text("no folder")
    (copy / "pairs.txt").write_text("9: 1, 3\n4: 1, 3\n")
    flags = ("--data_dir", "data", "--store_dir", "store", "--candidates", "pairs.txt", "--get_quantitative")
    message = "2 of 2 candidates could not be evaluated: channel 4: "
    result = refused(STAGE4, (*NETWORK, *flags, *COMPUTE), message, copy)
    assert "cannot write results_quantitative/pairs/" in result.stderr


def test_a_split_that_does_not_equal_the_original_is_not_stored(copy):
    width_aware = ("--model", "tests.factories:width_aware")
    for script in (STAGE1, STAGE2):
        result = run_script(script, *usual(script, *width_aware), cwd=copy)
        assert result.returncode == 0, result.stderr
    message = "the split network does not equal the original: the split was not stored"
    result = refused(STAGE3, usual(STAGE3, *width_aware), message, copy)
    assert "largest difference 1.0e-02 of its largest value" in result.stdout  # a hundredth, as that network does it
    assert not list(copy.rglob("*width_aware*.pt"))


def test_a_damaged_split_does_not_stand_in_the_way_of_another(copy):
    (copy / SPLIT.replace("_1_3", "_0_1")).write_bytes(b"damaged")
    result = run_script(STAGE4, *usual(STAGE4), cwd=copy)
    assert result.returncode == 0, result.stderr


def test_a_chunk_of_another_store_is_noticed(copy):
    result = run_script(STAGE1, *usual(STAGE1, "--interpolation", "bicubic", *NEW), cwd=copy)
    assert result.returncode == 0, result.stderr
    foreign = copy / "new" / f"{RUN}_channel_importances" / "chunk_000001.npz"
    shutil.copy(foreign, copy / IMPORTANCES)
    message = f"{IMPORTANCES}/chunk_000001.npz is of another store: delete it"
    refused(STAGE2, usual(STAGE2, "--proportion_attribution_required", "0.2"), message, copy)
