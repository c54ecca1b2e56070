"""The four stages on a CUDA device against the CPU; skipped where there is none."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from PIL import Image

from tests.chroma import kinds_of_chroma
from tests.pictures import levels, write_images, write_photographs
from tests.scripts import (
    COMPUTE,
    IMAGENET_COLOURS,
    NETWORK,
    PATIENCE,
    ROOT,
    RUN,
    contents,
    end_of,
    messages,
    run_script,
    stage1,
    stage2,
    stage3,
    stage4,
    start_script,
)
from tests.splits import frozen_conv, frozen_linear, random_split, ulps, wrapped
from utils.images.transform import Transform
from utils.store.candidates import read_candidates
from utils.store.importance_store import ImportanceStore
from utils.store.splits import read_split

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning"),
]
ON_GPU = ("--device", DEVICE)
# largest difference from fp32 on the CPU, in shares of the largest value: relative importances, sums of inputs
TOLERANCES = {"fp32": (2e-3, 1e-5), "tf32": (2e-2, 2e-3), "bf16": (0.1, 2e-2)}
OF_ITS_OWN = {"evaluation", "sha256", "split_sha256"}  # what results say of their own making


def chunks_of(folder, store="store"):
    """What stage 1 has stored of every image, by name, and the store's meta."""
    store = ImportanceStore(folder / store, RUN)
    meta = store.load_meta()
    chunks = [store.read_chunk(chunk) for chunk in range(store.num_chunks)]
    names = [name for name in chunks[0] if name != "content"]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in names}, meta


def compare_importances(found, expected, precision):
    for name in ("indices", "targets"):
        assert torch.equal(found[name], expected[name])
    for name, tolerance in zip(("relative_importances", "input_sums"), TOLERANCES[precision], strict=True):
        one, other = found[name].double(), expected[name].double()
        assert (one - other).abs().max() <= tolerance * other.abs().max(), name
    assert (found["predictions"] == expected["predictions"]).double().mean() >= (1 if precision == "fp32" else 0.9)


@pytest.fixture(scope="module")
def on_gpu(finished, tmp_path_factory):
    """A folder with the same ``data``, and all that the four stages make of it on the device."""
    folder = tmp_path_factory.mktemp("on_gpu")
    shutil.copytree(finished / "data", folder / "data")
    stage1(folder / "data", folder / "store", *ON_GPU, cwd=folder)
    stage2(folder / "store", cwd=folder)
    stage3(folder / "data", folder / "store", *ON_GPU, cwd=folder)
    stage4(folder / "data", folder / "store", "--get_quantitative", *ON_GPU, cwd=folder)
    return folder


@pytest.fixture
def gpu_copy(on_gpu, tmp_path):
    shutil.copytree(on_gpu, tmp_path / "copy")
    return tmp_path / "copy"


# --------------------------------------------------------------------------------------------------------------------
# The four stages


def test_stage1_measures_what_it_measures_on_the_cpu(on_gpu, finished):
    compare_importances(chunks_of(on_gpu)[0], chunks_of(finished)[0], "fp32")


def test_stage2_finds_the_same_candidates(on_gpu, finished):
    tables = [next((folder / "results_get_cosine_similarities").glob("*.json")) for folder in (on_gpu, finished)]
    found, expected = ([(one.channel, one.concepts) for one in read_candidates(table).candidates] for table in tables)
    assert expected
    assert sorted(found) == sorted(expected)  # those of equal cosines may be in another order


def test_stage3_makes_the_same_split(on_gpu, finished):
    paths = [next((folder / "store" / "models_disentangled").iterdir()) for folder in (on_gpu, finished)]
    assert paths[0].name == paths[1].name
    found, expected = (read_split(path).split for path in paths)
    assert torch.equal(found.weight, expected.weight)
    torch.testing.assert_close(found.arvs, expected.arvs, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.division.owners, expected.division.owners)
    objectives = found.division.objectives, expected.division.objectives
    torch.testing.assert_close(*objectives, rtol=1e-3, atol=1e-4)
    assert found.rho == expected.rho


