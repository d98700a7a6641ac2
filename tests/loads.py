"""What the tests of this run saw load, and the README's table of it."""

import os
import re
from pathlib import Path

import pytest

from dev import diffusers_folders as folders

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- loads -->\n)(.*?)(<!-- end of loads -->)", re.DOTALL)
WRITE_TABLE = "WRITE_TABLE" in os.environ
LOADED_FAMILIES: dict[str, set[str]] = {}  # form -> families


def family_form_params(forms, always: tuple[str, ...], families=tuple(folders.FAMILIES)) -> list:
    """(family, form): all of both in `make soak`; in `make test` the forms `always`, and each other in one family."""
    pairs = [(family, form) for family in families for form in forms]
    taken = {form: families[i % len(families)] for i, form in enumerate(forms)}
    reduced = [pytest.param(family, form) for family, form in pairs if form in always or family == taken[form]]
    return reduced + [pytest.param(*pair, marks=pytest.mark.soak) for pair in pairs]


def record_loaded(form: str, family: str) -> None:
    LOADED_FAMILIES.setdefault(form, set()).add(family)
    if not WRITE_TABLE:
        listed = read_readme_table().get(form, set())
        assert family in listed, f"{form}, {family}: `make table` writes the README's table anew"


def format_table() -> str:
    lines = ["| | " + " | ".join(folders.FAMILIES) + " |", "|---" * (len(folders.FAMILIES) + 1) + "|"]
    for form, families in sorted(LOADED_FAMILIES.items()):
        lines.append(f"| {form} | " + " | ".join("✓" if f in families else "" for f in folders.FAMILIES) + " |")
    return "\n".join(lines) + "\n"


def read_readme_table() -> dict[str, set[str]]:
    """The README's table: form -> families."""
    _, _, *rows = BLOCK.search(README.read_text(encoding="utf-8"))[2].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {form: {f for f, mark in zip(folders.FAMILIES, marks, strict=True) if mark} for form, *marks in cells}


def write_readme_table() -> None:
    README.write_text(BLOCK.sub(rf"\g<1>{format_table()}\3", README.read_text(encoding="utf-8")), encoding="utf-8")
