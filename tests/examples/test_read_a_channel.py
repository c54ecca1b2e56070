"""The notebook: it runs after the demonstration, from any of the repository's folders, and shows what it prints."""

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.pages import first_difference
from tests.scripts import PATIENCE, ROOT

NOTEBOOK = ROOT / "examples" / "read_a_channel.ipynb"
LARGEST = 300_000  # bytes
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
RESULTS = """
import json
print(json.dumps({"cosine": pairs[0][3], "fractions": list(fractions.values()), "precision": precision,
                  "changes": changes}))
"""
OF_A_MACHINE = re.compile(r"(?<![\w./])/\w+/\w+|site-packages|[A-Z]:\\")


def printed(cell):
    """What a code cell has printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_runs_and_prints_what_is_stored(notebook, demonstrated, tmp_path, monkeypatch):
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)  # other kernels of this name may be there
    stored = [printed(cell) for cell in code_cells(notebook)]
    notebook.cells.append(nbformat.v4.new_code_cell(RESULTS))
    place = {"metadata": {"path": str(demonstrated / "examples")}}
    patience = {"timeout": PATIENCE, "startup_timeout": PATIENCE, "iopub_timeout": PATIENCE}
    NotebookClient(notebook, kernel_name="python3", resources=place, **patience).execute()
    *cells, last = code_cells(notebook)
    differences = [first_difference(text, printed(cell)) for text, cell in zip(stored, cells, strict=True)]
    assert not any(differences), differences
    results = json.loads(printed(last))
    own_donut, donut_on_waves, waves_on_donut, own_waves = results["fractions"]
    assert results["cosine"] < 0.05
    assert min(own_donut, own_waves) > 1 > 0 > max(donut_on_waves, waves_on_donut)
    precision = results["precision"]
    assert precision["before"] < precision["null"] < precision["after"] < precision["probe"]
    assert results["changes"]["donut"] < -1 and abs(results["changes"]["waves"]) < 0.1


def test_what_is_stored_is_whole_and_of_no_machine(notebook):
    cells = code_cells(notebook)
    assert NOTEBOOK.stat().st_size < LARGEST
    assert notebook.metadata == METADATA
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    texts = [printed(cell) for cell in cells] + [cell.source for cell in notebook.cells]
    assert not [found[0] for text in texts if (found := OF_A_MACHINE.search(text))]
    assert not any(cell.metadata for cell in notebook.cells)


def test_files_that_the_notebook_links_are_there(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links
    assert not [link for link in links if not (NOTEBOOK.parent / link).is_file()]
