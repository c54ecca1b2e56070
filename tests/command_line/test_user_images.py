"""A user's own lists of images, from the flags of stage 3 to the tables of stage 4, and the ranking by a list."""

import csv
import hashlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.oracles import average_precision, stored_images
from tests.refusals import STAGE3, STAGE4, refused
from tests.scripts import CHANNEL, COMPUTE, NETWORK, RUN, printed_commands, run_script, stage1, stage3, succeed
from utils.command_line.next_steps import after_importances
from utils.command_line.settings import ImportanceSettings
from utils.entries import DisentanglingSettings, disentangle
from utils.report.image_ranking_table import HIGHEST, LOWEST
from utils.store.importance_store import ImportanceStore
from utils.store.splits import read_manifest, read_split

OUT = Path("results_quantitative")
LISTS = {
    "red.txt": [f"bee/{number}.png" for number in range(4)] + ["ant/2.png"],
    "red_val.txt": ["bee/0.png", "bee/1.png", "dog/2.png"],
    "blue.txt": [f"cat/{number}.png" for number in range(5)],
    "both.txt": [f"{name}/{number}.png" for name in ("bee", "dog") for number in range(3)],
}
IN_VAL = {"bee/0.png": 4, "bee/1.png": 5, "dog/2.png": 14}  # 16 validation images, four of each class
ALONE = ("--images_for_concept1", "red.txt")
WITH_VALIDATION = (*ALONE, "--validation_images_for_concept1", "red_val.txt", "--classes_for_concept2", "dog")


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists") / "copy"
    shutil.copytree(finished, folder)
    for name, paths in LISTS.items():
        (folder / name).write_text("\n".join(["# a list", *paths]))
    (folder / "data" / "val" / "ant" / "0.png").rename(folder / "data" / "val" / "ant" / "0v.png")  # in no other store
    stage1("data", "store", "--images", "val", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def split(folder):
    """The path of a split by a list and the class dog, from the folder, and what stage 3 printed."""
    out = stage3("data", "store", *WITH_VALIDATION, pair=(), cwd=folder)
    (path,) = (folder / "store" / "models_disentangled").glob(f"{RUN}_channel9_user_images_red_*.pt")
    return path.relative_to(folder), out


def measure(folder, *arguments):
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE)
    return succeed("get_results.py", *NETWORK, *flags, *map(str, arguments), cwd=folder)


def test_a_list_and_a_class_are_split_and_named(folder, split):
    path, out = split
    assert "concept 1: red, 5 training images" in out and "concept 2: dog, 6 training images" in out
    assert "least_squares_background" in path.name and "reference images" not in out
    (command,) = [words for purpose, words in printed_commands(out) if purpose == "next"]
    assert str(path) in command
    assert read_split(folder / path).source["state"]["images_for_concept1"] == "red.txt"


def test_from_python_the_source_is_named_and_its_flags_are_settings(folder, split, capsys, monkeypatch):
    path, _ = split
    monkeypatch.chdir(folder)
    settings = DisentanglingSettings(
        **{"model": NETWORK[1], "data_dir": "data", "store_dir": "store", "num_workers": 0, "device": "cpu"},
        channels=(CHANNEL,),
        concepts_from="user_images",
        source_given={"images_for_concept1": "red.txt", "validation_images_for_concept1": "red_val.txt"},
        concepts=([], ["dog"]),
    )
    assert disentangle(settings).files == [path] and "already stored" in capsys.readouterr().out


def test_fractions_and_separation_are_on_the_listed_validation_images(folder, split):
    path, _ = split
    out = measure(folder, "--splits", path, "--get_quantitative", "--get_separation", "--irrelevant_channels", "all")
    assert "user images, images for concept1 red.txt, validation images for concept1 red_val.txt" in out
    rows = list(csv.DictReader((folder / OUT / "separation.csv").open()))
    dogs = [12, 13, 15]  # without the one that the list has
    file = read_split(folder / path)
    inputs = stored_images(ImportanceStore(folder / "store", RUN, "val"))["input_sums"].double()
    for row, part, own in zip(rows, file.split.rows(), (list(IN_VAL.values()), dogs), strict=False):
        sums = (inputs * part).sum((1, 2)).tolist()
        assert int(row["images"]) == len(own)
        assert float(row["ap_all"]) == pytest.approx(average_precision(sums, [i in own for i in range(16)]), abs=1e-5)
    assert [row["name"] for row in rows] == ["red", "dog"]
    assert rows[0]["ap_all_own_logit"] == "" and rows[1]["ap_all_own_logit"] != ""
    summary = (folder / OUT / "summary.md").read_text()
    assert re.search(r"\| red +\|.*of 3 ", summary) and re.search(r"\| dog +\|.*of 3 ", summary)


