"""Make the notebooks of the guides: guides/NAME.ipynb from guides/NAME.py, and the table of them in README.md.

    python guides/make_notebooks.py generate               # cells and table; outputs stay if no code changed
    python guides/make_notebooks.py generate --check       # change nothing, exit with 1 if anything would change
    python guides/make_notebooks.py execute transfer       # run in full and keep the outputs; all without a name

Takes `pip install ".[guides]"`. A guide is a script in the format of Keras' tutorials: a title block, then strings,
which become text, and code between them. Beside Keras' fields its title block has "Order", its place in the table;
"Backends", those it is started on where that is not all of them (one guide goes through the others itself); and
"Extras", where it takes others than most, for the cell that installs keras_mae in Colab. Notebooks are never edited.

The repository's address, from which Colab installs, is in one place: `[project.urls]` of pyproject.toml.
"""

from __future__ import annotations

import argparse
import ast
import base64
import io
import os
import re
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

GUIDES = Path(__file__).resolve().parent
PROJECT = GUIDES.parent
FIELDS = ("Title", "Author", "Date created", "Last modified", "Description", "Accelerator", "Order")
START, END = "<!-- guides: made by guides/make_notebooks.py -->", "<!-- end of guides -->"

SETUP = """\
# Colab comes without keras_mae: there this cell installs it, elsewhere it only turns on pictures.
import sys

if "google.colab" in sys.modules:
    %pip install -q "keras-mae[{extras}] @ git+{address}"
%matplotlib inline"""


def address() -> str:
    """Of the repository."""
    return tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


@dataclass(frozen=True)
class Guide:
    """A guide's script, taken apart.

    Attributes:
        name: Of its files, without an ending.
        header: The title block.
        cells: ("markdown" or "code", source), without the header and the cell for Colab.
    """

    name: str
    header: dict[str, str]
    cells: tuple[tuple[str, str], ...]

    @property
    def notebook(self) -> Path:
        """Where its notebook is."""
        return GUIDES / f"{self.name}.ipynb"

    @property
    def colab(self) -> str:
        """The link that opens it in Colab."""
        repository = address().removeprefix("https://github.com/")
        return f"https://colab.research.google.com/github/{repository}/blob/main/guides/{self.name}.ipynb"

    @property
    def backends(self) -> list[str]:
        """Those it runs on."""
        return re.split(r",\s*", self.header.get("Backends", "tensorflow, jax, torch"))

    @property
    def extras(self) -> str:
        """Those it installs in Colab, which has the backends already."""
        return self.header.get("Extras", "convert,data,viz")


def read(path: Path) -> Guide:
    """The guide in a script.

    Raises:
        ValueError: If its title block is not one.
    """
    source = path.read_text(encoding="utf-8")
    first, *body = ast.parse(source).body
    header = _header(ast.literal_eval(first.value)) if _is_text(first) else {}
    if missing := [field for field in FIELDS if field not in header]:
        raise ValueError(f"The title block of {path.name} lacks {', '.join(missing)}")
    lines, cells, code_from = source.splitlines(), [], first.end_lineno
    for node in filter(_is_text, body):
        cells += [
            ("code", "\n".join(lines[code_from : node.lineno - 1]).strip()),
            ("markdown", ast.literal_eval(node.value).strip()),
        ]
        code_from = node.end_lineno
    cells.append(("code", "\n".join(lines[code_from:]).strip()))
    return Guide(path.stem, header, tuple(cell for cell in cells if cell[1]))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _header(block: str) -> dict[str, str]:
    header: dict[str, str] = {}
    for line in block.strip().splitlines():
        field = re.match(r"([A-Z][a-z ]+): (.+)", line)
        if field:
            header[field[1]] = field[2]
        elif header:  # a long description goes on
            header[next(reversed(header))] += " " + line.strip()
    return header


def guides(names: list[str] | None = None) -> list[Guide]:
    """All guides, or those of these names, in the table's order."""
    paths = [GUIDES / f"{name}.py" for name in names or []] or sorted(GUIDES.glob("*.py"))
    found = [read(path) for path in paths if path.name != Path(__file__).name]
    return sorted(found, key=lambda guide: int(guide.header["Order"]))