def compare(found, expected, where):
    """Two results as JSON: equal but for roundings of their numbers."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected.keys() - OF_ITS_OWN:
            compare(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            compare(one, other, f"{where}[{number}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-3, nan_ok=True), where
    else:
        assert found == expected, where


def test_stage4_measures_the_same_fractions(on_gpu, copy):
    stage4(copy / "data", copy / "store", "--get_quantitative", cwd=copy)
    found, expected = (
        [json.loads(path.read_text()) for path in (folder / "results_quantitative" / "pairs").iterdir()]
        for folder in (on_gpu, copy)
    )
    assert len(expected) == 1
    compare(found, expected, "result")


def test_edits_change_the_same_logits(gpu_copy, finished, tmp_path):
    """Of splits of equal owners; strengths of equal effect may differ more, and what follows from them."""
    copy = shutil.copytree(finished, tmp_path / "on_cpu")
    found, expected = [], []
    for folder, more, rows in ((gpu_copy, ON_GPU, found), (copy, (), expected)):
        stage4(folder / "data", folder / "store", "--get_edit", *more, cwd=folder)
        (path,) = (folder / "results_quantitative" / "edits").iterdir()
        rows += json.loads(path.read_text())["rows"]
    measured = ("change_", "margin_", "harm_other", "harm_rest", "top1_", "images_")
    assert len(expected) == 12
    for one, other in zip(found, expected, strict=True):
        names = [name for name in other if name.startswith(measured) and "equal" not in name]
        compare({name: one[name] for name in names}, {name: other[name] for name in names}, other["method"])
        assert (one["strength"] is None) == (other["strength"] is None)


def test_an_edited_network_has_the_same_weights_and_costs_the_same(gpu_copy, finished, tmp_path):
    """The edit is computed on the device; the split is the one that was made there."""
    copy = shutil.copytree(finished, tmp_path / "on_cpu")
    shutil.copytree(gpu_copy / "store" / "models_disentangled", copy / "models")
    records = []
    for folder, flags in ((gpu_copy, ON_GPU), (copy, ("--model_dir", copy / "models"))):
        edit = ("--write_edited", "edited.pth", "--edit_concepts", "bee")
        stage4(folder / "data", folder / "store", *edit, *flags, cwd=folder)
        records.append(json.loads((folder / "edited.pth.json").read_text()))
    found, expected = records
    assert found["edited_weights_sha256"] == expected["edited_weights_sha256"]
    assert found["running_means"] == expected["running_means"] != {}
    compare(found["cost"], expected["cost"], "cost")


def test_dictionaries_describe_what_they_describe_on_the_cpu(gpu_copy, finished, tmp_path):
    """Training is chaotic, so that single units differ; what all of them explain does not."""
    copy = shutil.copytree(finished, tmp_path / "on_cpu")
    reconstructions = []
    for folder, device in ((gpu_copy, ON_GPU), (copy, ("--device", "cpu"))):
        where = ("--data_dir", folder / "data", "--store_dir", folder / "store")
        stage1(*where[1::2], "--images", "val", *device, cwd=folder)
        (folder / "asked.txt").write_text("9: bee, cat + dog\n")
        flags = ("--compare", "--candidates", "asked.txt", "--compare_without", "pure", "--num_workers", 0, *device)
        result = run_script("get_results.py", *NETWORK, *map(str, (*where, *flags)), cwd=folder, FIGURES="empty")
        assert result.returncode == 0, result.stderr
        (path,) = (folder / "results_quantitative" / "comparison").iterdir()
        reconstructions.append(json.loads(path.read_text())["reconstructions"])
    found, expected = reconstructions
    assert set(found) == set(expected) and {"sae", "sae_frozen", "nmf"} <= set(found)
    for name, of_cpu in expected.items():
        assert found[name]["top1"] == of_cpu["top1"] and found[name]["units"] == of_cpu["units"]
        assert abs(found[name]["explained"] - of_cpu["explained"]) < (0.02 if name.startswith("nmf") else 0.15), name


# --------------------------------------------------------------------------------------------------------------------
# Settings of stage 1


@pytest.mark.parametrize("precision", TOLERANCES)
def test_every_precision_is_near_fp32_on_the_cpu(finished, tmp_path, precision):
    stage1(finished / "data", tmp_path / "store", *ON_GPU, "--precision", precision, cwd=tmp_path)
    found, meta = chunks_of(tmp_path)
    assert meta["precision"] == precision
    compare_importances(found, chunks_of(finished)[0], precision)


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs triton")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_network_is_near_fp32_on_the_cpu(finished, tmp_path, precision):
    flags = (*ON_GPU, "--precision", precision, "--compile")
    stage1(finished / "data", tmp_path / "store", *flags, cwd=tmp_path)
    found, meta = chunks_of(tmp_path)
    assert meta["compilation"] == "inductor"
    compare_importances(found, chunks_of(finished)[0], precision)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Class folders of JPEG files of many sizes, whose chroma is not subsampled: decoders agree on them."""
    folder = write_images(tmp_path_factory.mktemp("jpegs"), train=6, val=0)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        with Image.open(path) as image:
            image.resize((40 + 3 * number, 70 - 2 * number)).save(path.with_suffix(".jpg"), quality=95, subsampling=0)
        path.unlink()
    return folder


@pytest.mark.parametrize("decode", ["pil", "fast", "gpu"])
def test_stage1_with_every_decoder(jpegs, tmp_path, decode):
    stage1(jpegs, "expected", cwd=tmp_path)
    stage1(jpegs, "found", *ON_GPU, "--decode", decode, "--num_workers", "2", cwd=tmp_path)
    (found, meta), (expected, _) = chunks_of(tmp_path, "found"), chunks_of(tmp_path, "expected")
    assert meta["decoding"] == decode
    scale = expected["input_sums"].abs().max()
    assert (found["input_sums"] - expected["input_sums"]).abs().max() <= (1e-5 if decode == "pil" else 0.02) * scale
    assert torch.equal(found["indices"], expected["indices"])


