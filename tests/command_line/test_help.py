"""--help: the common flags in a screen; --help all: every flag of the design is there, and is explained."""

import importlib
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.scripts import ROOT, run_script
from utils import defaults
from utils.command_line.parser import USUAL_WIDTH, _width, described
from utils.concept_sources.circuits import Circuits
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import WHICH

UNLABELLED = ["circuits", "pure", "concept_vectors"]
NETWORK = {"--model", "--weights", "--layer_of_interest"}
TRANSFORM = {"--resize_size", "--crop_size", "--interpolation", "--mean", "--std", "--skip_unreadable"}
COMPUTE = {"--batch_size", "--num_workers", "--decode", "--device", "--precision"}
IMAGES = {"--data_dir", "--store_dir", *NETWORK, *TRANSFORM, *COMPUTE}
PAIR = {
    "--nr_channels_in_layer_of_interest",
    *(f"--classes_for_concept{number}" for number in range(1, 9)),
    "--candidates",
}
RELEVANCE = {"--proportion_attribution_required", "--p", "--cos_sim_low", "--cos_sim_high"}
FIGURES = {
    "--get_qualitative",
    "--get_quantitative",
    "--get_channel_card",
    "--get_feature_visualization",
    "--summary",
    "--report",
}
DESIGN = {
    "get_importances_for_classes.py": {*IMAGES, "--chunk_size", "--compile", "--images", "--class_map"},
    "get_cosine_similarities.py": {
        *{"--store_dir", "--output_dir", *NETWORK, *RELEVANCE, "--nr_channels_in_layer_of_interest"},
        *{"--only_correct", "--only_above_mean", "--min_images", "--plot_wordnet", "--data_dir", "--figure_width"},
    },
    "disentangle_channel.py": {*IMAGES, *PAIR, "--channel_disentangle", "--only_correct", "--rho_objective"},
    "get_results.py": {
        *{*IMAGES, *PAIR, "--channel_of_interest", "--model_dir", "--output_dir", "--rho"},
        *{"--proportion_attribution_required", *FIGURES, "--all_classes", "--patches_of", "--patch_size", "--patches"},
        *{"--figure_width", "--steps", "--seeds"},
        *{"--only_correct", "--rho_objective"},
    },
}


MOST_LINES = 45
MOST_COLUMNS = 100
# The flags that a newcomer needs
NEEDED = {
    "get_importances_for_classes.py": {"--data_dir", "--model", "--weights", "--store_dir", "--images"},
    "get_cosine_similarities.py": {"--model", "--store_dir", *RELEVANCE, "--top", "--channel"},
    "disentangle_channel.py": {"--data_dir", "--model", *PAIR, "--channel_disentangle", "--split_by"},
    "get_results.py": {"--data_dir", "--model", *PAIR, "--channel_of_interest", "--splits", "--get_quantitative"},
}


def flags_of_script(script):
    return described(importlib.import_module(script.removesuffix(".py")).get_args_parser())


def help_of(script, *words, cwd, columns="100"):
    result = run_script(script, "--help", *words, cwd=cwd, COLUMNS=columns)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("script", DESIGN)
def test_every_flag_is_explained_once(script):
    flags = flags_of_script(script)
    spellings = [spelling for flag in flags for spelling in flag.flags]
    assert len(set(spellings)) == len(spellings) and set(spellings) >= DESIGN[script]
    parser = importlib.import_module(script.removesuffix(".py")).get_args_parser()
    assert set(spellings) == {flag for flag in parser._option_string_actions if flag not in ("-h", "--help")}
    for flag in flags:
        assert re.search("[a-z]{4}", flag.brief) and flag.group not in ("options", "")
        assert not flag.brief.endswith(".") and (flag.details == "" or flag.details.endswith(".")), flag.name
        assert "%" not in flag.help and "default" not in flag.brief


