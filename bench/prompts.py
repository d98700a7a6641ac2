"""Prompts that no one has seen before: nothing that was worked out for one helps with the next."""

import itertools
from collections.abc import Iterator

SCENES = (
    "a red sunset over snowy mountains",
    "a pink dawn over pine trees",
    "night, desert, full moon",
    "a lake at noon",
)


def fresh() -> Iterator[tuple[str, int]]:
    """(text, seed) without end, each text and each seed once."""
    for number in itertools.count():
        yield f"{SCENES[number % len(SCENES)]}, number {number}", 1000 + number
