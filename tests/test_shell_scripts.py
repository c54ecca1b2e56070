"""The two shell scripts: the paper's 20 pairs, flags from the environment, and a stop at the first failure.

What they call understands its flags. (demo.sh and reproduce_paper.sh are run as they are by other tests.)
"""

import os
import subprocess

import pytest

from tests.commands import Command, complaint
from tests.scripts import ROOT

PAIRS = """522 62 687, 1404 385 834, 895 631 946, 242 515 619, 522 61 687, 1660 530 938, 242 515 846, 242 619 808,
895 467 946, 242 808 846, 1349 27 889, 1832 852 984, 1773 791 958, 1349 27 486, 1698 57 515, 1698 57 808, 1698 58 515,
1698 58 808, 1698 53 515, 1698 53 808"""


def call(script, folder, fails_at="none"):
    """Run a shell script with a python that notes its arguments, and fails at one channel and class.

    A CompletedProcess, and the words of each call.
    """
    fake = folder / "python"
    note = f'{{ printf "%s\\t" "$@"; echo; }} >> {folder}/calls'
    fake.write_text(f'#!/bin/sh\n{note}\ncase "$*" in *"{fails_at}"*) exit 2;; esac\n')
    fake.chmod(0o755)
    variables = {"DATA_DIR": "/my data", "STORE_DIR": "/my/store", "EXTRA_FLAGS": "--device cpu --batch_size 8"}
    result = subprocess.run(
        ["sh", ROOT / script],
        cwd=folder,
        env={**os.environ, "PYTHON": str(fake), **variables},
        capture_output=True,
        text=True,
    )
    return result, [line.rstrip("\t").split("\t") for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize(
    ("script", "stage", "channel_flag"),
    [
        ("disentanglement_calls.sh", "disentangle_channel.py", "--channel_disentangle"),
        ("quantitative_evaluation_calls.sh", "get_results.py", "--channel_of_interest"),
    ],
)
def test_the_papers_pairs_are_run_and_the_first_failure_stops_them(script, stage, channel_flag, tmp_path):
    result, calls = call(script, tmp_path)
    assert result.returncode == 0
    expected = [
        f"{channel_flag} {channel} --classes_for_concept1 {class1} --classes_for_concept2 {class2}"
        for channel, class1, class2 in (pair.split() for pair in PAIRS.split(","))
    ]
    assert len(calls) == len(expected) == 20
    for called, words in zip(calls, expected, strict=True):
        assert complaint(Command(1, stage, tuple(called[1:]))) is None
        line = " ".join(called)
        assert line.startswith(f"{ROOT}/{stage} --data_dir /my data --store_dir /my/store --model resnet50 ")
        assert words in line
        assert line.endswith("--device cpu --batch_size 8")
        assert ("--get_quantitative" in line) == (stage == "get_results.py")
    (tmp_path / "calls").unlink()
    result, calls = call(script, tmp_path, fails_at="--classes_for_concept1 515 --classes_for_concept2 619")
    assert result.returncode == 2
    assert len(calls) == 4
    assert result.stderr == f"{script}: stopped at channel 242, classes 515 and 619\n"
