"""The lines that the scripts print lead from stage 1 to the page, run as they are, at the settings of one stage 2."""

import html
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.pictures import write_images
from tests.scripts import COMPUTE, SMALL_IMAGES, printed_commands, run_script, succeed
from utils.command_line import commands
from utils.store.files import read_json
from utils.store.splits import read_split

pytestmark = pytest.mark.usefixtures("without_figures")

CHANNEL = 9
FACTORY = "from tests.factories import small\n"
WHERE = ("--model", "networks/network.py:small", "--data_dir", "data", "--store_dir", "store")
OUT = ("--output_dir", "out")
ASKED = {"tau": 0.05, "p": 0.5, "gamma": 0.6, "min_images": 2, "only_correct": True}  # no default among them
FLAGS = (
    *("--proportion_attribution_required", "0.05", "--p", "0.5", "--cos_sim_low", "-1", "--cos_sim_high", "0.6"),
    *("--min_images", "2", "--only_correct"),
)


def follow(waiting, folder, outputs):
    """Run commands, then those that they print, each once; ``outputs`` has their outputs, by script and words."""
    waiting = list(waiting)
    while waiting:
        words = waiting.pop(0)
        if words not in outputs:
            drawn = {"FIGURES": "coarse"} if "--get_map" in words else {}  # the report shows a map that is there
            result = run_script(*words, cwd=folder, **drawn)
            assert result.returncode == 0, (words, result.stderr)
            outputs[words] = result.stdout
            waiting += [command for _, command in printed_commands(result.stdout)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder in which every printed line has been run, in all branches; and the outputs of all commands."""
    folder = tmp_path_factory.mktemp("chain")
    write_images(folder / "data", train=4, val=2)
    (folder / "networks").mkdir()
    (folder / "networks" / "network.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIGURES", "empty")
        first = succeed("get_importances_for_classes.py", *WHERE, *OUT, *SMALL_IMAGES, *COMPUTE, cwd=folder)
        (_, stage2), *others = printed_commands(first)
        outputs = {}
        follow([(*stage2, *FLAGS)], folder, outputs)  # pairs, groups and the report
        follow([(*stage2, *FLAGS, "--channel", str(CHANNEL))], folder, outputs)  # one pair
        circuits = ("--channel_disentangle", str(CHANNEL), "--concepts_from", "circuits", "--nr_concepts", "2")
        circuits += ("--nr_reference_images", "8")
        follow([("disentangle_channel.py", *WHERE, *OUT, *circuits)], folder, outputs)  # as in README
        follow([command for _, command in others], folder, outputs)
        report = next(words for words in outputs if "--report" in words)
        outputs[report] = succeed(*report, cwd=folder)  # of all that is there now
    return folder, outputs


def scripts_of(outputs, *flags):
    return [Path(words[0]).name for words in outputs if set(flags) <= set(words)]


def test_the_lines_lead_through_every_stage_and_branch(followed):
    _, outputs = followed
    assert set(scripts_of(outputs, "--images", "val")) == {"get_importances_for_classes.py"}
    for flag in ("--classes_for_concept2", "--candidates"):
        assert {"disentangle_channel.py", "get_results.py"} <= set(scripts_of(outputs, flag)), flag
    assert any("_circuits_" in word for words in outputs if "get_results.py" in words[0] for word in words)
    assert scripts_of(outputs, "--get_separation") and scripts_of(outputs, "--report")
    assert not [output for output in outputs.values() if "the default, as" in output]  # of tau


def test_every_split_and_result_has_the_settings_of_stage_2(followed):
    folder, _ = followed
    splits = {path.stem: read_split(path) for path in (folder / "store" / "models_disentangled").glob("*.pt")}
    assert {file.source["name"] for file in splits.values()} == {"classes", "circuits"}
    for name, file in splits.items():
        assert {key: file.settings[key] for key in ASKED} == ASKED, name
    results = [json.loads(path.read_text()) for path in (folder / "out/results_quantitative/pairs").glob("*.json")]
    assert results and {result["tau"] for result in results} == {ASKED["tau"]}
    separations = [
        json.loads(path.read_text()) for path in (folder / "out/results_quantitative/separation").glob("*.json")
    ]
    thresholds = [tuple(entry[2:]) for separation in separations for entry in separation["splits"].values()]
    assert set(thresholds) == {(ASKED["tau"], ASKED["p"])}
    assert not (folder / "results_quantitative").exists()  # everything for people is in --output_dir


def test_the_line_after_each_split_leads_to_its_null(followed):
    folder, outputs = followed
    splits = {path.stem for path in (folder / "store" / "models_disentangled").glob("*.pt")}
    circuits = {stem for stem in splits if "_circuits_" in stem}
    separations = (folder / "out" / "results_quantitative" / "separation").glob("*.json")
    measured = {stem for path in separations for stem in json.loads(path.read_text())["splits"]}
    assert circuits and measured == splits - circuits
    assert {path.name for path in (folder / "store" / "models_disentangled").glob("*_permuted_weights*")}
    kinds = []
    for words, output in outputs.items():
        if not words[0].endswith("disentangle_channel.py"):
            continue
        purposes, following = zip(*printed_commands(output), strict=True)
        (null,) = {"--get_separation", "--get_channel_card"} & {word for command in following for word in command}
        kinds.append(null)
        # the null is in the first command, after the val store where that is missing; a pair by the rule has its
        # quantitative line before it
        first = next(number for number, command in enumerate(following) if null in command)
        before = [command[0] for command in following[:first]]
        by_the_rule = "--classes_for_concept2" in words and "--split_by" not in words
        assert ("get_results.py" in "".join(before)) == by_the_rule, (words, following)
        assert purposes[0] == "next" and len(before) <= 1 + by_the_rule
    assert set(kinds) == {"--get_separation", "--get_channel_card"}


def commands_of_page(folder):
    """The commands that the pages show: (page, script and words)."""
    for page in sorted((folder / "out" / "report" / "network-small").glob("*.html")):
        text = html.unescape(re.sub("<[^>]*>", "", page.read_text()))
        for line in re.findall(r"python \S+\.py [^\n]*", text):
            yield page.name, tuple(shlex.split(line)[1:])


def test_the_page_has_verdicts_and_its_commands_measure_at_its_settings(followed, tmp_path):
    folder, _ = followed
    page = (folder / "out/report/network-small" / f"channel_{CHANNEL}.html").read_text()
    assert "Not measured" not in page.split("<h2", 2)[1]
    shown = list(commands_of_page(folder))
    assert shown
    for name, words in shown:
        assert "--output_dir" in words, (name, words)
        if "get_results.py" in words[0] and "--report" not in words:
            assert words[words.index("--proportion_attribution_required") + 1] == "0.05", (name, words)
    again = next(words for name, words in shown if name.endswith(f"_{CHANNEL}.html") and "disentangle" in words[0])
    before = {path: path.read_bytes() for path in (folder / "store/models_disentangled").iterdir()}
    succeed(*again, cwd=folder)
    assert {path: path.read_bytes() for path in (folder / "store/models_disentangled").iterdir()} == before


def test_a_factory_is_the_same_model_by_whatever_path_it_is_called(followed):
    folder, _ = followed
    meta = read_json(folder / "store" / "network-small_channel_importances" / "meta.json", "")
    assert meta["model"] == "network:small"
    where = ("--model", f"{folder}/networks/../networks/network.py:small", "--store_dir", folder / "store")
    channel = ("--channel_of_interest", CHANNEL, "--get_separation", "--split_by", "arv", "--data_dir", folder / "data")
    pair = ("--classes_for_concept1", "1", "--classes_for_concept2", "3")
    (elsewhere := folder / "elsewhere").mkdir()
    result = run_script("get_results.py", *map(str, (*where, *channel, *pair)), *COMPUTE, cwd=elsewhere)
    assert result.returncode == 0, result.stderr


# --------------------------------------------------------------------------------------------------------------------
# How commands are made


@pytest.mark.parametrize(
    ("called", "printed"),
    [
        ("get_results.py", "disentangle_channel.py"),
        ("../x/get_results.py", "../x/disentangle_channel.py"),
        ("/x y/get_results.py", "/x y/disentangle_channel.py"),
        ("notebook.py", str(Path(commands.__file__).parents[2] / "disentangle_channel.py")),
    ],
)
def test_a_printed_script_lies_beside_the_one_that_is_running_as_that_was_called(called, printed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert str(commands.script_path("disentangle_channel.py")) == printed