@pytest.mark.parametrize("script", DESIGN)
def test_the_whole_help_has_every_flag(script, tmp_path):
    text = help_of(script, "all", cwd=tmp_path)
    assert f"python {script} --" in text  # an example
    words = " ".join(text.split())
    for flag in flags_of_script(script):
        assert f"\n  {flag.name}" in text and flag.line in words and flag.details in words


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("script", DESIGN)
def test_the_short_help_is_a_screen(script, columns, tmp_path):
    text = help_of(script, cwd=tmp_path, columns=columns)
    lines = text.rstrip("\n").split("\n")
    assert len(lines) <= MOST_LINES
    assert re.match(r"Stage \d: ", lines[0]) and f"python {script} --" in text and "--help all" in lines[-1]
    flags = flags_of_script(script)
    common = {flag.name: flag for flag in flags if flag.is_common}
    explained = lines[lines.index("common flags:") + 1 : lines.index("other flags:") - 1]
    assert sorted(line.split()[0] for line in explained) == sorted(common)
    for line in explained:
        assert line.endswith(f"  {common[line.split()[0]].line}") and len(line) <= MOST_COLUMNS
    named = re.findall(r"--[\w.]+", "\n".join(lines[lines.index("other flags:") : -1]))
    assert named == [flag.name for flag in flags if not flag.is_common]


@pytest.mark.parametrize("script", DESIGN)
def test_common_flags_are_those_that_a_newcomer_needs(script):
    parser = importlib.import_module(script.removesuffix(".py")).get_args_parser()
    flags = flags_of_script(script)
    assert len(parser.common) == sum(flag.is_common for flag in flags)  # each name is that of a flag
    assert {spelling for flag in flags if flag.is_common for spelling in flag.flags} >= NEEDED[script] - {
        "--nr_channels_in_layer_of_interest"
    }


def test_the_texts_do_not_depend_on_the_environment(monkeypatch):
    monkeypatch.setattr("utils.command_line.flags.default_workers", lambda: 77)
    texts = [flags_of_script(script) for script in DESIGN]
    monkeypatch.setenv("DATA_DIR", "/elsewhere")
    monkeypatch.setenv("STORE_DIR", "/elsewhere")
    assert [flags_of_script(script) for script in DESIGN] == texts
    assert {flag.default for flag in texts[0]} >= {f"$DATA_DIR or {defaults.DATA_DIR}", "64"}


@pytest.mark.parametrize("script", DESIGN)
def test_help_on_something_unknown_is_one_line(script, tmp_path):
    result = run_script(script, "--help", "--modle", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    start = f"{script}: error: --help: there is no flag and no group of flags '--modle'; similar: "
    assert result.stderr.startswith(start) and result.stderr.count("\n") == 1
    assert "--model" in result.stderr.removeprefix(start)


def test_what_help_says_of_circuits_is_their_default():
    usual = {flag.name: flag.default for flag in flags_of_script("disentangle_channel.py")}
    circuits = [Circuits.from_given({}, SimpleNamespace(usable=range(number))) for number in (1_000_000, 400, 3)]
    assert f"circuits: {circuits[0].number}; pure: 2; " in usual["--nr_concepts"]
    assert f"circuits: {circuits[0].references}; pure: 100; " in usual["--nr_reference_images"]
    assert [one.name for one in SOURCES.all() if one.summary and not one.is_named()] == UNLABELLED
    assert [one.references for one in circuits] == [600, 100, 1] and {one.number for one in circuits} == {12}


@pytest.mark.parametrize("script", DESIGN)
def test_help_takes_less_than_half_a_second_of_the_processor(script):
    """Of the best of three, as a busy machine makes even processor time longer."""
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
    code += "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    command = [sys.executable, "-c", code, sys.executable, str(ROOT / script), "--help"]
    seconds = (float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))
    assert any(one < 0.5 for one in seconds)


def test_help_says_which_division_is_for_what():
    details = {flag.name: flag.details for flag in flags_of_script("disentangle_channel.py")}
    assert details["--split_by"].endswith(f"{WHICH}.")


def test_a_terminal_that_does_not_tell_its_width_has_the_usual_one(monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((0, 0)))
    assert _width() == USUAL_WIDTH


def test_help_on_help_is_the_short_help(tmp_path):
    short = help_of("get_results.py", cwd=tmp_path)
    assert run_script("get_results.py", "--help", "-h", cwd=tmp_path, COLUMNS="100").stdout == short
