"""Which words a prompt may use, of a model that learned few: the embedding of every other token is zero (vega-nano's)."""

from collections.abc import Callable, Iterable

import comfy.sd
import torch

ROW_STRIDE = 97  # every so many rows of the table tell whether any is zero: none is, in a CLIP trained on all tokens
END_OF_WORD = "</w>"
# Known as tokens, and in each caption's frame, but they name nothing that a picture could show.
STOP_WORDS = {"a", "an", "and", "at", "b", "by", "in", "near", "no", "of", "on", "over", "the", "to", "under", "with"}
STOP_WORDS |= {"beautiful", "illustration", "painting", "picture"}
EXAMPLES = ("night", "sunset", "mountains", "forest", "lake")


def known_tokens(clip: comfy.sd.CLIP) -> set[int] | None:
    """The ids of the tokens with an embedding in CLIP-L; None where all have one."""
    table = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    if table[::ROW_STRIDE].any(dim=1).all():
        return None
    return set(table.any(dim=1).nonzero().flatten().tolist())


def has_only_unknown_words(tokens: Iterable[int | torch.Tensor], known: set[int], token_text: dict[int, str]) -> bool:
    """Whether there are words among the tokens' ids, without start, end and padding, and the model knows not one of them.

    A word is one or more tokens, the last of which ends in </w>. A textual inversion (a tensor in place of an id) counts as
    known.
    """
    word, word_is_known, has_words = "", True, False
    for token in tokens:
        if isinstance(token, torch.Tensor):
            return False
        text = token_text[token]
        word += text.removesuffix(END_OF_WORD)
        word_is_known = word_is_known and token in known
        if text.endswith(END_OF_WORD):
            if any(map(str.isalnum, word)):
                if word_is_known and word not in STOP_WORDS:
                    return False
                has_words = True
            word, word_is_known = "", True
    return has_words


def hook_tokenizer(clip: comfy.sd.CLIP, report: Callable[[list[str]], None]) -> None:
    """Has report called with words to use, whenever a prompt is tokenized that has words and none that the model knows.

    On the tokenizer, which all clones of the CLIP share; a CLIP that knows every token stays as it is.
    """
    known = known_tokens(clip)
    if known is None:
        return
    tokenizer, token_text = clip.tokenizer, clip.tokenizer.clip_l.inv_vocab
    whole_words = {token_text[token] for token in known}
    examples = [word for word in EXAMPLES if word + END_OF_WORD in whole_words]
    framing = {tokenizer.clip_l.start_token, tokenizer.clip_l.end_token, tokenizer.clip_l.pad_token}
    tokenize = tokenizer.tokenize_with_weights

    def tokenize_and_report(text: str, *args, **options) -> dict[str, list]:
        tokens = tokenize(text, *args, **options)
        words = (token for chunk in tokens["l"] for token, *_ in chunk if token not in framing)
        if has_only_unknown_words(words, known, token_text):
            report(examples)
        return tokens

    tokenizer.tokenize_with_weights = tokenize_and_report
