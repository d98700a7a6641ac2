"""One file of results a machine: a run takes the place of an earlier one of the same parts and sizes."""

import json
from pathlib import Path

from . import chart, machine, report

RESULTS_DIR = Path(__file__).parent / "results"


def merge_runs(earlier: list[dict], run: dict) -> list[dict]:
    """Runs are never mixed: each keeps its own numbers, because only those were measured side by side."""
    return [r for r in earlier if (r["parts"], r["sizes"]) != (run["parts"], run["sizes"])] + [run]


def write(run: dict, folder: Path = RESULTS_DIR) -> list[Path]:
    """Merges the run into this machine's JSON and makes its Markdown and its chart anew; returns the three paths."""
    paths = [folder / f"{machine.file_stem()}.{ending}" for ending in ("json", "md", "png")]
    data, text, picture = paths
    earlier = json.loads(data.read_text(encoding="utf-8"))["runs"] if data.is_file() else []
    found = {"machine": machine.description(), "runs": merge_runs(earlier, run)}
    folder.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text.write_text(report.render_markdown(found), encoding="utf-8")
    chart.draw(found, picture)
    return paths
