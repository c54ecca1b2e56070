"""Bad input of every kind: one clear line on standard error, status 2, no traceback, and the store as it was."""

import shutil

import pytest
import torch

from tests import factories
from tests.refusals import (
    IMPORTANCES,
    MEANS,
    NEW,
    SPLIT,
    STAGE1,
    STAGE2,
    STAGE3,
    STAGE4,
    USUAL,
    refused,
    usual,
)
from tests.scripts import NETWORK, PAIR, RUN, run_script

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (STAGE1, ("--batch_size", "0"), "--batch_size: must be a whole number from 1, not '0'"),
        (STAGE1, ("--num_workers", "-1"), "--num_workers: must be a whole number from 0"),
        (STAGE1, ("--chunk_size", "many"), "--chunk_size: must be a whole number from 1, not 'many'"),
        (STAGE1, ("--device", "tpu9"), "--device tpu9: must be cpu, cuda or cuda:N"),
        (STAGE1, ("--device", "cuda:99"), "--device cuda:99: there are"),
        (STAGE1, ("--precision", "fp8"), "--precision: invalid choice: 'fp8'"),
        (STAGE1, ("--precision", "tf32"), "--precision tf32 needs a CUDA device"),
        (STAGE1, ("--crop_size", "25"), "--crop_size 25 is larger than --resize_size 24"),
        (STAGE1, ("--std", "0", "1", "1"), "--std: must be a number above 0, not '0'"),
        (STAGE1, ("--batch", "4"), "unrecognized arguments: --batch 4"),
        (STAGE2, ("--cos_sim_hihg", "0.5"), "--cos_sim_hihg 0.5; similar: --cos_sim_high, --cos_sim_low (--help"),
        (STAGE1, ("--store_dir", "data/val/ant/0.png"), "--store_dir data/val/ant/0.png is a file, not a folder"),
        (STAGE2, ("--store_dir", "data/val/ant/0.png"), "is a file, not a folder"),
        (STAGE2, ("--proportion_attribution_required", "0"), "must be a number above 0 and at most 1, not '0'"),
        (STAGE2, ("--p", "1.5"), "--p: must be a number above 0 and at most 1, not '1.5'"),
        (STAGE2, ("--p", "nan"), "--p: must be"),
        (STAGE2, ("--cos_sim_high", "2"), "--cos_sim_high: must be a number from -1 to 1"),
        (STAGE2, ("--cos_sim_low", "0.5", "--cos_sim_high", "0.5"), "--cos_sim_low 0.5 is not below --cos_sim_high"),
        (STAGE3, ("--channel_disentangle", "12"), "12 is out of range, the layer has channels 0 to 11"),
        (STAGE3, ("--channel_disentangle", "-1"), "--channel_disentangle: must be a whole number from 0"),
        (STAGE3, ("--classes_for_concept2", "4"), "--classes_for_concept2: class 4 is out of range"),
        (STAGE3, ("--classes_for_concept2", "eel"), "--classes_for_concept2: there is no class folder 'eel'"),
        (STAGE3, ("--classes_for_concept2", "0", "bee"), "class 1 is in --classes_for_concept1 too"),
        (STAGE3, ("--classes_for_concept4", "0"), "--classes_for_concept3 is missing"),
        (STAGE3, ("--rho_objective", "best"), "--rho_objective: invalid choice: 'best'"),
        (STAGE3, ("--background", "-1"), "--background: must be a number from 0, not '-1'"),
        (STAGE3, ("--background", "0.5"), "--background 0.5: only --split_by least_squares uses a weight"),
        (STAGE3, ("--split_by", "least_squares", "--rho_objective", "contrast"), "--rho_objective chooses rho, which"),
        (STAGE3, ("--split_by", "chance"), "--split_by: invalid choice: 'chance'"),
        (STAGE4, ("--splits", "data"), "--splits names the splits: leave out --channel_of_interest"),
        (STAGE4, ("--effect_to", "zero"), "--effect_to is for --get_effect: add it"),
        (STAGE4, ("--rho", "0.33"), "--rho 0.33 is not one of the stored values 0.05, 0.1"),
        (STAGE4, ("--rho", "1.5"), "--rho: must be a number above 0 and at most 1"),
        (STAGE4, ("--rho_objective", "median"), "--rho_objective: invalid choice: 'median'"),
        (STAGE4, ("--channel_of_interest", "12"), "--channel_of_interest 12 is out of range, the layer has"),
        (STAGE4, ("--channel_of_interest", "3"), "there is no split of channel 3"),
        (STAGE4, ("--classes_for_concept2", "cat"), f"channel 9 and classes 1_2, only {RUN}_channel9_1_3.pt"),
        (STAGE4, ("--model_dir", "nowhere"), "/nowhere (if elsewhere, give --model_dir"),
        *[
            (script, ("--nr_channels_in_layer_of_interest", "2048"), "layer last has 12 channels")
            for script in (STAGE2, STAGE3, STAGE4)
        ],
        (STAGE3, ("--resize_size", "32"), "was made with another resize size (24; now 32)"),
        (STAGE4, ("--mean", "0", "0", "0"), "was made with another mean"),
        *[(STAGE1, changes, f"was made with another {what}") for changes, what in (
            (("--precision", "bf16"), "precision (fp32; now bf16)"),
            (("--chunk_size", "4"), "chunk size (8; now 4)"),
            (("--skip_unreadable",), "skip unreadable (False; now True)"),
            (("--interpolation", "bicubic"), "interpolation (bilinear; now bicubic)"),
            (("--crop_size", "16"), "crop size (24; now 16)"),
        )],
        *[(script, ("--weights", "other.pth"), "was made with another weights") for script in USUAL],
    ],
)  # fmt: skip
def test_arguments_out_of_range_and_other_than_what_is_stored(copy, script, arguments, message):
    if "other.pth" in arguments:
        torch.save(factories.other_weights().state_dict(), copy / "other.pth")
    refused(script, usual(script, *arguments), message, copy)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (STAGE1, (), "--model must be given"),
        (STAGE3, NETWORK, "--channel_disentangle must be given"),
        (
            STAGE3,
            (*NETWORK, "--channel_disentangle", 1, *PAIR[:2]),
            "--classes_for_concept2 must be given, or --background, which",
        ),
        (STAGE4, (), "--model, --channel_of_interest must be given"),
        (STAGE4, NETWORK, "--channel_of_interest must be given"),
        (STAGE4, (*NETWORK, "--splits", "none.pt"), "there is no split file none.pt"),
        (STAGE4, (*NETWORK, "--splits", "none.json"), "there is no manifest none.json"),
    ],
)
def test_what_is_required_is_asked_for(tmp_path, script, arguments, message):
    refused(script, arguments, message, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "resnet51"), "--model resnet51: neither a torchvision classification network, timm:NAME, nor"),
        (("--model", "tests.factories:nothing"), "tests.factories has no function nothing; it has "),
        (("--model", "tests.factories:not_a_module"), "returned a str, not an ordinary torch.nn.Module"),
        (("--model", "tests.factories:grouped"), "layer last has groups=2"),
        (("--model", "tests.factories:pads_by_itself"), "does not compute a plain zero-padded convolution"),
        (("--model", "tests.factories:gives_nan"), "NaN or infinite"),
        (("--model", "tests.factories:by_keyword"), "layer last is not called with a batch of inputs alone"),
        (("--model", "tests.factories:detached"), "the logits have no gradient at the layer of interest"),
        (("--model", "tests.factories:stops"), "cannot be made (SystemExit"),
        (("--model", "tests.factories:without_parameters"), "the network has no convolution"),
        (("--model", "torch.nn:Identity"), "the network is no classifier"),
        (("--weights", "numbered.pth"), "--weights numbered.pth is no state dict"),
        (("--layer_of_interest", "layer9"), "--layer_of_interest layer9: the network has no module of that name"),
        (("--layer_of_interest", "lats"), "the network has no module of that name; similar: last"),
        (("--layer_of_interest", "head"), "--layer_of_interest head: Sequential is no convolution"),
        (("--layer_of_interest", "last_linear"), "is the classifier itself: use --layer_of_interest last instead"),
        (("--weights", "nowhere.pth"), "--weights nowhere.pth: there is no such file"),
        (("--weights", "misfit.pth"), "--weights misfit.pth does not fit the network"),
        (("--weights", "damaged.pth"), "--weights damaged.pth is damaged or no state dict"),
        (("--model", "resnet18", "--weights", "IMAGENET1K_V7"), "neither a file nor one of resnet18's weights"),
    ],
)
def test_networks_layers_and_weights_that_cannot_be_used(copy, arguments, message):
    torch.save(factories.with_kernel().state_dict(), copy / "misfit.pth")
    torch.save({0: torch.zeros(3)}, copy / "numbered.pth")
    (copy / "damaged.pth").write_bytes((copy / "misfit.pth").read_bytes()[:700])
    refused(STAGE1, usual(STAGE1, *arguments), message, copy)


