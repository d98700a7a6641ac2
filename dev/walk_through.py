"""Runs the notebook in docs/ without a browser, on the real server, and writes what it shows into its file."""

import os
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from . import comfyui, host

NOTEBOOK = host.ROOT / "docs" / "walk_through.ipynb"
KERNEL_SPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read_notebook(path: Path = NOTEBOOK) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def run_notebook(notebook: nbformat.NotebookNode, url: str) -> None:
    """Every cell, from the first one on, in a new process of this Python; CellExecutionError where one fails."""
    ours = KernelSpecManager(kernel_dirs=[])  # a kernel of the reader's own may be another Python
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ours)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}  # where Jupyter runs it, too
    client = NotebookClient(notebook, km=kernel, timeout=None, record_timing=False, resources=place)
    client.execute(cleanup_kc=True, env={**os.environ, "VEGA_ADDRESS": url, "PYTHONPATH": str(host.ROOT)})


def to_text(notebook: nbformat.NotebookNode) -> str:
    """What the file holds: cells and outputs, and nothing of the machine or the time that made them."""
    notebook.metadata = {"kernelspec": KERNEL_SPEC, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
    return nbformat.writes(notebook) + "\n"


def main() -> None:
    notebook = read_notebook()
    with comfyui.serve(host.ROOT / ".comfyui") as server:
        run_notebook(notebook, server.url)
    NOTEBOOK.write_text(to_text(notebook), encoding="utf-8")
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
