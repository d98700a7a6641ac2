"""Stage 2: SDXL's two CLIP text encoders at vega-nano's size, trained on captions alone.

CLIP learns what words mean from pictures; here the scene behind a caption is known, so the encoders learn to say it:
linear heads read every attribute from the vectors that the UNet will be given. Afterwards they stand still, as SDXL's do.
"""

import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from . import captions
from .autoencoder import device
from .fitting import fit, flat_then_cosine, whole
from .scenes import VALUES, choose, labels, split

HIDDEN = 64
LAYERS = 3
VOCABULARY = 49408
BATCH = 64
LEARNING_RATE = 2e-3


class Encoders(nn.Module):
    """Both text encoders as one module, so that one optimizer and one checkpoint hold them."""

    def __init__(self):
        super().__init__()
        # Three layers, as SDXL reads the last but one; a square projection, as ComfyUI's second encoder has.
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
        self.first = CLIPTextModel(CLIPTextConfig(hidden_act="quick_gelu", pad_token_id=49407, **common))
        self.second = CLIPTextModelWithProjection(CLIPTextConfig(hidden_act="gelu", pad_token_id=0, **common))

    def forward(self, ids):
        return encode((self.first, self.second), ids)

    def tables(self) -> list[nn.Parameter]:
        return [e.get_input_embeddings().weight for e in (self.first, self.second)]


def encode(encoders, ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Two [B, 77] id tensors -> (context [B, 77, sum of widths], pooled [B, width]), as SDXL's pipeline encodes."""
    first, second = (e(i, output_hidden_states=True) for e, i in zip(encoders, ids, strict=True))
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def load_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """The standard CLIP tokenizers of an exported folder (the second pads with id 0, as SDXL's does)."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")


def tokenize(tokenizers, texts: list[str]) -> list[torch.Tensor]:
    """Two [B, 77] id tensors."""
    return [
        t(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids for t in tokenizers
    ]


def known_tokens(tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Sorted ids of the tokens that training meets; all other rows of the embedding tables stay zero."""
    ids = {0, tokenizer.bos_token_id, tokenizer.eos_token_id}
    for text in captions.vocabulary():
        ids.update(tokenizer(text)["input_ids"])
        ids.update(i for word in re.split(r"\W+", text) for i in tokenizer(word)["input_ids"])
    return torch.tensor(sorted(ids))


def only(rows: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """`table` with every other row zero."""
    kept = torch.zeros_like(table)
    kept[rows] = table[rows]
    return kept


class Readers(nn.Module):
    """Linear heads over the end-of-text vectors of both encoders' contexts and over the pooled vector."""

    def __init__(self, encoders: Encoders):
        super().__init__()
        self.encoders = encoders
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, sum(map(len, VALUES))) for _ in range(3))

    def forward(self, ids) -> list[torch.Tensor]:
        """For each of the three vectors the [B, all values] logits, attribute after attribute."""
        context, pooled = self.encoders(ids)
        end = context[torch.arange(len(context)), (ids[0] == 49407).int().argmax(-1)]
        return [head(vector) for head, vector in zip(self.heads, (*end.chunk(2, dim=-1), pooled), strict=True)]


def attribute_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of [B, all values] logits against [B, attributes] labels."""
    parts = logits.split([len(values) for values in VALUES], dim=-1)
    return sum(F.cross_entropy(part, targets[:, i]) for i, part in enumerate(parts)) / len(parts)


def train(work: Path, tokenizer_folder: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/text_encoder and work/text_encoder_2 and returns the loss of every step."""
    set_seed(seed)
    tokenizers = load_tokenizers(tokenizer_folder)
    readers = Readers(Encoders()).to(device())
    known = known_tokens(tokenizers[0]).to(device())
    for table in readers.encoders.tables():
        table.data = only(known, table.data)
        table.register_hook(lambda gradient: only(known, gradient))
    scenes, _ = split()

    def loss_of(step):
        rng = random.Random(step)
        chosen = [choose(scenes, rng) for _ in range(BATCH)]
        ids = [i.to(device()) for i in tokenize(tokenizers, [captions.caption(scene, rng) for scene in chosen])]
        targets = labels(chosen).to(device())
        return sum(attribute_loss(logits, targets) for logits in readers(ids))

    tables = readers.encoders.tables()
    others = [p for p in readers.parameters() if all(p is not t for t in tables)]
    groups = [{"params": others, "weight_decay": 0.01}, {"params": tables, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))
    losses = fit(readers, loss_of, optimizer, flat_then_cosine(steps), work / "text-encoders-training", steps)
    for name, encoder in (("text_encoder", readers.encoders.first), ("text_encoder_2", readers.encoders.second)):
        with whole(work / name) as folder:
            encoder.save_pretrained(folder)
    return losses


def load(work: Path) -> Callable[[list[torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]:
    """`encode` with the trained encoders, in fp32 whatever the files hold; nothing trains them any further."""
    first = CLIPTextModel.from_pretrained(work / "text_encoder")
    second = CLIPTextModelWithProjection.from_pretrained(work / "text_encoder_2")
    return partial(encode, [encoder.to(device()).float().requires_grad_(False).eval() for encoder in (first, second)])
