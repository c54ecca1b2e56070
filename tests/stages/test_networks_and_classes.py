"""Stage 1 as a process: which networks it refuses, and how class folders become outputs."""

import pytest

from tests.oracles import load, stored_images
from tests.pictures import write_images
from tests.scripts import COMPUTE, ROOT, RUN, SMALL_IMAGES, messages, run_script, stage1, stage2, stage3
from utils.store.importance_store import ImportanceStore
from utils.store.splits import read_split

pytestmark = pytest.mark.usefixtures("without_figures")

STAGE1 = "get_importances_for_classes.py"


def first_stage(folder, data, network, *more):
    flags = ("--model", f"tests.factories:{network}", "--data_dir", data, "--store_dir", "s", *SMALL_IMAGES, *COMPUTE)
    return run_script(STAGE1, *flags, *more, cwd=folder)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            "normalises_over_the_batch",
            "the logits of an image depend on the other images of its batch: is there a BatchN",
        ),
        ("drops_out", "two passes over the same images give different logits: is there dropout"),
        ("adds_noise", "two passes over the same images give different logits"),
    ],
)
def test_a_network_whose_output_depends_on_the_batch_or_on_chance_is_refused(finished, tmp_path, network, message):
    result = first_stage(tmp_path, finished / "data", network)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert message in line
    assert not list(tmp_path.rglob("chunk_*"))


def test_a_network_whose_dropout_eval_turns_off_is_measured(finished, tmp_path):
    result = first_stage(tmp_path, finished / "data", "with_dropout")
    assert result.returncode == 0, result.stderr
    assert "24 images; " in result.stdout


def test_folders_named_by_outputs_are_these_outputs_and_chance_is_warned_of(tmp_path):
    folders = sorted(map(str, range(12)))
    assert folders[2] == "10"  # in the order of names
    data = write_images(tmp_path / "data", train=2, val=0, folders=folders)
    result = first_stage(tmp_path, data, "always_eleven")
    assert result.returncode == 0, result.stderr
    store = ImportanceStore(tmp_path / "s", "tests.factories-always_eleven")
    images = stored_images(store)
    assert store.meta["classes"] == {folder: int(folder) for folder in folders}
    assert images["targets"].tolist() == [int(folder) for folder in folders for _ in range(2)]
    assert (images["predictions"] == 11).all()
    assert "24 images; 8.3% classified correctly" in result.stdout
    (warning,) = messages(result.stderr)
    assert "classified correctly, chance is 8.33% (1 of 12 outputs)\n" in result.stdout
    assert "hardly better than chance: check the transform" in warning and "fewer than half" not in result.stdout
    assert all(flag in warning for flag in ("--class_map", "--weights", "--mean", "--std"))


def test_the_class_map_travels_through_all_stages(copy):
    (copy / "map.csv").write_text("folder,output\nant,3\nbee,1\ncat,2\ndog,0\n")
    result = first_stage(copy, "data", "small", "--class_map", "map.csv")
    assert result.returncode == 0, result.stderr
    assert not messages(result.stderr)  # four outputs are too few to warn of chance
    store = ImportanceStore(copy / "s", RUN)
    assert stored_images(store)["targets"].tolist() == [output for output in (3, 1, 2, 0) for _ in range(6)]
    _, folder_of = load(copy, "train")
    assert folder_of.tolist() == [folder for folder in range(4) for _ in range(6)]
    stage2("s", cwd=copy)
    stage3("data", "s", cwd=copy)  # concept 2 is dog
    assert read_split(copy / "s" / "models_disentangled" / f"{RUN}_channel9_1_0.pt").split.classes == [[1], [0]]


def test_an_accuracy_above_chance_is_not_warned_of(tmp_path):
    """One class of twelve, which the network always says: everything is right."""
    data = write_images(tmp_path / "data", train=2, val=0, folders=["11"])
    result = first_stage(tmp_path, data, "always_eleven")
    assert (
        "2 images; 100.0% classified correctly, chance is" in result.stdout and "fewer than half" not in result.stdout
    )
    assert not messages(result.stderr)


def test_a_validation_store_needs_the_training_store_and_its_class_map(finished, tmp_path):
    result = first_stage(tmp_path, finished / "data", "small", "--images", "val")
    assert result.returncode == 2
    assert "run get_importances_for_classes.py first" in result.stderr
    stage1(finished / "data", tmp_path / "s", cwd=tmp_path)
    (tmp_path / "map.csv").write_text("folder,output\nant,3\nbee,1\ncat,2\ndog,0\n")
    result = first_stage(tmp_path, finished / "data", "small", "--images", "val", "--class_map", "map.csv")
    assert result.returncode == 2
    assert "a val store has the class map of the training store" in result.stderr
    out = stage1(finished / "data", tmp_path / "s", "--images", "val", cwd=tmp_path)
    assert f"\nnext: python {ROOT}/get_cosine_similarities.py --model tests.factories:small" in out
