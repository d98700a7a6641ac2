"""What the tests of this run saw load, and the README's table of it."""

import os
import re
from pathlib import Path

import pytest

from dev import diffusers_folders as folders

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- loads -->\n)(.*?)(<!-- end of loads -->)", re.DOTALL)
WRITES = "WRITE_TABLE" in os.environ
SEEN: dict[str, set[str]] = {}  # form -> families


def every(forms, always: tuple[str, ...], families=tuple(folders.FAMILIES)) -> list:
    """(family, form): all of both in `make soak`; in `make test` the forms `always`, and each other in one family."""
    pairs = [(family, form) for family in families for form in forms]
    taken = {form: families[i % len(families)] for i, form in enumerate(forms)}
    reduced = [pytest.param(family, form) for family, form in pairs if form in always or family == taken[form]]
    return reduced + [pytest.param(*pair, marks=pytest.mark.soak) for pair in pairs]


def seen(form: str, family: str) -> None:
    SEEN.setdefault(form, set()).add(family)
    if not WRITES:
        assert family in in_readme().get(form, set()), f"{form}, {family}: `make table` writes the README's table anew"


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
