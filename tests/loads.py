"""What the tests of this run saw load, and the README's table of it."""

import re
from pathlib import Path

import folders
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- loads -->\n)(.*?)(<!-- end of loads -->)", re.DOTALL)
FEW = ("Segmind-Vega", "tiny-sd")
SEEN: dict[str, set[str]] = {}  # form -> families


def every(forms, always: tuple[str, ...], families=folders.FAMILIES) -> list:
    """(family, form) for all of both in `make soak`; `make test` keeps to the forms `always`, the others in two families."""
    pairs = [(family, form) for family in families for form in forms]
    reduced = [pytest.param(family, form) for family, form in pairs if form in always or family in FEW]
    return reduced + [pytest.param(*pair, marks=pytest.mark.soak) for pair in pairs]


def seen(form: str, family: str) -> None:
    SEEN.setdefault(form, set()).add(family)


def table() -> str:
    lines = ["| | " + " | ".join(folders.FAMILIES) + " |", "|---" * (len(folders.FAMILIES) + 1) + "|"]
    for form, families in sorted(SEEN.items()):
        lines.append(f"| {form} | " + " | ".join("✓" if f in families else "" for f in folders.FAMILIES) + " |")
    return "\n".join(lines) + "\n"


def in_readme() -> dict[str, set[str]]:
    """The README's table: form -> families."""
    _, _, *rows = BLOCK.search(README.read_text(encoding="utf-8"))[2].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {form: {f for f, mark in zip(folders.FAMILIES, marks, strict=True) if mark} for form, *marks in cells}


def write() -> None:
    README.write_text(BLOCK.sub(rf"\g<1>{table()}\3", README.read_text(encoding="utf-8")), encoding="utf-8")