def notebook_of(guide: Guide) -> Any:
    """The guide's notebook, without outputs."""
    about = "<br>\n".join(f"**{field}:** {guide.header[field]}" for field in FIELDS[1:5])
    title = (
        f"# {guide.header['Title']}\n\n{about}\n\n[Run it in Colab]({guide.colab}) · [The script]({guide.name}.py)"
        "\n\n"
        f'Elsewhere: `git clone {address()}`, and in it `pip install ".[torch,{guide.extras}]"` (or `tensorflow`, or '
        "`jax`) and `pip install jupyterlab`. The second code cell chooses the backend."
    )
    sources = [("markdown", title), ("code", SETUP.format(extras=guide.extras, address=address())), *guide.cells]
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    cells = [make[kind](source, id=f"cell-{number:02}") for number, (kind, source) in enumerate(sources)]
    metadata: dict[str, Any] = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "colab": {"name": guide.notebook.name, "provenance": []},
    }
    if guide.header["Accelerator"] != "None":
        metadata["accelerator"] = guide.header["Accelerator"]
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def sources(notebook: Any) -> list[tuple[str, str]]:
    """What a notebook's cells say."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def with_table(readme: str) -> str:
    """README.md with the table of the guides as it is now."""
    rows = ["| Guide | | |", "| --- | --- | --- |"]
    for guide in guides():
        title, description = guide.header["Title"], guide.header["Description"]
        rows.append(f"| [{title}](guides/{guide.name}.ipynb) | {description} | [Colab]({guide.colab}) |")
    before, _, rest = readme.partition(START)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"README.md has no place for the table: {START!r} and {END!r}")
    return "\n".join([before + START, *rows, END + after])


def generate(chosen: list[Guide], check: bool = False) -> list[str]:
    """Write what has changed, and say its names; with `check` only say them."""
    changed = []
    for guide in chosen:
        fresh = notebook_of(guide)
        written = nbformat.read(guide.notebook, 4) if guide.notebook.exists() else None
        if written is None or sources(written) != sources(fresh):
            changed.append(guide.notebook.name)
            if not check:
                nbformat.write(_with_outputs(fresh, written), guide.notebook)
    readme = PROJECT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if text != with_table(text):
        changed.append(readme.name)
        if not check:
            readme.write_text(with_table(text), encoding="utf-8")
    return changed


def _with_outputs(fresh: Any, written: Any) -> Any:
    """The new notebook with what the old one shows, if the code is the same: an output of other code is a lie."""
    new, old = (
        [cell for cell in book.cells if cell.cell_type == "code"] if book else [] for book in (fresh, written)
    )
    if [cell.source for cell in new] == [cell.source for cell in old]:
        for cell, shown in zip(new, old, strict=True):
            cell.outputs, cell.execution_count = shown.outputs, shown.execution_count
    return fresh


def in_256_colors(picture: str) -> str:
    """Return a PNG file in base64, with a palette: half of the bytes or less."""
    from PIL import Image

    smaller = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as found:
        found.convert("RGB").quantize(256).save(smaller, "PNG", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def execute(guide: Guide) -> float:
    """Run a guide in full, in an empty folder, and keep what it shows; returns the seconds it took."""
    from nbclient import NotebookClient

    os.environ.pop("KERAS_MAE_QUICK", None)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    notebook = notebook_of(guide)
    metadata = dict(notebook.metadata)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    seconds = time.perf_counter() - began
    notebook.metadata = nbformat.from_dict(metadata)  # nbclient adds the versions of this machine
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":  # what libraries say on stderr is about this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = in_256_colors(output["data"]["image/png"])
    nbformat.write(notebook, guide.notebook)
    return seconds


def main() -> None:
    """As the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["generate", "execute"])
    parser.add_argument("names", nargs="*", help="guides; all by default")
    parser.add_argument("--check", action="store_true", help="generate: only say what would change")
    options = parser.parse_args()
    chosen = guides(options.names)
    if options.command == "execute":
        for guide in chosen:
            print(f"{guide.name}: {execute(guide):.0f} s", flush=True)
    changed = generate(chosen, options.check)
    print("\n".join(f"changed: {name}" for name in changed) or "nothing changed")
    sys.exit(1 if options.check and changed else 0)


if __name__ == "__main__":
    main()
