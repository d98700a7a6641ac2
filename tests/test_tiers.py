"""Every test is in exactly one tier, and has a name that fits on a command line."""

import ast
from collections.abc import Iterator
from pathlib import Path

import tiers

TESTS = Path(__file__).parent
MAX_NAME = 60


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


def test_every_test_has_one_tier(request):
    """Of all that was collected, whatever -m leaves out."""
    found = {item.nodeid: sorted(tiers.of(item)) for item in request.config.stash[tiers.COLLECTED]}
    assert {test: marks for test, marks in found.items() if len(marks) != 1} == {}


def test_fixtures_that_need_a_tier_exist():
    """A fixture that is renamed must not put its tests among the unit tests."""
    fixtures = {node.name for _, node in functions() if any("fixture" in ast.unparse(d) for d in node.decorator_list)}
    assert set(tiers.OF_FIXTURES) <= fixtures


def test_names_are_short():
    """At most 60 characters, so that -k and a line of the report have room for them; the claim is in the docstring."""
    names = {(path.name, node.name) for path, node in functions() if node.name.startswith("test_")}
    assert {(file, name) for file, name in names if len(name) > MAX_NAME} == set()
