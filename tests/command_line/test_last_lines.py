"""The last lines of a stage: what was written, what to run next, and last the file to open first."""

import pytest

from utils.command_line.run import best_to_open, print_end


@pytest.mark.parametrize(
    ("paths", "best"),
    [
        ([], None),
        (["a.txt", "b.json", "folder"], None),
        (["a.txt", "plots/x_density.png", "b/summary.md"], "b/summary.md"),
        (["b/separation.md", "b/summary.md"], "b/separation.md"),
        (["summary.md", "x_card.png", "y_card.png"], "x_card.png"),
        (["x_card.png", "report/RUN/index.html"], "report/RUN/index.html"),
        (["m_layer.json", "m_concepts.csv"], "m_concepts.csv"),
        (["RUN_channels.csv", "RUN_overview.png", "RUN_wordnet.png"], "RUN_overview.png"),
    ],
)
def test_the_file_to_open_first_is_the_one_that_says_most(paths, best):
    assert best_to_open(paths) == best


def test_what_was_written_comes_first_and_the_file_to_open_last(capsys):
    print_end(["a.txt", "b.png"], [("next", "python x.py"), ("or", "python y.py")])
    assert capsys.readouterr().out == (
        "\nwrote a.txt\n      b.png\nnext: python x.py\nor: python y.py\nopen first: b.png\n"
    )
    print_end([], [("next", "python x.py")], open_first="split.pt", opened_by="by hand")
    assert capsys.readouterr().out == "next: python x.py\nopen first (by hand): split.pt\n"
    print_end(["a.txt"], [])
    assert capsys.readouterr().out == "\nwrote a.txt\n"
