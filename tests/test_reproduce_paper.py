"""reproduce_paper.sh: the paper in one command, and how its numbers stand beside those that are public."""

import json
import os
import subprocess
import threading

import pytest
from PIL import Image

from benchmarks import estimate, paper
from tests.factories import paper_colour, paper_pairs
from tests.scripts import PATIENCE, ROOT, run_script
from utils.images.folders import imagenet_classes

NOWHERE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTPS_PROXY")}  # no download
TINY = "--resize_size 8 --crop_size 8 --num_workers 0 --device cpu"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """1000 class folders; a few tiny images for the classes of the paper's pairs, one for the others."""
    folder, own = tmp_path_factory.mktemp("imagenet"), {output for pair in paper_pairs() for output in pair[1:]}
    for output, wnid in enumerate(imagenet_classes()):
        for split, count in (("train", 4 if output in own else 1), ("val", 3 if output in own else 0)):
            (folder / split / wnid).mkdir(parents=True)
            for number in range(count):
                colour = tuple(value + 5 * number for value in paper_colour(output))
                Image.new("RGB", (16, 16), colour).save(folder / split / wnid / f"{number}.bmp")
    return folder


def reproduce(folder, **environment):
    """Run the script with a python whose scripts are forked from the zygote; a CompletedProcess, and the commands."""
    requests, answers, calls = folder / "requests", folder / "answers", []
    for fifo in (requests, answers):
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo)
    fake = folder / "python"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{requests}\nread -r status <{answers}\n'
        f"cat {folder}/stdout\ncat {folder}/stderr >&2\nexit $status\n"
    )
    fake.chmod(0o755)

    def serve():
        while arguments := requests.read_text().splitlines():
            calls.append(arguments)
            result = run_script(*arguments, cwd=folder, **NOWHERE, HOME=str(folder), TORCH_HOME="cache")
            (folder / "stdout").write_text(result.stdout)
            (folder / "stderr").write_text(result.stderr)
            answers.write_text(f"{result.returncode}\n")

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    given = {"PYTHON": str(fake), "STORE_DIR": "store", "OUTPUT_DIR": "output", **environment}
    kept = {name: value for name, value in os.environ.items() if name not in ("GPUS", "WEIGHTS", "DATA_DIR")}
    try:
        result = subprocess.run(
            ["sh", ROOT / "reproduce_paper.sh"],
            cwd=folder,
            env={**kept, **given},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        if server.is_alive():
            requests.write_text("")  # the end
            server.join()
    return result, calls


def times(folder, *patterns):
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in folder.glob(pattern)}


def test_the_whole_paper_runs_and_a_second_run_reuses_everything(imagenet, tmp_path):
    lines = (ROOT / "paper_pairs.txt").read_text().splitlines(keepends=True)
    (tmp_path / "pairs.txt").write_text("".join(lines[:7]))  # a heading and six pairs: cards take a second each
    how = {"DATA_DIR": str(imagenet), "MODEL": "tests.factories:paper", "EXTRA_FLAGS": TINY, "PAIRS": "pairs.txt"}
    first, calls = reproduce(tmp_path, **how)
    assert first.returncode == 0, first.stderr
    assert (
        "1. importances in 1,072 training images of 1000 classes:\n   4.2 KB an image, 4.5 MB in store" in first.stdout
    )
    assert "3. 6 pairs of pairs.txt split, by 44 training images" in first.stdout
    assert first.stdout.index("for stages 3 and 4") < first.stdout.index("=== Stage 1")
    scripts = [os.path.relpath(call[0], ROOT) for call in calls]
    stages = [
        "get_importances_for_classes.py",
        "get_cosine_similarities.py",
        "disentangle_channel.py",
        "get_results.py",
    ]
    assert scripts == ["benchmarks/estimate.py", *stages, "benchmarks/paper.py"]
    made = times(tmp_path, "store/*/*", "output/plots/*_card.png", "output/results_quantitative/*.json")
    assert len(list(tmp_path.glob("store/models_disentangled/*.pt"))) == 6
    assert len(list(tmp_path.glob("output/plots/*_card.png"))) == 6
    (table,) = tmp_path.glob("output/results_get_cosine_similarities/*cossim0.0to0.5.json")
    settings = json.loads(table.read_text())["settings"]
    assert (settings["tau"], settings["p"], settings["cosines"]) == (0.03, 0.75, [0.0, 0.5])
    summary = (tmp_path / "output/results_quantitative/summary.md").read_text()
    assert "tau 0.03" in summary and "all 6" in summary
    assert " of the 20 public pairs are among the " in first.stdout
    assert "differs from the paper: channel 522, classes 62 / 687: cosine " in first.stdout

    second, calls = reproduce(tmp_path, **how)
    assert second.returncode == 0, second.stderr
    assert "stage 1 is done" in second.stdout
    assert "--get_channel_card" not in calls[4]
    assert times(tmp_path, "store/*/*", "output/plots/*_card.png", "output/results_quantitative/*.json") == made
    assert second.stdout.split("=== Comparison")[1] == first.stdout.split("=== Comparison")[1]


