"""What stage 1 prints of the share of correctly classified images: chance beside it, and what to check if it is low."""

from types import SimpleNamespace

import pytest
import torch

from utils.report.store_text import print_counted, print_store_summary, warn_of_assumed


@pytest.mark.parametrize(
    ("correct", "outputs", "share", "checked"),
    [
        (9, 40, "90.0% classified correctly, chance is 2.50% (1 of 40 outputs)", ""),
        (5, 40, "50.0% classified correctly, chance is 2.50% (1 of 40 outputs)", ""),
        (4, 40, "40.0% classified correctly, chance is 2.50% (1 of 40 outputs)", "out"),
        (2, 4, "20.0% classified correctly, chance is 25.00% (1 of 4 outputs)", "out"),  # too few outputs for a warning
        (0, 40, "0.0% classified correctly, chance is 2.50% (1 of 40 outputs)", "err"),
    ],
)
def test_a_share_is_beside_chance_and_a_low_one_beside_what_to_check(correct, outputs, share, checked, capsys):
    predictions = torch.zeros(10, dtype=torch.long)
    targets = (torch.arange(10) >= correct).long()
    labels = SimpleNamespace(indices=torch.arange(10), targets=targets, predictions=predictions)
    store = SimpleNamespace(read_labels=lambda: labels, meta={"num_images": 10, "num_outputs": outputs}, folder="s")
    assert print_store_summary(store) == correct / 10
    printed = capsys.readouterr()
    first, *rest = printed.out.splitlines()
    assert first == f"10 images; {share}"
    assert bool(rest) == (checked == "out") and bool(printed.err) == (checked == "err")
    if checked == "out":
        assert rest[0].startswith(
            "that is fewer than half: if this network does better on such images, check the transf"
        )
    for flag in ("--resize_size", "--crop_size", "--mean", "--std", "--weights", "--class_map") if checked else ():
        assert flag in getattr(printed, checked)


def test_a_low_share_repeats_that_a_factory_without_a_transform_ran_on_defaults(capsys):
    warn_of_assumed(0.5, ["--mean"])
    warn_of_assumed(0.2, [])
    assert capsys.readouterr() == ("", "")
    warn_of_assumed(0.2, ["--mean", "--std"])
    assert capsys.readouterr().err.startswith(
        "warning: 20.0% classified correctly, and --mean, --std had their defaults"
    )


def test_stage_2_says_how_many_images_and_classes_count_and_what_to_check_where_few_are_correct(capsys):
    images = torch.tensor([[20, 20, 0, 10], [12, 8, 0, 3]])
    print_counted(images, {"only_correct": True, "min_images": 8})
    assert capsys.readouterr().out.splitlines()[0] == (
        "23 of 50 images are classified correctly (46.0%); 23 correctly classified images count, and 2 of 3 classes "
        "have at least 8 of them"
    )
    print_counted(images, {"only_correct": False, "min_images": 1})
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("50 images count, and 3 of 3 classes have at least 1 of them")
    assert second.startswith("fewer than half are correct") and "--crop_size" in second
    print_counted(images + torch.tensor([[0], [5]]), {"only_correct": False, "min_images": 1})
    assert len(capsys.readouterr().out.splitlines()) == 1
