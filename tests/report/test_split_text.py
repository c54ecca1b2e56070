"""What stage 3 prints of the choice of rho: each objective's own choice, side by side."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.splits import fitted_split
from tests.stores import split_file
from utils.divisions.arv import Arv
from utils.method.disentangling import Concept
from utils.method.rho import RHOS
from utils.report.split_text import print_closing_table, print_split


def objectives(**best):
    """Values of the three objectives, each with its largest one at a rho."""
    values = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for place, (name, rho) in enumerate(best.items()):
        values[RHOS.index(rho), place] = {"positive": 4e6, "absolute": 5.5, "contrast": 1.75}[name]
    return values


@pytest.fixture
def file():
    made = split_file(nn.Conv2d(6, 9, 1), 4)
    made.split.division = searched(made, 0.95, positive=0.95, absolute=0.3, contrast=1.0)
    return made


def searched(file, rho, objective="positive", **best):
    """The division of a split file, where these values of the objectives have chosen a rho."""
    division = file.split.division
    return Arv(division.owners, objectives(**best), objective, rho, division.num_concepts)


ROW = r" *[01]\.\d\d "  # begins a row of the table of rho


def table_of(text):
    """The rows of the table of rho, {heading: cell}."""
    (header,) = [line for line in text.splitlines() if line.split()[:1] == ["rho"]]
    rows = [line.removesuffix(" <- chosen") for line in text.splitlines() if re.match(ROW, line)]
    return [dict(zip(header.split(), row.split(), strict=True)) for row in rows]


def test_the_table_of_rho_marks_what_each_objective_would_choose(file):
    file.split.division.objectives[0, 0] = 1e6
    text = file.split.division.text()
    table = table_of(text)
    assert [row["rho"] for row in table] == [f"{rho:.2f}" for rho in RHOS]
    assert set(table[0]) == {"rho", "positive", "absolute", "contrast", "|S_1|", "|S_2|", "shared"}
    for objective, rho in (("positive", "0.95"), ("absolute", "0.30"), ("contrast", "1.00")):
        assert [row["rho"] for row in table if row[objective].endswith("*")] == [rho]
    percent = {row["rho"]: row["positive"] for row in table}
    assert percent["0.05"] == "25.00%" and percent["0.95"] == "100.00%*"
    assert re.findall(r"^ *(\S+) .* <- chosen$", text, re.MULTILINE) == ["0.95"]
    lines = text.splitlines()
    assert "* rho by each objective: positive 0.95, absolute 0.30, contrast 1.00; used: positive" in lines
    assert "\npositive: in per cent of its largest value, 4e+06; " in text
    assert len({len(line.removesuffix(" <- chosen")) for line in lines if re.match(ROW, line)}) == 1


def test_values_that_all_are_zero_can_be_shown(file):
    division = file.split.division
    zero = Arv(division.owners, division.objectives.zero_(), "positive", 0.05, division.num_concepts)
    first, *others = table_of(zero.text())
    assert {row["positive"].rstrip("*") for row in (first, *others)} == {"0.00%"}
    assert sum(cell.endswith("*") for cell in first.values()) == 3  # of equal ones, the smallest
    assert not any(cell.endswith("*") for row in others for cell in row.values())


def test_the_closing_table_has_the_rho_of_every_objective(file, capsys):
    fitted = replace(file, split=fitted_split(nn.Conv2d(6, 9, 1), 5))
    other = split_file(nn.Conv2d(6, 9, 1), 6)
    other.split.division = searched(other, 0.6, "contrast", positive=0.2, absolute=0.4, contrast=0.6)
    print_closing_table([file, fitted, other])
    _, _, header, *rows = capsys.readouterr().out.splitlines()[:6]
    assert header.split()[2:6] == ["positive", "absolute", "contrast", "quality"]
    assert [row.split()[2:6] for row in rows] == [
        ["0.95*", "0.30", "1.00", f"{file.split.division.objectives[RHOS.index(0.95), 2]:.4f}"],
        ["-", "-", "-", "-"],
        ["0.20", "0.40", "0.60*", "1.7500"],
    ]
    assert len({row.index(" of 8") for row in rows}) == 1


def test_the_number_of_reference_images_is_printed_before_the_sets(file, capsys):
    split = file.split
    split.concepts = [Concept(f"circuit {k}", [], list(range(4 * k, 9)), "images") for k in (0, 1)]
    network = SimpleNamespace(layer=SimpleNamespace(name="last"), weights="w")
    print_split(split, {}, network, finds_concepts=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "channel 4 of last (weights w)",
        "14 reference images, in 2 sets:",
        "concept 1: circuit 0, 9 training images",
    ]
    print_split(split, {}, network, finds_concepts=False)  # sets that the user has listed
    assert "reference" not in capsys.readouterr().out
    file.split.concepts = [Concept("barn", [1], None, "classes"), Concept("kit", [2], None, "classes")]
    print_split(split, {1: torch.arange(3), 2: torch.arange(2)}, network, finds_concepts=False)
    assert "reference" not in capsys.readouterr().out


def test_the_closing_table_leaves_out_columns_without_values(capsys):
    """Least squares has no rho and no quality, and a concept beside everything else has no cosine."""
    fitted = [replace(split_file(nn.Conv2d(6, 9, 1), 5), split=fitted_split(nn.Conv2d(6, 9, 1), k)) for k in (5, 6)]
    print_closing_table(fitted)
    _, first, header, *rows, note = capsys.readouterr().out.splitlines()
    assert first == "2 splits"
    assert header.split() == ["channel", "changed", "concepts"]
    assert [re.fullmatch(r" +(\d)  +0 of 8  .+ / everything else", row)[1] for row in rows] == ["5", "6"]
    assert note == "changed: predictions that change, of the images on which equality was checked"
