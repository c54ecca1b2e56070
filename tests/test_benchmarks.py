"""The benchmarks run, and compare what they say they compare."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from benchmarks import candidates, peers, peers_ways, precision, published, report, stage2_scale
from benchmarks.full_size import __main__ as full_size
from benchmarks.full_size import data, network
from benchmarks.full_size.files import Files, differences
from benchmarks.full_size.measuring import Measured, measure
from benchmarks.full_size.steps import MOST_MEMORY, STEPS, Folder
from tests.factories import small
from tests.helpers import forward_with_gradient
from tests.oracles import load
from tests.scripts import COMPUTE, NETWORK, SMALL_IMAGES, python, run_script
from utils.images.transform import Transform
from utils.method.importance import channel_importances
from utils.method.polysemanticity import averaged_relevance_vectors

TRANSFORM = Transform(24, 24)


@pytest.fixture
def benchmark(monkeypatch, tmp_path, capsys, without_figures):
    """Runs a benchmark's main in this process, its scripts forked from the zygote: rows of its tables, and its text."""

    def fast_run(script, *arguments):
        result = run_script(script, *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return 1.0, 1e9, result.stdout

    def start(module, *arguments):
        monkeypatch.setattr(module, "run", fast_run)
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        module.main()
        text = capsys.readouterr().out
        assert report.machine() in text
        rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
        return [row for row in rows if "---" not in row], text

    return start


def test_the_published_importances_and_arvs_equal_ours(finished, tmp_path):
    network = small()
    procedure = published.Published(network, network.last, TRANSFORM, torch.device("cpu"), 4, 0)
    pixels, targets = load(finished, "train")
    importances, _, _ = procedure.attribute(pixels.clone(), targets)
    record = forward_with_gradient(network, network.last, pixels, targets)
    torch.testing.assert_close(importances, channel_importances(record.activation, record.gradient))
    report.link_images(finished / "data" / "train", tmp_path, 6, ["bee"])
    mean_inputs = record.input[targets == 1].sum((2, 3)).mean(0)[None, :, None]
    expected = averaged_relevance_vectors(network.last.weight.flatten(2)[9], mean_inputs)[0]
    torch.testing.assert_close(procedure.arv(tmp_path, 9).double(), expected, rtol=1e-4, atol=1e-5)


def test_published(finished, benchmark):
    sizes = ("--images", 8, "--repeat", 2, "--passes", 2, "--class_images", 3)
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--data_dir", finished / "data", "--batch_size", 3)
    rows, text = benchmark(published, *flags, *sizes)
    assert [row[0] for row in rows[:4]] == ["stage 1", "published procedure, fp32", "ours, fp32", "ours, bf16"]
    assert [row[1] for row in rows[1:4]] == ["8"] * 3
    assert rows[4][0] == "stage 2"
    assert float(re.search("relative importance, fp32: (.*)", text)[1]) < 1e-3


def test_precision(finished, benchmark):
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--data_dir", finished / "data", "--batch_size", 2)
    tau = ("--proportion_attribution_required", 0.05, "--p", 0.5, "--cos_sim_high", 0.9)
    rows, _ = benchmark(precision, *flags, *tau, "--ways", "fast", "bf16", "--images_a_class", 4, "--only_correct")
    assert [row[0] for row in rows] == ["against pil, fp32, 16 images", "fast", "bf16"]
    assert rows[1][1:3] == ["0.0e+00 / 0.0e+00"] * 2  # png: left to PIL
    assert rows[1][3].endswith("(100.0%)")
    assert 0 < float(rows[2][2].split(" / ")[1]) < 0.1


def test_precision_of_a_decoder_that_repeats_chroma(finished, benchmark, tmp_path):
    for path in (finished / "data" / "train").rglob("*.png"):
        copied = tmp_path / path.relative_to(finished / "data").with_suffix(".jpg")
        copied.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.save(copied, quality=95, subsampling=2)
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--data_dir", tmp_path, "--batch_size", 2)
    tau = ("--proportion_attribution_required", 0.05, "--p", 0.5, "--cos_sim_high", 0.9)
    rows, _ = benchmark(precision, *flags, *tau, "--ways", "fast", "repeated chroma", "--images_a_class", 4)
    median_of_fast, median_of_repeated = (float(row[2].split(" / ")[0]) for row in rows[1:])
    assert 5 * median_of_fast < median_of_repeated < 0.5


def test_candidates(finished, benchmark, tmp_path):
    (tmp_path / "pairs.txt").write_text("9: 1, 3\n4: 1, 3\n2: 0, 3\n")
    flags = (*NETWORK, *COMPUTE, "--data_dir", finished / "data", "--store_dir", finished / "store")
    rows, text = benchmark(candidates, *flags, "--candidates", tmp_path / "pairs.txt", "--pairs", 2)
    assert [row[0] for row in rows[1:]] == ["stage 3", "stage 4"]
    assert {row[-1] for row in rows[1:]} == {"4 / 2 = 2.00"}
    assert "splits equal byte for byte, results equal" in text


def test_stage2_scale(benchmark, tmp_path):
    rows, _ = benchmark(stage2_scale, "--images", 3000, "--repeat", 1, "--store_dir", tmp_path / "store")
    assert [row[:2] for row in rows[1:]] == [["a new tau", "3,000"], ["another p", "3,000"]]
    assert all(int(re.search(r"(\d+) pairs in all", row[-1])[1]) > 1000 for row in rows[1:])


# --------------------------------------------------------------------------------------------------------------------
# benchmarks.full_size


SMALL = data.Size(images=120, classes=10, parts=16, inputs=24, channels=48, with_two_inputs=30)


def test_made_images_are_of_imagenets_number_and_evenly_of_all_parts():
    size = data.Size()
    assert data.training_images(size).sum() == 1_281_167
    tenth = data.training_images(data.Size(images=128_117))
    assert tenth.sum() == 128_117
    assert tenth.min() > 60
    parts = data.make_parts(size)
    uses = np.bincount(parts.of_class.flatten(), minlength=size.parts)
    assert {uses.min(), uses.max()} == {3, 4}
    np.testing.assert_allclose(parts.templates.std((1, 2, 3)), 1, rtol=1e-5)


def test_the_made_network_is_right_and_its_channels_are_polysemantic():
    parts = data.make_parts(SMALL)
    built, random = network.build_network(parts, SMALL, 11), np.random.default_rng(0)
    images = np.concatenate([data.images_of(parts, class_, 20, random) for class_ in range(SMALL.classes)])
    pixels = Transform(16, 16).normalise(torch.from_numpy(images), torch.device("cpu"))
    targets = torch.arange(SMALL.classes).repeat_interleave(20)
    assert (built(pixels).argmax(1) == targets).float().mean() > 0.8
    means = built.first(pixels).relu().mean((2, 3)).unflatten(0, (SMALL.classes, 20)).mean(1)
    arvs = functional.normalize(built.layer.weight.flatten(1)[:, None] * means, dim=2)  # channel, class, input
    shared = built.classifier.weight.T > 1
    cosines = [float(arvs[channel, first] @ arvs[channel, second])
               for channel in range(SMALL.channels)
               for first, second in torch.combinations(shared[channel].nonzero().flatten()).tolist()]  # fmt: skip
    assert sum(cosine < 0.5 for cosine in cosines) > 5


def run_code(code, tmp_path, **options):
    return measure([sys.executable, "-S", "-E", "-u", "-c", code], environment={}, log=tmp_path / "log", **options)


def test_cpu_time_memory_and_silence_are_measured(tmp_path):
    work = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-E', '-c', {work.format(0.5)!r}])\n"
    held = "data = b'a' * 300_000_000; time.sleep(1.2)\n"
    measured = run_code(f"print(1)\n{work.format(0.3)}{child}print(2)\n{held}print(3)", tmp_path)
    assert measured.status == 0
    assert (tmp_path / "log").read_text() == "1\n2\n3\n"
    assert 0.8 <= measured.cpu < 4
    assert 0.3 <= measured.main_cpu < measured.cpu - 0.3
    assert 300e6 < measured.memory < 600e6
    assert measured.silence >= 1
    assert measured.busy_silence < measured.silence
    assert measured.start < 1


def test_a_command_is_killed_after_its_cpu_time(tmp_path):
    measured = run_code("print(1)\nwhile True: pass", tmp_path, kill_after=0.2)
    assert measured.status == -signal.SIGKILL
    assert 0.2 <= measured.main_cpu < 2


def test_a_command_ends_with_the_benchmark(tmp_path):
    held = "import os, time; open('held', 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""
from pathlib import Path
from benchmarks.full_size.measuring import end_children_by_signal, measure
end_children_by_signal()
measure([{sys.executable!r}, "-S", "-E", "-c", {held!r}], environment={{}}, log=Path("log"))
"""
    process = subprocess.Popen([sys.executable, "-S", "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(report.ROOT)})
    while not (tmp_path / "held").is_file() or not (tmp_path / "held").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        for _ in range(3000):
            os.kill(int((tmp_path / "held").read_text()), 0)
            time.sleep(0.01)


def test_bounds_are_found_broken():
    step = next(step for step in STEPS if step.name == "circuits of all channels")
    good = {"status": 0, "seconds": 9e3, "cpu": 9e3, "main_cpu": 1100, "memory": 3.9e9, "start": 4}
    good |= {"silence": 60, "busy_silence": 3}

    def broken(killed="", **values):
        return full_size.broken(step, full_size.Record(Measured(**{**good, **values}), [], [], killed), 1)

    assert broken() == broken(killed=full_size.EQUAL) == []
    assert broken(status=2) == ["exit status 2"]
    assert broken(memory=MOST_MEMORY + 1) == ["memory"]
    assert broken(main_cpu=1201) == ["CPU time"]
    assert broken(busy_silence=6) == broken(start=11) == ["silence"]
    assert broken(killed="exit status 0; different: a") == ["after a kill"]


def test_files_that_differ_are_named_and_times_do_not_count(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, moment, value in ((first, 1, 5), (second, 2, 6)):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "same.json").write_text(json.dumps({"evaluation": moment, "value": [1]}))
        (folder / "a" / "other.json").write_text(json.dumps({"evaluation": 1, "value": value}))
        (folder / "bytes").write_bytes(b"1")
    before = Files([second])
    (second / "bytes").write_bytes(b"22")
    (second / "new").write_bytes(b"")
    assert before.made_since() == ([second / "new"], [second / "bytes"])
    (first / "only").write_bytes(b"")
    paths = sorted(path for path in first.rglob("*") if path.is_file())
    assert differences(paths, first, second) == ["a/other.json", "bytes", "only"]


@pytest.fixture
def full_size_run(monkeypatch, tmp_path, capsys, without_figures):
    """Runs benchmarks.full_size on small data, its scripts forked from the zygote: its exit status and its rows."""
    monkeypatch.setattr(full_size, "FULL", SMALL)
    monkeypatch.setattr(sys, "executable", python())

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark", "--work_dir", str(tmp_path), "--fraction", "1", *arguments])
        status = 0
        try:
            full_size.main()
        except SystemExit as stop:
            status = stop.code
        rows = re.findall(r"^\| (.*) \|$", capsys.readouterr().out, re.MULTILINE)[2:]
        return status, {row.split(" | ")[0]: row.split(" | ")[1:] for row in rows}

    return start


STAGES = ("stage 1, train", "stage 2", "splits of groups")


def test_full_size_does_its_steps_keeps_them_and_kills_them(full_size_run, tmp_path, monkeypatch):
    monkeypatch.setattr(full_size, "STEPS", [step for step in STEPS if step.name in STAGES])
    status, rows = full_size_run()
    assert status == 0
    assert list(rows) == list(STAGES)
    assert {row[-2] for row in rows.values()} == {"yes"}
    manifest = Folder(tmp_path).manifest
    stat = manifest.stat()
    table = Folder(tmp_path).tables.with_name(f"{Folder(tmp_path).tables.name}_channels.csv")
    table.write_text(f"{table.read_text()}added by a later step\n")
    status, rows = full_size_run("--kill", "--json", str(tmp_path / "rows.json"))
    assert status == 0
    assert list(rows) == [f"{name} (kept)" for name in STAGES]
    results = json.loads((tmp_path / "rows.json").read_text())
    assert {row["killed"] for row in results.values()} <= {full_size.EQUAL, full_size.ENDED_BEFORE}
    assert manifest.stat().st_mtime_ns == stat.st_mtime_ns  # the undisturbed one is kept
    assert table.read_text().endswith("added by a later step\n")
    status, rows = full_size_run("--only", "splits of groups")
    assert (status, list(rows)) == (0, ["splits of groups"])
    assert manifest.stat().st_mtime_ns > stat.st_mtime_ns


def test_a_killed_step_that_makes_other_files_is_named(full_size_run, tmp_path, monkeypatch):
    monkeypatch.setattr(full_size, "STEPS", [step for step in STEPS if step.name in STAGES[:2]])
    assert full_size_run()[0] == 0
    run, times = full_size.Benchmark._run, []

    def other_each_time(self, step, kill_after=None):
        measured = run(self, step, kill_after)
        times.append(kill_after)
        self.folder.pairs.with_suffix(".txt").write_text(str(len(times)))
        return measured

    monkeypatch.setattr(full_size.Benchmark, "_run", other_each_time)
    monkeypatch.setattr(full_size, "STEPS", [step for step in STEPS if step.name == STAGES[1]])
    status, rows = full_size_run("--kill")
    killed = rows["stage 2 (kept)"][-1]
    assert (status, killed.split(": ")[0]) == (1, "exit status 0; different") or killed == full_size.ENDED_BEFORE


def test_full_size_says_what_has_failed(full_size_run, tmp_path, capsys):
    status, rows = full_size_run("--only", "stage 2")
    assert status == 1
    assert rows["stage 2"][-2] == "exit status 2"
    assert not list((tmp_path / "done").glob("*"))
    (tmp_path / "data.json").write_text("{}")
    assert full_size_run()[0] == 2


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_flag_of_the_steps_is_the_scripts_own(step, tmp_path, monkeypatch):
    """Flags of a step are parsed; what they name need not be there."""
    monkeypatch.setattr(Folder, "channels", lambda self, number: ["3", "7"][:number])
    script, *flags = map(str, step.command(Folder(tmp_path)))
    result = run_script(script, *flags, cwd=tmp_path, FULL_SIZE=str(tmp_path))
    assert "unrecognized" not in result.stderr
    nothing = re.search("no such file|there is no|FileNotFoundError", result.stderr)
    assert nothing or step.of_results, result.stderr


# --------------------------------------------------------------------------------------------------------------------
# benchmarks.peers


def test_peers(finished, benchmark, monkeypatch):
    monkeypatch.setattr(sys, "executable", python())
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--data_dir", finished / "data", "--batch_size", 3)
    monkeypatch.setattr(peers, "run", None, raising=False)
    rows, text = benchmark(peers, *flags, "--images", 8, "--repeat", 1, "--ways", "ours", "ours, patches")
    assert [row[0] for row in rows] == ["way", "published", "ours", "ours, patches"]
    assert float(rows[1][5].split()[0]) > 5 * float(rows[2][5].split()[0])  # what is kept
    assert "8 images" in text


def test_the_strongest_images_of_a_way_are_in_its_result(finished, tmp_path, monkeypatch):
    (tmp_path / "train").symlink_to(finished / "data" / "train")
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--batch_size", "3")
    monkeypatch.setattr(sys, "argv", ["way", "ours", str(tmp_path), *flags])
    peers_ways.main()
    strongest = torch.tensor(json.loads((tmp_path / "result.json").read_text())["strongest"])
    small_network = small()
    pixels, _ = load(finished, "train")
    sums = forward_with_gradient(small_network, small_network.last, pixels, torch.zeros(len(pixels), dtype=int))
    expected = sums.activation.flatten(2).sum(2).argsort(0, descending=True).T
    assert torch.equal(strongest, expected[:, : strongest.shape[1]])


def test_peers_that_are_not_installed_are_named(monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert peers.installed(["published", "ours"]) == {}
    with pytest.raises(SystemExit) as stop:
        peers.installed(list(peers_ways.WAYS))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("not installed: pip install semanticlens==0.2.1 zennit-crp==0.6.0")