def test_without_wordnet_it_is_said_before_stage_1_and_stage_2_goes_on_without(imagenet, tmp_path, monkeypatch):
    """The flags of every stage, for a python that writes them down; the estimate's status says what is missing."""
    for status, wanted in ((0, True), (estimate.WITHOUT_WORDNET, False)):
        fake, calls = tmp_path / "python", tmp_path / f"calls{status}"
        fake.write_text(f'#!/bin/sh\necho "$@" >>{calls}\ncase "$*" in *estimate.py*) exit {status} ;; esac\n')
        fake.chmod(0o755)
        given = {"PYTHON": str(fake), "DATA_DIR": str(imagenet), "EXTRA_FLAGS": "--batch_size 9", "GPUS": "2"}
        command = ["sh", ROOT / "reproduce_paper.sh"]
        result = subprocess.run(command, cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        begin, stage1, stage2, stage3, stage4, end = calls.read_text().splitlines()
        assert all(f"--candidates {ROOT}/paper_pairs.txt " in line for line in (begin, stage3, stage4))
        assert end == f"{ROOT}/benchmarks/paper.py --model resnet50 --store_dir ./store_dir --output_dir ."
        assert stage1.startswith("-m torch.distributed.run --standalone --nproc_per_node=2 ")
        assert "--proportion_attribution_required 0.03 --p 0.75 --cos_sim_high 0.5" in stage2
        assert ("--plot_wordnet" in stage2) == wanted
        assert all(line.endswith("--batch_size 9") for line in (stage1, stage3, stage4))
        assert "--proportion_attribution_required 0.03 --get_quantitative --get_channel_card" in stage4


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DATA_DIR": "/nowhere"}, "reproduce_paper.sh: there is no folder /nowhere/train: set DATA_DIR to "),
        ({"GPUS": "two"}, "reproduce_paper.sh: GPUS must be a whole number of processes, not two"),
        ({"PYTHON": "/no/python"}, "reproduce_paper.sh: there is no /no/python: set PYTHON to "),
        ({"WEIGHTS": "gone.pth"}, "estimate.py: error: --weights gone.pth: neither a file nor one of resnet50's"),
        ({}, "estimate.py: error: no weights file cache/hub/checkpoints/resnet50-0676ba61.pth, and it cannot be "),
    ],
)
def test_what_is_missing_is_one_line_before_anything_is_done(imagenet, tmp_path, environment, message):
    result, _ = reproduce(tmp_path, **{"DATA_DIR": str(imagenet), **environment})
    said = (result.stdout + result.stderr).splitlines()
    lines = [line for line in said if not line.startswith("Downloading: ")]  # torch's
    assert (result.returncode, len(lines)) == (2, 1)
    assert lines[0].startswith(message)
    assert not (tmp_path / "store").exists()


def test_numbers_that_agree_and_that_differ_are_said():
    pairs, shares = paper_pairs(), {}
    cosines = {pair: 0.3 for pair in pairs} | {(522, 62, 687): 0.4961}

    def lines(found):
        rows = paper.compare(pairs, found, cosines.get, lambda pair: shares.get(pair, (0.8, 0.9)))
        return {row[:2]: row[2:] for row in rows}, paper.conclusion(rows, len(found))

    rows, said = lines(set(pairs))
    assert len(rows) == 20
    assert rows["522", "62 / 687"] == ("0.4961", "0.4963", "-0.0002", "yes")
    assert said[1:] == ["all that is public is reproduced (the cosine within 0.001)"]
    cosines[522, 62, 687], shares[pairs[1]] = 0.51, (0.5, 0.9)
    rows, said = lines(set(pairs[2:]))
    assert rows["522", "62 / 687"] == ("0.5100", "0.4963", "+0.0137", "no: cosine not from 0 to 0.5")
    assert rows["1404", "385 / 834"][-1] == "no: relevant in 50% and 90% of the images, not 75%"
    assert said == [
        "18 of the 20 public pairs are among the 18 candidates of cosine under 0.5",
        "differs from the paper: 2 public pairs are not among the candidates (the table says why)",
        "differs from the paper: channel 522, classes 62 / 687: cosine 0.5100, public is 0.4963",
    ]


def test_batches_that_are_timed_are_from_everywhere_and_durations_are_readable():
    batches = estimate.spread_batches(100_000, 64)
    assert len(batches) == estimate.MOST and {len(batch) for batch in batches} == {64}
    assert min(map(min, batches)) == 0 and max(map(max, batches)) == 99_999
    assert estimate.spread_batches(5, 64) == [[0, 1, 2, 3, 4]]
    assert [estimate.duration(seconds) for seconds in (0, 59, 90, 7200, 46800)] == [
        "1 s", "59 s", "1.5 min", "2.0 h", "13 h",
    ]  # fmt: skip
