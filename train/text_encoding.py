"""CLIP text encoders, SDXL's two or SD 1.5's one: token ids to what the UNet is given."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .device import default_device

BEGIN_OF_TEXT, END_OF_TEXT = 49406, 49407
PADDING = (END_OF_TEXT, 0)  # of the first and the second encoder
MAX_TOKENS = 77


def encode(encoders, ids: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """[B, 77] ids for each encoder -> (context [B, 77, sum of widths], pooled [B, width]) as diffusers' pipelines have them.

    SD 1.5 has no pooled text.
    """
    if len(encoders) == 1:
        return encoders[0](ids[0]).last_hidden_state, None
    first, second = (e(i, output_hidden_states=True) for e, i in zip(encoders, ids, strict=True))
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def load_encoders(folder: Path) -> Callable[[list[torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]:
    """`encode` with the encoders of a diffusers folder, in fp32 whatever the files hold, and frozen."""
    first = CLIPTextModel.from_pretrained(folder / "text_encoder")
    second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2")
    device = default_device()
    return partial(encode, [encoder.to(device).float().requires_grad_(False).eval() for encoder in (first, second)])


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """The standard CLIP tokenizers of an exported folder (the second pads with id 0, as SDXL's does)."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")


def tokenize(tokenizers, texts: list[str]) -> list[torch.Tensor]:
    """A [B, 77] id tensor for each tokenizer."""
    return [
        t(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
        for t in tokenizers
    ]


def empty_prompt_ids(ids: list[torch.Tensor]) -> list[torch.Tensor]:
    """Token ids of the empty prompt, shaped like `ids`: begin, end, and the padding of each encoder."""
    empty = []
    for i, padding in zip(ids, PADDING, strict=True):
        row = torch.full_like(i, padding)
        row[:, 0], row[:, 1] = BEGIN_OF_TEXT, END_OF_TEXT
        empty.append(row)
    return empty