@pytest.mark.parametrize(("precision", "decode"), [("fp32", "pil"), ("bf16", "gpu")])
def test_a_store_that_is_continued_is_the_same_byte_for_byte(jpegs, tmp_path, precision, decode):
    flags = (*ON_GPU, "--precision", precision, "--decode", decode)
    for store in ("whole", "again"):
        stage1(jpegs, store, *flags, cwd=tmp_path)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    (tmp_path / "again" / f"{RUN}_channel_importances" / "chunk_000001.npz").unlink()
    assert "resuming: 2 of 3 chunks are stored" in stage1(jpegs, "again", *flags, cwd=tmp_path)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def stage1_flags(data, store, *more):
    sizes = ("--batch_size", "4", "--chunk_size", "8", "--resize_size", "24", "--crop_size", "24", *IMAGENET_COLOURS)
    flags = ("--model", "tests.factories:small", "--data_dir", data, "--store_dir", store, *sizes, *COMPUTE, *ON_GPU)
    return (*flags, *more)


def test_two_processes_on_one_device_make_the_store_of_one(on_gpu, finished, tmp_path):
    both = [
        start_script(
            "get_importances_for_classes.py",
            *stage1_flags(finished / "data", tmp_path / "store"),
            cwd=tmp_path,
            CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
            **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        )
        for rank in ("0", "1")
    ]
    said = [end_of(process) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    folder = f"{RUN}_channel_importances"
    assert contents(tmp_path / "store" / folder) == contents(on_gpu / "store" / folder)


def test_memory_that_is_short_is_one_line(finished, tmp_path):
    """The process may use 64 MiB of the device, so that the others that run meanwhile have theirs."""
    code = (
        "import runpy, sys, torch; sys.argv = sys.argv[1:]; "
        "whole = torch.cuda.get_device_properties(0).total_memory; "
        "torch.cuda.set_per_process_memory_fraction(2**26 / whole, 0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    script = ROOT / "get_importances_for_classes.py"
    large = ("--batch_size", "24", "--chunk_size", "24", "--resize_size", "1024", "--crop_size", "1024")
    flags = stage1_flags(finished / "data", tmp_path / "store", *large, "--device", "cuda:0")
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, (script, *flags))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 2, result.stderr
    (line,) = messages(result.stderr)
    assert re.fullmatch(r"get_importances_for_classes.py: error: out of GPU memory: use a smaller --batch_size", line)
    assert not list(tmp_path.rglob("chunk_*"))


# --------------------------------------------------------------------------------------------------------------------
# Decoding on the device


def compare_levels(folder, transform):
    device = torch.device(DEVICE, 0 if DEVICE == "cuda" else None)
    assert kinds_of_chroma(levels(folder, "gpu", transform, device=device, num_workers=2), folder, transform)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_crops_of_odd_files_are_within_two_levels_of_what_they_may_be(readable, interpolation):
    compare_levels(readable, Transform(32, 28, interpolation))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_photographs_are_within_two_levels_of_what_they_may_be(tmp_path, subsampling):
    write_photographs(tmp_path, subsampling)
    compare_levels(tmp_path, Transform())


# --------------------------------------------------------------------------------------------------------------------
# Split networks


@pytest.mark.parametrize("kernel", [1, 3, None])
@pytest.mark.parametrize("how", ["fp32", "half", "bfloat16", "autocast half", "autocast bfloat16"])
def test_the_merged_channel_is_rounded_once(how, kernel):
    """Against fp64: the original on the device may sum in another order than the wrapper does."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if kernel is None:
        module, x, compute = frozen_linear(256, 16), torch.randn(2, 49, 256).relu(), torch.nn.functional.linear
    else:
        module, x = frozen_conv(256, 16, kernel, padding=kernel // 2), torch.randn(2, 256, 7, 7).relu()
        compute = partial(torch.nn.functional.conv2d, padding=kernel // 2)
    changed = wrapped(module, random_split(module, 3, 8), random_split(module, 9, 2, seed=1))
    narrow = {"half": torch.float16, "bfloat16": torch.bfloat16}.get(how.split()[-1], torch.float32)
    dtype = torch.float32 if how.startswith("autocast") else narrow
    module, changed, x = (thing.to(DEVICE, dtype) for thing in (module, changed, x))
    with torch.autocast(DEVICE, narrow, enabled=how.startswith("autocast")):
        expected, found = module(x), changed(x)
    assert found.dtype == expected.dtype == narrow
    found, expected = (output.movedim(changed.channel_dim, 1) for output in (found, expected))
    others = [channel for channel in range(16) if channel not in (3, 9)]
    assert torch.equal(found[:, others], expected[:, others])
    # of weights and input as the layer rounds them: half a step, and the roundings of a sum in fp32
    rounded = [values.to(narrow).double() for values in (x, module.weight, module.bias)]
    exact = compute(*rounded).movedim(changed.channel_dim, 1)
    assert ulps(found[:, [3, 9]], exact[:, [3, 9]].to(narrow)).max() <= 1
