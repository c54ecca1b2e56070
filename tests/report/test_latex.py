"""Tables in LaTeX: strictly by their letters, and by LaTeX itself where there is one."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.entries import pair_result, random_separation_rows, result_of_three, separation
from utils.report import result_tables, separation_tables
from utils.report.latex import ACCENTS, CHARACTERS, escaped, floating, joined, stacked, tabular

TERRIBLE = r"""50%_of #1 & $x^2$ {a} ~b \frac<i>|j| [k]* "q" 'r' `s` été, Åse, łódź, ąę, 中文, 😀, – — … ± c'_1"""
ALLOWED = "|".join(
    [
        r"\\(?:textbackslash|textasciicircum|textasciitilde|ldots|ss|ae|AE|oe|OE|o|O|l|L|i)\{\}",
        r"\\[{}$&#%_]",
        r"\{\\char34\}|\{\[\}|\{\*\}",
        r"\$(?:[<>|-]|\\(?:pm|times|ge|le|gamma|tau|rho))\$",
        r"""\\[`'^~"=u.vHrc]\{[A-Za-z]\}""",
        r"\\texttt\{U\+[0-9A-F]{4,6}\}",
        r"[A-Za-z0-9 !'()+,\-./:;=?@\]`]",
    ]
)


def is_plain(text):
    return re.fullmatch(f"(?:{ALLOWED})*", text) is not None


@given(st.text(max_size=40))
def test_whatever_a_class_is_called_only_known_commands_and_letters_are_written(name):
    assert is_plain(escaped(name)) and escaped(name).isascii()


def test_what_would_break_a_table_does_not_pass_the_check():
    for text in ("a_b", "50%", "a & b", "#1", "$x$", "{", "}", "~", "^", "é", "\\frac", "[k]", "\\\\", '"', "<"):
        assert not is_plain(text)
        assert is_plain(escaped(text))


def test_letters_are_written_as_they_are_read():
    assert escaped("Straße, Åse 50 %") == r"Stra\ss{}e, \r{A}se 50 \%"
    assert escaped("e\u0301") == escaped("é") == r"\'{e}"
    assert escaped("中") == r"\texttt{U+4E2D}" and escaped("😀") == r"\texttt{U+1F600}"
    assert escaped("\\") == r"\textbackslash{}"
    assert len(set(CHARACTERS.values())) == len(CHARACTERS) and len(ACCENTS) == 12


def test_a_table_has_rules_of_booktabs_between_its_blocks_and_true_minus_signs():
    text = tabular("rl", ["a", r"$c'_{1}$"], [["1", "-0.5 ± 0.1"], ["2", "well-known -3"]], [], [["all 2", "[x]"]])
    assert text.split("\n") == [
        *(r"\begin{tabular}{@{}rl@{}}", r"\toprule", r"a & $c'_{1}$ \\", r"\midrule"),
        *(r"1 & $-$0.5 $\pm$ 0.1 \\", r"2 & well-known $-$3 \\", r"\midrule", r"all 2 & {[}x] \\"),
        *(r"\bottomrule", r"\end{tabular}"),
    ]
    assert stacked("AP weights_permuted") == r"\shortstack[r]{AP \\ weights\_permuted}" and stacked("q") == "q"


def documents():
    """Both files, of results with terrible names."""
    name = [TERRIBLE, TERRIBLE[::-1]]
    tables = result_tables.result_groups(
        [pair_result(3, concept_names=name), pair_result(4, run="a_b%"), result_of_three(5)]
    )
    rows = random_separation_rows()
    rows[0]["name"] = TERRIBLE
    return result_tables.latex(tables), separation_tables.latex([separation(rows=rows, run="a_b%")])


def tables_in(text):
    """Header and rows of each table as cells."""
    for table in re.findall(r"\\begin\{tabular\}\{@\{\}(.*?)@\{\}\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in table[1].split("\n") if line.endswith(r" \\")]
        yield table[0], [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in lines]


def test_every_row_of_the_files_has_a_cell_for_each_column():
    summary, separations = documents()
    found = list(tables_in(summary))
    assert sorted(len(cells) for _, cells in found) == [1 + 2 + 2, 1 + 2 + 2, 1 + 3 + 3]
    for columns, cells in [*found, *tables_in(separations)]:
        assert columns == "rl" + "r" * (len(columns) - 2)
        assert {len(row) for row in cells} == {len(columns)}
        assert all(is_plain(cell) for row in cells[1:] for cell in row)
    of_pair = next(cells for _, cells in found if cells[1][0] == "4")
    assert of_pair[0] == [
        *("channel", "concept", "cosine", "rho", "included", "$c'_{1}$", "$c'_{2}$", "residual", "clean"),
        *("AUROC $c'_{k}$ / c", "top-1"),
    ]
    expected = result_tables.result_rows(pair_result(4))[0].summary
    assert of_pair[1][5] == rf"{expected.mean[0]:.2f} $\pm$ {expected.std[0]:.2f}"
    assert text_outside(summary) == text_outside(separations) == ""


def text_outside(text):
    """What is neither a comment nor in a table."""
    return re.sub(r"\\begin\{table\*\}.*?\\end\{table\*\}|^%.*?$", "", text, flags=re.DOTALL | re.MULTILINE).strip()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_prints_them(tmp_path):
    package = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True)
    if package.returncode:
        pytest.skip("LaTeX without booktabs")
    for name, text in zip(("summary", "separation", "names"), (*documents(), floating(TERRIBLE, "")), strict=True):
        (tmp_path / f"{name}.tex").write_text(text)
    body = r"\input{summary}\input{separation}\input{names}"
    (tmp_path / "all.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "all.log").read_text(errors="replace")


def test_every_table_has_a_label_of_its_caption_that_occurs_once():
    parts = [floating(caption, "x") for caption in ("net_1, τ 0.03 (é).", "net_1, τ 0.03 (é).", "another")]
    labels = re.findall(r"^\\label\{(.*)\}$", joined(parts), re.MULTILINE)
    assert labels == ["tab:net-1-0.03-e", "tab:net-1-0.03-e-2", "tab:another"]
    assert r"\label{tab:separation-net-last}" in separation_tables.latex([separation()])
