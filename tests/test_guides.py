"""Notebooks are what is made of the guides, and links lead somewhere; `run_guides.py` runs them."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "guides"))

import make_notebooks  # noqa: E402
import run_guides  # noqa: E402

pytestmark = pytest.mark.backends("torch")

GUIDES = make_notebooks.guides()
each_guide = pytest.mark.parametrize("guide", GUIDES, ids=[guide.name for guide in GUIDES])
MACHINE = re.compile(r"(?<![\w.:/~$}-])/(?:tmp|work|root|home|usr|opt|Users)/")


def test_notebooks_and_the_readmes_table_are_what_is_made_of_the_guides():
    assert make_notebooks.generate(GUIDES, check=True) == [], "python guides/make_notebooks.py generate"


def test_each_guide_runs_on_a_backend_it_names_and_each_backend_has_some():
    assert {guide.name for guide in GUIDES} == set(run_guides.BACKENDS)
    assert all(run_guides.BACKENDS[guide.name] in guide.backends for guide in GUIDES)
    assert set(run_guides.BACKENDS.values()) == {"jax", "tensorflow", "torch"}


def test_a_guides_script_becomes_text_and_code(tmp_path):
    header = "\n".join(f"{field}: {field} of it" for field in make_notebooks.FIELDS)
    path = tmp_path / "short.py"
    path.write_text(
        f'"""\n{header}\n"""\n\n"""\n# Text\n"""\n\nx = """no text"""\n\n# A remark.\nx\n"""More text."""\n'
    )
    guide = make_notebooks.read(path)
    assert guide.header["Title"] == "Title of it"
    assert guide.cells == (
        ("markdown", "# Text"),
        ("code", 'x = """no text"""\n\n# A remark.\nx'),
        ("markdown", "More text."),
    )
    path.write_text('"""Title: alone"""')
    with pytest.raises(ValueError, match="lacks Author, Date created"):
        make_notebooks.read(path)


def test_outputs_stay_with_the_code_they_come_from(tmp_path, monkeypatch):
    guide = GUIDES[0]
    monkeypatch.setattr(make_notebooks, "GUIDES", tmp_path)
    monkeypatch.setattr(make_notebooks, "with_table", lambda readme: readme)
    notebook = make_notebooks.notebook_of(guide)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].outputs = [nbformat.v4.new_output("stream", text="seen")]
    nbformat.write(notebook, tmp_path / guide.notebook.name)

    def outputs_after(cells):
        edited = make_notebooks.Guide(guide.name, guide.header, cells)
        make_notebooks.generate([edited])
        written = nbformat.read(tmp_path / guide.notebook.name, 4)
        return [output.text for cell in written.cells for output in cell.get("outputs", [])]

    assert outputs_after((*guide.cells[:-1], ("markdown", "Other words."))) == ["seen"]
    assert outputs_after((*guide.cells, ("code", "other_code()"))) == []


@each_guide
def test_a_notebook_was_run_in_full_without_errors_and_names_no_machine(guide):
    notebook = nbformat.read(guide.notebook, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells), f"python guides/make_notebooks.py execute {guide.name}"
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    text = [output.get("text", "") for output in outputs]
    text += [data for output in outputs for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    assert [line for part in text for line in part.splitlines() if MACHINE.search(line)] == []
    assert guide.notebook.stat().st_size < 600_000


@each_guide
def test_local_links_lead_somewhere(guide):
    cells = nbformat.read(guide.notebook, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(\s*([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    assert links
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (guide.notebook.parent / link).exists()] == []
