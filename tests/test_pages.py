"""README.md and docs/ are executed: the blocks that say so, on one run of the demonstration, and what they print."""

import pytest

from tests.demonstration import copy_project, run_in
from tests.pages import PAGES, blocks_of, first_difference
from tests.scripts import ROOT

SHOWN = 30  # last lines of what a block that failed has printed
EXECUTED = [page for page in PAGES if any(block.is_executed for block in blocks_of(page))]


def failure_of(page, project):
    """Execute the blocks of a page in a copied project: where and why it fails, or None."""
    blocks = blocks_of(page)
    for block in blocks:
        if block.file is not None:
            (project / block.file).parent.mkdir(parents=True, exist_ok=True)
            (project / block.file).write_text(block.text)
    result = None  # of the last executed block, until a block shows its output
    for block in blocks:
        if block.is_executed:
            result = run_block(block, project)
            if result.returncode != 0:
                return f"{block.place} ended with status {result.returncode}\n{last_lines(result)}"
        elif block.is_output:
            if result is None:
                return f"{block.place} is the output of no block"
            difference = first_difference(block.text, result.stdout)
            if difference:
                return f"{block.place} {difference}\n{last_lines(result)}"
            result = None
    return None


def run_block(block, project):
    if block.language == "sh":
        return run_in(project, "sh", "-e", "-c", block.text)
    return run_in(project, "python", "-", text="\n" * block.line + block.text)  # errors have the page's line numbers


def last_lines(result):
    return "\n".join([*result.stdout.splitlines()[-SHOWN:], *result.stderr.splitlines()[-SHOWN:]])


@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_the_blocks_of_a_page_do_what_it_shows(page, demonstrated):
    failure = failure_of(page, demonstrated)
    assert failure is None, failure


# --------------------------------------------------------------------------------------------------------------------
# The checks find what they are for


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(ROOT, tmp_path_factory.mktemp("pages") / "project")


def failure_in(folder, project, *lines):
    page = folder / "page.md"
    page.write_text("\n".join(lines))
    return failure_of(page, project)


def test_a_page_that_is_right(project, tmp_path):
    assert not failure_in(
        *(tmp_path, project, "Files first:", "```python run file=made/by_page.py", "VALUE = 0.2512", "```"),
        *("- in a list:", "", "  ```sh run", "  python -c 'from made.by_page import VALUE; print(VALUE)'", "  ```"),
        *("and it prints", "```text output", "0.2513", "```"),
        *("```python run", "import sys", "from made.by_page import VALUE", "print(sys.path[0] == '', VALUE)", "```"),
        *("```text output", "...", "True  0.25...", "```", "not run:", "```python", "1 / 0", "```"),
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("text", "```sh run", "echo before; false", "echo after", "```"), ("page.md:2 ended with status 1", "before")),
        (("```python run", "", "1 / 0", "```"), ("page.md:1 ended with status 1", "line 3", "ZeroDivisionError")),
        (("```python run", "os", "```"), ("NameError",)),
        (("```python run", "a = 1", "```", "```python run", "a", "```"), ("page.md:4", "NameError")),
        (
            ("```sh run", "echo 12.5", "```", "```text output", "12.8", "```"),
            ("page.md:4 not printed there: 12.8",),
        ),
        (("```sh run", "echo a; echo b", "```", "```text output", "a", "```"), ("page.md:4 printed besides: b",)),
        (("```text output", "a", "```"), ("page.md:1 is the output of no block",)),
    ],
)
def test_a_page_that_is_wrong(lines, words, project, tmp_path):
    failure = failure_in(tmp_path, project, *lines)
    assert all(part in failure for part in words), failure


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("```sh run", "page.md:2: the block is not closed"),
        ("```json run\n```", "page.md:2: only sh and python can be run"),
        ("```sh runs\n```", "page.md:2: runs means nothing here"),
        ("```python file=a.py\n```", "page.md:2: only a block to run can be a file"),
        ("```sh output\n```", "page.md:2: output is text"),
    ],
)
def test_a_fence_that_asks_for_what_there_is_not(line, complaint, tmp_path):
    (tmp_path / "page.md").write_text(f"text\n{line}\n")
    with pytest.raises(AssertionError, match=complaint):
        blocks_of(tmp_path / "page.md")


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("a  b\n", "\na b \n"),
        ("0.25 of 1,072 at 1e-16", "0.26 of 1,072 at -4e-16"),
        ("AP 12.34%", "AP 12.41%"),
        ("-0.00 / 1.0", "0.01 / 0.9"),
        ("first\n...\nlast", "first\nlast"),
        ("...\nb\n...", "a\nb\nb\nc"),
        ("wrote ... in 3 s", "wrote plots/x.png in 3 s"),
        ("...", ""),
    ],
)
def test_what_is_printed_agrees(expected, printed):
    assert first_difference(expected, printed) is None


@pytest.mark.parametrize(
    ("expected", "printed", "difference"),
    [
        ("0.25", "0.27", "not printed there: 0.25"),
        ("12 of 30", "13 of 30", "not printed there: 12 of 30"),
        ("at 1e-16", "at 1e-14", "not printed there: at 1e-16"),
        ("first\n...\nlast", "first\nlast\nmore", "printed besides: more"),
        ("first\nlast", "first", "not printed there: last"),
        ("...\nb\nc\n...", "a\nb\nd", "not printed there: c"),
        ("wrote ... in 3 s", "wrote in 3", "not printed there: wrote ... in 3 s"),
    ],
)
def test_what_is_printed_differs(expected, printed, difference):
    assert first_difference(expected, printed) == difference
