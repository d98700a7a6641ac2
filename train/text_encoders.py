"""SDXL's two CLIP text encoders at vega-nano's size, and the way its pipeline reads them."""

import re
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from . import pictures

HIDDEN = 64
LAYERS = 3
VOCABULARY = 49408


def vocabulary_texts() -> list[str]:
    """Every wording that captions are made of."""
    tables = (pictures.TIME_WORDS, pictures.TERRAIN_WORDS, pictures.LIGHT_WORDS, pictures.CLOUD_WORDS, pictures.OBJECT_WORDS)
    texts = [w for table in tables for words in table.values() for w in words]
    return [*texts, *pictures.FILLERS, "over with and at on in the a, b. of to by near"]


def known_tokens(tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Sorted ids of the tokens that training meets; all other rows of the embedding tables stay zero."""
    ids = {0, tokenizer.bos_token_id, tokenizer.eos_token_id}
    for text in vocabulary_texts():
        ids.update(tokenizer(text)["input_ids"])
        ids.update(i for word in re.split(r"\W+", text) for i in tokenizer(word)["input_ids"])
    return torch.tensor(sorted(ids))


def build() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Untrained encoders: three layers, as the pipeline reads the last but one; a square projection, as the host wants."""
    common = dict(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        projection_dim=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        initializer_factor=1.0,
    )
    first = CLIPTextModel(CLIPTextConfig(hidden_act="quick_gelu", pad_token_id=49407, **common))
    second = CLIPTextModelWithProjection(CLIPTextConfig(hidden_act="gelu", pad_token_id=0, **common))
    return first, second


def zero_unknown(model: nn.Module, known: torch.Tensor) -> None:
    """Makes every word that was never trained on mean nothing at all."""
    table = model.get_input_embeddings().weight
    unknown = torch.ones(table.shape[0], dtype=torch.bool)
    unknown[known] = False
    with torch.no_grad():
        table[unknown.to(table.device)] = 0


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """The standard CLIP tokenizers of an exported folder (the second pads with id 0, as SDXL's does)."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")


def tokenize(tokenizers, texts: list[str]) -> list[torch.Tensor]:
    """Two [B, 77] id tensors."""
    return [
        t(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids for t in tokenizers
    ]


def encode(encoders, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids -> (context [B, 77, 2 x HIDDEN], pooled [B, HIDDEN]), as StableDiffusionXLPipeline.encode_prompt does."""
    first, second = (e(i, output_hidden_states=True) for e, i in zip(encoders, ids, strict=True))
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds
