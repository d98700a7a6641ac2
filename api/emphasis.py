"""Checks a prompt's emphasis, (word:1.2), and its embedding:name as the host's tokenizer parses them."""

import re
from collections.abc import Collection

from comfy.sd1_clip import escape_important, parse_parentheses, token_weights, unescape_important

from ..contract.schema import MAX_EMPHASIS, MAX_NESTING
from . import embeddings

ESCAPE_HINT = "write \\( and \\) for parentheses that are only text"
# Where the host's tokenizer finds no word after the prefix, it fails (comfy/sd1_clip.py, _try_get_embedding).
NAMELESS_EMBEDDING = re.compile(r"(?:^|(?<=\s))embedding:\s*(?:$|(?<=\s)(?=embedding:))")


def prompt_error(prompt: str, allowed: Collection[str] = ()) -> str | None:
    """Why the host can't encode the prompt, and what to do; None if it can. allowed: names of embeddings."""
    text = escape_important(prompt)
    if nests_deeper_than(MAX_NESTING, text):
        return f"its parentheses are nested more than {MAX_NESTING} deep; {ESCAPE_HINT}"
    for part, weight in token_weights(text, 1.0):
        words = unescape_important(part)
        if not abs(weight) <= MAX_EMPHASIS:  # NaN, too, is not
            return (
                f"{words[:40]!r} has the emphasis {weight:g}, and -{MAX_EMPHASIS} to {MAX_EMPHASIS} are taken; {ESCAPE_HINT}"
            )
        if NAMELESS_EMBEDDING.search(words):
            return "`embedding:` has no name after it"
        if error := embeddings.name_error(words, allowed):
            return error
    return None


def nests_deeper_than(max_depth: int, text: str) -> bool:
    """Whether the host's recursive parser would go deeper into parentheses."""
    nested = [text]
    for _ in range(max_depth + 1):
        parts = [part for outer in nested for part in parse_parentheses(outer)]
        nested = [part[1:-1] for part in parts if part[0] == "(" and part[-1] == ")"]
    return bool(nested)


def embedding_names(prompt: str, allowed: Collection[str]) -> set[str]:
    """The embeddings that a prompt without errors names."""
    parts = token_weights(escape_important(prompt), 1.0)
    return {name for part, _ in parts for name in embeddings.find_names(unescape_important(part), allowed)}
