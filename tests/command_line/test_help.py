"""--help: every flag of the design is there, and every flag that is there is explained."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.scripts import ROOT, run_script
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
    "--classes_for_concept1",
    "--classes_for_concept2",
    "--classes_for_concept3",
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


def explanations(help_text):
    """What is said of each flag, by flag, from the text that argparse prints."""
    entries = re.split(r"\n  (?=-)", help_text)[1:]
    found = {}
    for entry in entries:
        flag, rest = re.match(
            r"(?:-h(?: \[TOPIC\])?, )?(--\w+)(?:, --[\w-]+)?(.*)", entry.split("\n\n")[0], re.DOTALL
        ).groups()
        explained = re.match(r"(?: [^\n ]+)*(?: {2,}|\n +)(\S.*)", rest, re.DOTALL)
        found[flag] = " ".join(explained[1].split()) if explained else ""
    return found


@pytest.mark.parametrize("script", DESIGN)
def test_help_explains_every_flag(script, tmp_path):
    result = run_script(script, "--help", cwd=tmp_path, COLUMNS="100")
    assert result.returncode == 0
    assert f"python {script} --" in result.stdout  # an example
    found = explanations(result.stdout)
    assert set(found) >= DESIGN[script]
    unexplained = [flag for flag, text in found.items() if not re.search("[a-z]{4}", text) or "SUPPRESS" in text]
    assert not unexplained


def test_a_flag_that_is_not_explained_is_found():
    assert explanations(
        "usage: x [-h] [--long L]\n\nabout --nothing\n\noptions:\n  -h, --help  show this\n              message\n"
        "  --bare\n  --long L\n              its\n              text\n  --three A A A  of three\n  --last LAST\n\n"
        "images:\n  default: some\n\n  --own {a,b}\n              chosen\n  --end E\n"
    ) == {
        **{"--help": "show this message", "--bare": "", "--long": "its text", "--three": "of three", "--last": ""},
        **{"--own": "chosen", "--end": ""},
    }


def test_what_help_says_of_circuits_is_their_default(tmp_path):
    found = explanations(run_script("disentangle_channel.py", "--help", cwd=tmp_path, COLUMNS="100").stdout)
    circuits = [Circuits.from_given({}, SimpleNamespace(usable=range(number))) for number in (1_000_000, 400, 3)]
    assert f"circuits: {circuits[0].number}; pure: 2; " in found["--nr_concepts"]
    assert f"circuits: {circuits[0].references}; pure: 100; " in found["--nr_reference_images"]
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


def test_help_says_which_division_is_for_what(tmp_path):
    found = explanations(run_script("disentangle_channel.py", "--help", cwd=tmp_path, COLUMNS="100").stdout)
    assert found["--split_by"].endswith(WHICH)
