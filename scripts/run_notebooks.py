"""Run the notebooks from fresh kernels and keep their outputs, clean enough to commit.

    python scripts/run_notebooks.py            # all
    python scripts/run_notebooks.py notebooks/05_noise.ipynb

What a page on the web cannot show or a reader should not see is dropped: the state of widgets and
the views that need it (a still picture is beside each), timestamps. A notebook is written only if
it ran without an error, wrote nothing to stderr, names no path of this machine and is small enough.
"""

import argparse
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from dne_lib.files import InputError, write_bytes

ROOT = Path(__file__).parent.parent
LARGEST = 1_500_000  # bytes
WIDGET = "application/vnd.jupyter.widget-view+json"
MACHINE = re.compile(r"(?<![\w.$}])/(?:home|Users|root|work|mnt|tmp|private|var)/\w[^\s'\"]*")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

log = logging.getLogger("run_notebooks")


def clean(notebook: Any) -> Any:
    """Drop, in place, what must not be committed; the notebook is returned."""
    notebook.metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if WIDGET not in out.get("data", {})]
    return notebook


def faults(notebook: Any) -> list[str]:
    """Why a notebook with outputs must not be committed; nothing if it may be."""
    found = []
    if "widgets" in notebook.metadata:
        found.append("it holds the state of widgets")
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number} failed: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"cell {number} wrote to stderr: {output.text.strip()[:200]}")
            if WIDGET in output.get("data", {}):
                found.append(f"cell {number} shows a widget, which has no state here")
    if paths := MACHINE.findall(nbformat.writes(notebook)):
        found.append(f"it names paths of this machine: {paths[0]}")
    size = len(nbformat.writes(notebook).encode())
    if size > LARGEST:
        found.append(f"it has {size:,} bytes, more than {LARGEST:,}: draw fewer or smaller figures")
    return found


def run(path: Path, timeout: int = 600) -> None:
    """Execute one notebook in its folder and write it back.

    Args:
        path: the notebook.
        timeout: seconds a cell may take.

    Raises:
        InputError: it cannot be read, a cell fails, or the result must not be committed.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError) as error:
        raise InputError(f"{path} cannot be read as a notebook ({error}): restore it") from None
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", record_timing=False,
        store_widget_state=False, resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    try:
        client.execute()
    except (CellExecutionError, DeadKernelError) as error:
        raise InputError(f"{path} does not run; it was left as it was.\n{error}") from None
    clean(notebook)
    if found := faults(notebook):
        raise InputError(f"{path} was left as it was: " + "; ".join(found))
    write_bytes(path, (nbformat.writes(notebook) + "\n").encode())


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks named, or all; 0 if every one was written."""
    parser = argparse.ArgumentParser(description="Run notebooks and keep their outputs.")
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    given = parser.parse_args(arguments).notebooks
    failed = False
    for path in given or sorted((ROOT / "notebooks").glob("*.ipynb")):
        start = time.perf_counter()
        try:
            run(path)
        except InputError as error:
            log.error("%s", error)
            failed = True
        else:
            size = path.stat().st_size / 1000
            log.info("%s: %.0f s, %.0f kB", path.name, time.perf_counter() - start, size)
    return int(failed)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    sys.exit(main())
