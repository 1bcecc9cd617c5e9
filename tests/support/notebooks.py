"""Runs notebooks. ``python -m tests.support.notebooks`` runs all of them and stores what they gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import tree

DIRECTORY = tree.ROOT / "notebooks"
_CELL_S = 240
LIVE = {"02_restore_it_better"}  # restore real guests, so that figures differ each time


def all_notebooks() -> list[Path]:
    """In the order of their numbers."""
    return sorted(DIRECTORY.glob("*.ipynb"))


def executed(path: Path) -> Any:
    """A copy of the notebook with the outputs of now. Raises CellExecutionError, which shows the cell."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=_CELL_S, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran is nobody's concern
    return notebook


def texts(notebook: Any) -> list[list[str]]:
    """What each cell says in plain text. Pictures and the markup of tables differ between versions of libraries."""
    found = []
    for cell in notebook.cells:
        lines: list[str] = []
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                lines.append(output.text)
            else:
                lines += [text for kind, text in output.get("data", {}).items() if kind == "text/plain"]
        found.append(lines)
    return found


def main() -> None:
    """Executes every notebook in place."""
    import nbformat

    for path in all_notebooks():
        nbformat.write(executed(path), path)
        print(f"{path.name}: {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