def test_without_weights_file_and_network_the_message_says_which_file_goes_where(copy):
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTPS_PROXY")}
    message = "no weights file cache/hub/checkpoints/resnet18-f37072fd.pth, and it cannot be downloaded"
    refused(STAGE1, usual(STAGE1, "--model", "resnet18"), message, copy, TORCH_HOME="cache", **nowhere)


def remove(*names):
    def spoil(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def empty(name):
    def spoil(folder):
        for path in (folder / name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def overwrite(name, content=b"\x89PNG no picture"):
    return lambda folder: (folder / name).write_bytes(content)


def damage(name):
    def spoil(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return spoil


def flatten(name):
    def spoil(folder):
        for class_folder in list((folder / name).iterdir()):
            for path in class_folder.iterdir():
                path.rename(folder / name / f"{class_folder.name}_{path.name}")
            class_folder.rmdir()

    return spoil


def rename(name, new):
    return lambda folder: (folder / name).rename(folder / new)


def nothing(_):
    pass


ANOTHER = ("--rho_objective", "contrast")  # a split that is not there yet


@pytest.mark.parametrize(
    ("spoil", "script", "arguments", "message"),
    [
        (remove("data/train"), STAGE1, (), "there is no folder data/train"),
        (empty("data/train"), STAGE1, (), "data/train has no class folders"),
        (flatten("data/train"), STAGE1, (), "data/train has images but no class folders"),
        (empty("data/train/bee"), STAGE1, (), "class folder data/train/bee has no images"),
        (remove("data/train/bee"), STAGE1, (), "the network has 4 outputs but train/ has 3 class folders"),
        (overwrite("data/train/bee/3.png"), STAGE1, NEW, "cannot read image data/train/bee/3.png"),
        (overwrite("data/train/bee/3.png"), STAGE1, (), "was made with another data"),
        (remove("data/train/bee/3.png"), STAGE1, (), "was made with another num images (24; now 23)"),
        (remove("data/train/bee/3.png"), STAGE3, ANOTHER, "cannot read image data/train/bee/3.png"),
        (rename("data/train/bee/3.png", "data/train/bee/33.png"), STAGE3, ANOTHER, "cannot read image data/train/bee"),
        (overwrite("data/val/dog/3.png"), STAGE4, (), "cannot read image data/val/dog/3.png"),
        (remove("data/val"), STAGE4, (), "there is no folder data/val"),
        (flatten("data/val"), STAGE4, (), "data/val has images but no class folders: sort them"),
        (remove("data/val/dog"), STAGE4, (), "data/val has no class folder dog"),
        (empty("data/val/dog"), STAGE4, (), "class folder data/val/dog has no images"),
        (nothing, STAGE1, ("--store_dir", "data/val/ant/0.png/x"), "cannot write data/val/ant/0.png/x/"),
        (nothing, STAGE2, NEW, f"there is no new/{RUN}_channel_importances/meta.json (there is no folder /"),
        (remove(f"{IMPORTANCES}/meta.json"), STAGE1, (), "has chunks but no meta.json that describes them"),
        (rename(SPLIT, SPLIT.replace("_1_3", "_0_2")), STAGE4, (*PAIR[:1], "0", *PAIR[2:3], "2"), "another classes"),
        (remove(f"{IMPORTANCES}/chunk_000001.npz"), STAGE2, (), "8 of 24 images are missing"),
        (remove(f"{IMPORTANCES}/chunk_000002.npz"), STAGE3, (), "8 of 24 images are missing"),
        (nothing, STAGE3, NEW, "run get_importances_for_classes.py first"),
        (remove(MEANS), STAGE3, (), "run get_cosine_similarities.py first"),
        (nothing, STAGE4, NEW, "there is no split of channel 9"),
        (nothing, STAGE3, ("--only_correct", "--weights", "blind.pth"), "(bee) has no correctly classified image"),
        (damage(f"{IMPORTANCES}/meta.json"), STAGE1, (), f"{IMPORTANCES}/meta.json is damaged"),
        (damage(f"{IMPORTANCES}/meta.json"), STAGE2, (), f"{IMPORTANCES}/meta.json is damaged"),
        (damage(f"{IMPORTANCES}/chunk_000001.npz"), STAGE3, (), f"{IMPORTANCES}/chunk_000001.npz is damaged"),
        (
            damage(f"{IMPORTANCES}/chunk_000001.npz"), STAGE2, ("--proportion_attribution_required", "0.2"),
            f"{IMPORTANCES}/chunk_000001.npz is damaged",
        ),
        (damage(MEANS), STAGE2, (), f"{MEANS} is damaged"),
        (damage(MEANS), STAGE3, (), f"{MEANS} is damaged"),
        (
            damage(f"store/results_get_cosine_similarities/{RUN}_relevant_images_required0.05.npz"), STAGE2,
            ("--proportion_attribution_required", "0.05"), "required0.05.npz is damaged",
        ),
        (damage(SPLIT), STAGE4, (), f"{SPLIT} is damaged"),
        (overwrite(SPLIT, b""), STAGE4, (), f"{SPLIT} is damaged"),
        (
            rename(IMPORTANCES, "store/tests.factories-other_weights_channel_importances"), STAGE2,
            ("--model", "tests.factories:other_weights"), "was made with another model",
        ),
        (
            rename(IMPORTANCES, f"store/{RUN}_stem.0_channel_importances"), STAGE2,
            ("--layer_of_interest", "stem.0"), "was made with another layer (last; now stem.0)",
        ),
        (
            rename(SPLIT, SPLIT.replace("small", "other_weights")), STAGE4,
            ("--model", "tests.factories:other_weights"), "was made with another model",
        ),
    ],
)  # fmt: skip
def test_data_and_stores_that_cannot_be_used(copy, spoil, script, arguments, message):
    if "--only_correct" in arguments:
        make_bee_wrong(copy)
    spoil(copy)
    refused(script, usual(script, *arguments), message, copy)


def make_bee_wrong(folder):
    """Make the store anew with a network that never sees a bee."""
    network = factories.small()
    network.classifier.bias[1] = -1e6
    torch.save(network.state_dict(), folder / "blind.pth")
    shutil.rmtree(folder / "store")
    for script in (STAGE1, STAGE2):
        result = run_script(script, *usual(script, "--weights", "blind.pth"), cwd=folder)
        assert result.returncode == 0, result.stderr