def test_a_concept_without_validation_images_is_not_evaluated_and_named(folder, tmp_path):
    folder_out = ("--output_dir", "other")
    more = ("--images_for_concept1", "blue.txt", "--classes_for_concept2", "bee")
    out = stage3("data", "store", *more, pair=(), cwd=folder)
    (path,) = (folder / "store" / "models_disentangled").glob("*_user_images_blue_*.pt")
    out = measure(folder, "--splits", path, "--get_quantitative", "--get_separation", *folder_out)
    assert "concept blue is not evaluated: stage 3 was given no validation images of it" in out
    rows = list(csv.DictReader((folder / "other" / OUT / "separation.csv").open()))
    assert [row["name"] for row in rows] == ["bee"]
    alone = stage3("data", "store", *ALONE, pair=(), channel=4, cwd=folder)
    assert "--get_map" in dict(printed_commands(alone))["next"]
    assert "reads 5 images to verify that outputs do not change (5 of one image set)" in alone
    (path,) = (folder / "store" / "models_disentangled").glob(f"{RUN}_channel4_user_images_red_*.pt")
    refusal = (*NETWORK, "--store_dir", "store", *COMPUTE, "--splits", path, "--get_separation", *folder_out)
    refused(STAGE4, refusal, "no validation images of red were given to stage 3", folder)
    assert after_validation_images(tmp_path, folder / "store", path) == ["--splits", path.name, "--get_map"]


def test_after_stage_1_a_split_with_validation_images_is_to_be_separated(folder, split, tmp_path):
    path, _ = split
    assert after_validation_images(tmp_path, folder / "store", path) == ["--splits", path.name, "--get_separation"]


def after_validation_images(at, store, path):
    """The end of the command that stage 1 prints after the validation images where a split is the only one."""
    shutil.copytree(store, at / "store", ignore=shutil.ignore_patterns("models_disentangled"))
    models = at / "store" / "models_disentangled"
    models.mkdir()
    shutil.copy(store / "models_disentangled" / path.name, models)
    settings = ImportanceSettings(model=NETWORK[1], store_dir=str(at / "store"), images="val")
    training = ImportanceStore(at / "store", RUN)
    training.load_meta()
    ((_, command),) = after_importances(settings, RUN, training)
    words = shlex.split(command)
    assert words.count("--splits") == 1
    return [Path(word).name if word.endswith(".pt") else word for word in words[words.index("--splits") :]][:3]


def test_several_channels_are_split_by_one_list(folder):
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE)
    for name in ("cat", "dog"):
        more = ("--classes_for_concept2", name, "--channel_disentangle", "2", "5")
        succeed(STAGE3, *NETWORK, *flags, *ALONE, *more, cwd=folder)
    models = folder / "store" / "models_disentangled"
    manifests = [read_manifest(path) for path in models.glob(f"{RUN}_channels_2-5_user_images_red_*_layer.json")]
    assert len(manifests) == 2 and len({split["file"] for splits in manifests for split in splits}) == 4


def test_pictures_effects_and_the_page_show_lists(folder, split):
    path, _ = split
    tau = ("--proportion_attribution_required", "0.0001")
    measure(folder, "--splits", path, "--get_channel_card", "--get_map", "--get_effect", *tau)
    names = {plot.name.removeprefix(path.stem) for plot in (folder / "plots").glob(f"{path.stem}*.png")}
    assert {"_card.png", "_map.png"} <= names
    measure(folder, "--report")
    pages = "".join(page.read_text() for page in (folder / "report" / RUN).glob("channel_*.html"))
    pages = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", pages))
    assert "red and dog, split by user images, by least squares" in pages
    assert (
        "--images_for_concept1 red.txt --validation_images_for_concept1 red_val.txt --classes_for_concept2 3" in pages
    )
    assert "Images are assigned to these concepts by the channel itself" not in pages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*ALONE, "--classes_for_concept1", "dog"), "name one concept twice"),
        (("--images_for_concept2", "red.txt"), "--classes_for_concept1 or --images_for_concept1 must be given"),
        ((*ALONE, "--images_for_concept3", "blue.txt"), "concept2 is missing: concepts are numbered without gaps"),
        ((*ALONE, "--background", "0"), "--classes_for_concept2 or --images_for_concept2 must be given, or --backgr"),
        ((*ALONE, "--concepts_from", "circuits"), "--images_for_concept1 is for --concepts_from user_images: add it"),
        ((*ALONE, "--candidates", "x.json"), "--candidates names concepts: leave out --images_for_concept1"),
        (("--images_for_concept1", "no.txt"), "--images_for_concept1: there is no file no.txt"),
        ((*ALONE, "--images_for_concept2", "both.txt"), "red.txt lists 3 images that --images_for_concept2 both.txt"),
    ],
)
def test_lists_that_make_no_concepts_are_refused(folder, arguments, message):
    usual = (*NETWORK, "--data_dir", "data", "--store_dir", "store", *COMPUTE, "--channel_disentangle", CHANNEL)
    refused(STAGE3, (*usual, *arguments), message, folder)


