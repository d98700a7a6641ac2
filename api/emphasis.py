"""What the host makes of a prompt's parentheses, (word:1.2), and of embedding:name: looked at before it draws."""

import re
from collections.abc import Collection

from comfy.sd1_clip import escape_important, parse_parentheses, token_weights, unescape_important

from ..contract.schema import MOST_NESTED, MOST_WEIGHT
from . import embeddings

MEANT = "write \\( and \\) for parentheses that are only text"
# Where the host's tokenizer finds no word after the prefix, it fails (comfy/sd1_clip.py, _try_get_embedding).
NAMELESS = re.compile(r"(?:^|(?<=\s))embedding:\s*(?:$|(?<=\s)(?=embedding:))")


def wrong(prompt: str, allowed: Collection[str] = ()) -> str | None:
    """Why the host can't draw the prompt, and what to do; None if it can. allowed: the embeddings that it may name."""
    text = escape_important(prompt)
    if is_nested_beyond(MOST_NESTED, text):
        return f"its parentheses are nested more than {MOST_NESTED} deep; {MEANT}"
    for part, weight in token_weights(text, 1.0):
        words = unescape_important(part)
        if not abs(weight) <= MOST_WEIGHT:  # NaN, too, is not
            return f"{words[:40]!r} has the emphasis {weight:g}, and -{MOST_WEIGHT} to {MOST_WEIGHT} are taken; {MEANT}"
        if NAMELESS.search(words):
            return "`embedding:` has no name after it"
        if why := embeddings.wrong(words, allowed):
            return why
    return None


def is_nested_beyond(most: int, text: str) -> bool:
    """Whether the parser would go into parentheses more than so many times, each time into those inside the last."""
    inner = [text]
    for _ in range(most + 1):
        parts = [part for outer in inner for part in parse_parentheses(outer)]
        inner = [part[1:-1] for part in parts if part[0] == "(" and part[-1] == ")"]
    return bool(inner)


def named(prompt: str, allowed: Collection[str]) -> set[str]:
    """The embeddings of a prompt in which nothing is wrong."""
    parts = token_weights(escape_important(prompt), 1.0)
    return {name for part, _ in parts for name in embeddings.known(unescape_important(part), allowed)}
