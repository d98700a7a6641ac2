"""LazyList: for every reader a list like any other, and nothing is looked up for those who don't read it."""

import copy
import dataclasses
import json

import pytest
from vega_pack.nodes.lazy_list import LazyList

READS = {
    "for": lambda a: [2 * x for x in a],
    "len": len,
    "bool": bool,
    "index": lambda a: a[1],
    "slice": lambda a: a[:1],
    "in": lambda a: "b" in a,
    "==": lambda a: a == ["a", "b"],
    "!=": lambda a: a != ["a", "b"],
    "== as the right side": lambda a: sorted("ba") == a,
    "+": lambda a: a + ["c"],
    "+ as the right side": lambda a: ["c"] + a,
    "extend": lambda a: [*["c"], *a],
    ".index": lambda a: a.index("b"),
    ".count": lambda a: a.count("a"),
    ".copy": lambda a: a.copy(),
    "reversed": lambda a: list(reversed(a)),
    "sorted": lambda a: sorted(a, reverse=True),
    "tuple": tuple,
    "join": ", ".join,
    "str": str,
    "json": json.dumps,
    "json with an indent": lambda a: json.dumps(a, indent=1),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_it_reads_as_the_list_itself(read):
    assert read(LazyList.of(lambda: iter("ab"))) == read(["a", "b"])


@dataclasses.dataclass
class Info:
    """As the host wraps a node's inputs for /object_info."""

    input: dict


def test_it_is_looked_up_once_and_only_when_it_is_read():
    asked = []

    def find():
        asked.append(1)
        return ["a", "b"]

    info = Info({"required": {"name": ("COMBO", {"options": LazyList.of(find)})}})
    assert not asked
    assert json.dumps(dataclasses.asdict(info)) == '{"input": {"required": {"name": ["COMBO", {"options": ["a", "b"]}]}}}'
    assert json.dumps(info.input) == '{"required": {"name": ["COMBO", {"options": ["a", "b"]}]}}'
    assert len(asked) == 1


def test_a_failed_look_up_is_never_an_empty_list():
    """What can't be looked up is an error each time, and never an empty list."""
    lazy = LazyList.of(lambda: [name / 0 for name in (1, 2)])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            list(lazy)
