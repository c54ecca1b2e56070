"""Tables of effects, from made-up ones."""

import csv
import io

import numpy as np
import pytest

from tests.entries import effect, effects_of, with_split_of_effect
from utils.report import effect_tables
from utils.report.effect_tables import (
    comma_separated,
    concept_rows,
    groups,
    print_effects,
    summary,
    write_effect_tables,
)


def test_a_row_has_the_means_of_what_belongs_to_the_concept_and_to_others():
    first, second = concept_rows(effect())
    assert (first["logit_total"], first["logit_own"], first["logit_others"], first["logit_residual"]) == (
        *(2.75, 2.0, 0.5, 0.25),
    )
    assert first["share_own"] == pytest.approx((1 / 1.75 + 3 / 3.75) / 2) and first["images_of_shares"] == 2
    assert (first["margin_total"], first["margin_own"], first["margin_others"]) == (3.125, 2.125, 0.625)
    assert (second["margin_total"], second["margin_own"], second["margin_others"]) == (2.375, 2.125, -0.875)
    assert (second["logit_own"], second["logit_own_permuted"]) == (2.0, 2.0)


def test_margins_leave_out_everything_else_and_the_residual_from_the_others():
    values = [[1.0, 2.0, 4.0, 8.0]]
    part = {"paths": ["x"], "effects": values, "margins": values, "effects_permuted": values}
    row = concept_rows(effect(images=[part, part], background=1.0))[1]
    assert (row["margin_total"], row["margin_own"], row["margin_others"]) == (15.0, 2.0, 1.0)
    assert (row["logit_background"], row["logit_residual"]) == (4.0, 8.0)


def test_the_csv_ends_in_the_margins_and_is_empty_without_images():
    nothing = {"paths": [], "effects": [], "margins": [], "effects_permuted": []}
    text = comma_separated([effect(), effect(4, images=[nothing, effect()["images"][1]])])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[-4:] == ["images_of_shares", "margin_total", "margin_own", "margin_others"]
    assert rows[0]["margin_own"] == "2.125" and rows[2]["margin_own"] == rows[2]["logit_own"] == ""


@pytest.mark.parametrize(
    "changes",
    [
        *({"decoding": "device"}, {"precision": "bf16"}, {"weights_sha256": "01"}, {"transform": {"resize_size": 9}}),
        *({"validation": {"b": "9", "c": "1"}}, {"to": "zero"}, {"background": 1.0}, {"layer": "other"}),
    ],
)
def test_what_was_measured_otherwise_or_of_other_images_is_in_no_mean_together(changes):
    assert [len(rows) for _, rows in groups([effect(), effect(4), effect(5, **changes)])] == [4, 2]


def test_other_classes_and_rhos_are_in_one_mean():
    (one,) = groups([effect(), effect(4, rho=0.5, validation={"b": "1", "c": "2"})])
    assert len(one[1]) == 4 and "- margin own: " in (text := summary(one[1]))
    assert text.endswith("\n- too few channels for an interval")
    title = "net, layer last, split by arv, parts replaced by their mean, fp32, pil"
    assert one[0] == title and np.isfinite(one[1][0]["margin_own"])


def test_the_tables_are_made_again_where_another_run_has_written_meanwhile(tmp_path, monkeypatch):
    effects, make = effects_of(tmp_path, effect(3)), effect_tables.comma_separated

    def meanwhile(found):
        if len(found) == 1:
            effects.write(effect(4))
        return make(found)

    monkeypatch.setattr(effect_tables, "comma_separated", meanwhile)
    paths = write_effect_tables(effects)
    assert [path.name for path in paths] == ["effect.csv", "effect.md"]
    assert len(paths[0].read_text().splitlines()) == 5 and "| 4 " in paths[1].read_text()


def test_what_is_printed_says_how_to_read_it_and_names_what_is_stale_or_unchecked(tmp_path, capsys):
    measured = with_split_of_effect(tmp_path, effect())
    effects = effects_of(tmp_path, measured, effect(4), with_split_of_effect(tmp_path, effect(5)))
    with_split_of_effect(tmp_path, effect(5), seed=1)
    effects.read_all()
    print_effects([measured], effects)
    printed = capsys.readouterr()
    for words in ("the classifier's weights", "when they are active", "ablated()", "margin own", "Shapley"):
        assert words in " ".join(printed.out.split())
    assert "1 effect left out, as the split has changed since: measure again (net_channel5_0" in printed.err
    assert "1 effect not checked, as the split is not in" in printed.err and "channel4" in printed.err