# --------------------------------------------------------------------------------------------------------------------
# Ranking


def ranking_of(folder, stem, paths):
    """The file of a ranking, whose name tells networks and lists apart."""
    digest = hashlib.sha256("\0".join(sorted(paths)).encode()).hexdigest()
    return folder / OUT / f"{RUN}_rank_by_images_{stem}_{digest[:12]}.csv"


def test_the_ranking_needs_no_images_and_ends_with_the_split_of_the_best_channel(folder, tmp_path):
    shutil.copytree(folder / "store", tmp_path / "store")
    shutil.copy(folder / "both.txt", tmp_path)
    out = measure(tmp_path, "--rank_by_images", "both.txt", "--top", "2")
    rows = list(csv.DictReader(ranking_of(tmp_path, "both", LISTS["both.txt"]).open()))
    assert (
        out.index(" of the 24 images of ")
        < out.index("They are not the images of the train store")
        < out.index(" of the 16 images of ")
    )
    for images_of, total in (("train", 24), ("val", 16)):
        of_store = [row for row in rows if row["images_of"] == images_of]
        by_order = {order: [row for row in of_store if row["order"] == order] for order in (HIGHEST, LOWEST)}
        channels = [row for row in by_order[HIGHEST] if row["kind"] == "channel"]
        for rows_of_order in (channels, by_order[LOWEST]):
            precisions = [float(row["ap"]) for row in rows_of_order]
            assert len(precisions) == 12 and precisions == sorted(precisions, reverse=True)
        assert {row["listed"] for row in of_store} == {"6"} and {row["images"] for row in of_store} == {str(total)}
        best = {row["channel"] for row in channels[:2]}
        assert {row["channel"] for row in of_store if row["kind"] == "circuit"} <= best
    assert "p of the best" in out and "Training images: no weight" in out
    best = next(row["channel"] for row in rows if row["images_of"] == "train")
    (command,) = [words for purpose, words in printed_commands(out) if purpose == "next"]
    words = list(command)
    assert words[words.index("--channel_disentangle") + 1] == best
    assert words[words.index("--images_for_concept1") + 1] == "both.txt"
    assert not list((tmp_path / OUT).glob("*unfinished*"))
    (tmp_path / "data").symlink_to(folder / "data")
    assert run_script("disentangle_channel.py", *words[1:], cwd=tmp_path).returncode == 0


def test_a_list_of_validation_images_is_ranked_in_their_store_and_ends_with_circuits(folder, tmp_path):
    few = tmp_path / "few.txt"
    paths = ["ant/0v.png", "bee/2.png", *LISTS["red_val.txt"]]
    few.write_text("\n".join(paths))
    out = measure(folder, "--rank_by_images", few, "--top", "1", "--output_dir", tmp_path)
    assert "5 of the 16 images" in out and "Training images: no weight" not in out
    assert "They are not the images of the train store" not in out
    rows = list(csv.DictReader(ranking_of(tmp_path, "few", paths).open()))
    assert {row["images_of"] for row in rows} == {"val"}
    assert "--concepts_from circuits" in " ".join(printed_commands(out)[0][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top", "3", "--summary", "--splits", "x.pt"), "--top is for --rank_by_images: add it"),
        (("--rank_by_images", "red.txt", "--get_map"), "--get_map has no effect with --rank_by_images alone"),
        (("--rank_by_images", "no.txt"), "--rank_by_images: there is no file no.txt"),
        (("--rank_by_images", "typo.txt"), "typo.txt lists 1 image that store/"),
        (("--rank_by_images", "typo.txt"), "; val lacks 1"),
    ],
)
def test_rankings_that_cannot_be_made_are_refused(folder, arguments, message):
    (folder / "typo.txt").write_text("\n".join([*LISTS["red.txt"], "bee/77.png"]))
    refused(STAGE4, (*NETWORK, "--data_dir", "data", "--store_dir", "store", *COMPUTE, *arguments), message, folder)
