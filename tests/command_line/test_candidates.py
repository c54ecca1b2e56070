"""Many pairs in one process: equal to single runs, each class's images read once."""

import itertools
import json
import re

import pytest

from tests.scripts import COMPUTE, NETWORK, ROOT, SMALL_IMAGES, contents, run_script, stage2, stage3, stage4
from utils.store.candidates import read_candidates

pytestmark = pytest.mark.usefixtures("without_figures")

PAIRS = ((9, "1", "3"), (4, "1", "3"), (9, "0", "3"), (2, "1", "dog"))
TEXT = "\ufeff# mine\n9: 1, 3\n4: 1, 3   # again the same classes\n\n9 0 3\n2; 1; DOG\n9: bee, 3\n"
TAU = ("--proportion_attribution_required", "0.0001")


def classes(class1, class2):
    return ("--classes_for_concept1", class1, "--classes_for_concept2", class2)


def many(script, folder, *more):
    flags = ("--data_dir", "data", "--store_dir", "store", "--candidates", "pairs.txt", *more)
    result = run_script(script, *NETWORK, *COMPUTE, *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result


def read_images(result, description):
    """How many images a progress bar has counted to."""
    return int(re.findall(rf"{description}: 100%.*?(\d+)/\d+ ", result.stderr.replace("\r", "\n"))[-1])


def test_splits_equal_those_of_single_runs_and_each_image_is_read_once(copy):
    (copy / "pairs.txt").write_text(TEXT)
    for channel, *pair in PAIRS:
        stage3("data", "store", "--batch_size", "4", channel=channel, pair=classes(*pair), cwd=copy)
    folder = copy / "store" / "models_disentangled"
    single = contents(folder)
    assert len(single) == 4
    for name in single:
        (folder / name).unlink()
    result = many("disentangle_channel.py", copy, "--batch_size", "4")
    assert contents(folder) == single
    assert read_images(result, "choosing rho") == 3 * 6  # ant, bee and dog, six images each
    assert result.stdout.count("<- chosen") == 4
    assert result.stdout.count("merged channel against the original") == 4
    next_command = (
        r"^or the fractions .*: python \S*get_results.py .*--candidates pairs.txt --split_by arv --prop\S+ 0.05$"
    )
    assert re.search(next_command, result.stdout, re.MULTILINE)


def test_results_equal_those_of_single_runs_and_each_image_is_read_once(copy):
    (copy / "pairs.txt").write_text(TEXT)
    many("disentangle_channel.py", copy)
    for channel, *pair in PAIRS:
        stage4("data", "store", "--get_quantitative", *TAU, channel=channel, pair=classes(*pair), cwd=copy)
    results = copy / "results_quantitative"
    single = {name: comparable(data) for name, data in contents(results).items()}
    for name in single:
        (results / name).unlink()
    result = many("get_results.py", copy, "--get_quantitative", "--get_qualitative", *TAU)
    assert {name: comparable(data) for name, data in contents(results).items()} == single
    assert read_images(result, "validation images") == 3 * 4
    assert result.stdout.count("| all 4 ") == 2
    assert len(list((copy / "plots").glob("*_density.png"))) == 2 * 4


def test_a_split_that_fails_its_check_does_not_keep_the_others_from_being_stored(copy):
    """Channel 0 of this network changes as soon as the layer has other rows."""
    model = ("--model", "tests.factories:row_aware", "--store_dir", "aware", "--data_dir", "data", *COMPUTE)
    images = (*SMALL_IMAGES, "--batch_size", "4")
    (copy / "pairs.txt").write_text("0: 1, 3\n9: 1, 3\n")
    for script, flags in (
        ("get_importances_for_classes.py", (*model, *images)),
        ("get_cosine_similarities.py", model[:4]),
    ):
        assert run_script(script, *flags, cwd=copy).returncode == 0
    result = run_script("disentangle_channel.py", *model, "--candidates", "pairs.txt", cwd=copy)
    assert result.returncode == 2
    assert "1 of 2 candidates could not be split: channel 0: the split network does not equal the orig" in result.stderr
    assert [path.name[-15:] for path in (copy / "aware" / "models_disentangled").iterdir()] == ["channel9_1_3.pt"]


def comparable(data):
    """A file of results without what says when it was made."""
    if not data.startswith(b"{"):
        return data
    return {name: value for name, value in json.loads(data).items() if name not in ("evaluation", "sha256")}


def test_the_table_of_stage_2_can_be_given_as_it_is(copy):
    stage2("store", "--cos_sim_low", "-1", "--output_dir", "made", cwd=copy)
    (table,) = (copy / "made" / "results_get_cosine_similarities").glob("*0.05*.txt")
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    assert [(pair.channel, pair.concepts) for pair in read_candidates(table).candidates] == [
        (int(row[0]), [[row[1]], [row[2]]]) for row in rows
    ]
    table.rename(copy / "pairs.txt")
    many("disentangle_channel.py", copy)
    assert len(list((copy / "store" / "models_disentangled").iterdir())) == len(rows)


def test_the_pairs_of_the_paper_are_those_of_the_shell_scripts():
    found = [
        (pair.channel, *itertools.chain(*pair.concepts))
        for pair in read_candidates(ROOT / "paper_pairs.txt").candidates
    ]
    for script in ("disentanglement_calls.sh", "quantitative_evaluation_calls.sh"):
        lines = re.findall(r"^\w+ (\d+) (\d+) (\d+)$", (ROOT / script).read_text(), re.MULTILINE)
        assert [(int(channel), first, second) for channel, first, second in lines] == found
    assert len(found) == 20


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("disentangle_channel.py", ("--candidates", "none.txt"), "--candidates none.txt: there is no such file"),
        ("get_results.py", ("--candidates", "none.txt"), "--candidates none.txt: there is no such file"),
        ("disentangle_channel.py", ("--channel_disentangle", "9", "3"), "--candidates pairs.txt has no channel 3"),
        ("disentangle_channel.py", classes("1", "3"), "leave out --classes_for_concept1"),
        ("get_results.py", classes("1", "3"), "leave out --classes_for_concept1"),
        ("disentangle_channel.py", (), "--candidates pairs.txt, line 2: --channel_disentangle 12 is out of range"),
        ("get_results.py", (), "--candidates pairs.txt, line 2: --channel_of_interest 12 is out of range"),
    ],
)
def test_what_cannot_be_done_is_one_line(finished, tmp_path, script, flags, message):
    (tmp_path / "pairs.txt").write_text("9: 1, 3\n12: 1, 3\n" if flags else "# mine\n12: 1, 3\n")
    given = ("--data_dir", finished / "data", "--store_dir", finished / "store", "--candidates", "pairs.txt")
    result = run_script(script, *NETWORK, *COMPUTE, *given, *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().split("\n")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.txt"]
