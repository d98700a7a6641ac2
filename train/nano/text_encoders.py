"""Stage 2: SDXL's two CLIP text encoders at vega-nano's size, trained on captions alone.

CLIP learns what words mean from pictures; here the scene behind a caption is known, so the encoders learn to predict it:
linear probes read every attribute from the vectors that the UNet will be given. Afterwards they are frozen, as SDXL's are.
"""

import random
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from .. import training_loop
from ..device import default_device
from ..files import atomic_write
from ..text_encoding import BEGIN_OF_TEXT, END_OF_TEXT, MAX_TOKENS, PADDING, encode, load_tokenizers, tokenize
from ..training_loop import constant_then_cosine
from . import captions
from .scenes import VALUES, labels, sample_scene, split

HIDDEN_SIZE = 64
LAYERS = 3
VOCABULARY_SIZE = 49408
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


class TextEncoders(nn.Module):
    """Both text encoders as one module, so that one optimizer and one checkpoint hold them."""

    def __init__(self):
        super().__init__()
        # Three layers, as SDXL reads the last but one; a square projection, as ComfyUI's second encoder has.
        common = dict(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=HIDDEN_SIZE,
            intermediate_size=4 * HIDDEN_SIZE,
            projection_dim=HIDDEN_SIZE,
            num_hidden_layers=LAYERS,
            num_attention_heads=1,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=BEGIN_OF_TEXT,
            eos_token_id=END_OF_TEXT,
            initializer_factor=1.0,
        )
        first, second = PADDING
        self.first = CLIPTextModel(CLIPTextConfig(hidden_act="quick_gelu", pad_token_id=first, **common))
        self.second = CLIPTextModelWithProjection(CLIPTextConfig(hidden_act="gelu", pad_token_id=second, **common))

    def forward(self, ids):
        return encode((self.first, self.second), ids)

    def embedding_tables(self) -> list[nn.Parameter]:
        return [e.get_input_embeddings().weight for e in (self.first, self.second)]


def known_tokens(tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Sorted ids of the tokens that training meets; all other rows of the embedding tables stay zero."""
    ids = {0, tokenizer.bos_token_id, tokenizer.eos_token_id}
    for text in captions.vocabulary():
        ids.update(tokenizer(text)["input_ids"])
        ids.update(i for word in re.split(r"\W+", text) for i in tokenizer(word)["input_ids"])
    return torch.tensor(sorted(ids))


def zero_except(rows: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """`table` with all other rows zero."""
    masked = torch.zeros_like(table)
    masked[rows] = table[rows]
    return masked


class LinearProbes(nn.Module):
    """Linear classifiers of every attribute: over the end-of-text vectors of both contexts and over the pooled vector."""

    def __init__(self, encoders: TextEncoders):
        super().__init__()
        self.encoders = encoders
        self.heads = nn.ModuleList(nn.Linear(HIDDEN_SIZE, sum(map(len, VALUES))) for _ in range(3))

    def forward(self, ids) -> list[torch.Tensor]:
        """For each of the three vectors the [B, all values] logits, attribute after attribute."""
        context, pooled = self.encoders(ids)
        end = context[torch.arange(len(context)), (ids[0] == END_OF_TEXT).int().argmax(-1)]
        return [head(vector) for head, vector in zip(self.heads, (*end.chunk(2, dim=-1), pooled), strict=True)]


def attribute_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of [B, all values] logits against [B, attributes] labels."""
    parts = logits.split([len(values) for values in VALUES], dim=-1)
    return sum(F.cross_entropy(part, targets[:, i]) for i, part in enumerate(parts)) / len(parts)


def train(work: Path, tokenizer_folder: Path, steps: int, seed: int = 0) -> list[float]:
    """Trains into work/text_encoder and work/text_encoder_2 and returns the loss of every step."""
    set_seed(seed)
    tokenizers = load_tokenizers(tokenizer_folder)
    device = default_device()
    probes = LinearProbes(TextEncoders()).to(device)
    known = known_tokens(tokenizers[0]).to(device)
    for table in probes.encoders.embedding_tables():
        table.data = zero_except(known, table.data)
        table.register_hook(lambda gradient: zero_except(known, gradient))
    scenes, _ = split()

    def compute_loss(step):
        rng = random.Random(step)
        batch = [sample_scene(scenes, rng) for _ in range(BATCH_SIZE)]
        ids = [i.to(device) for i in tokenize(tokenizers, [captions.caption(scene, rng) for scene in batch])]
        targets = labels(batch).to(device)
        return sum(attribute_loss(logits, targets) for logits in probes(ids))

    tables = probes.encoders.embedding_tables()
    others = [p for p in probes.parameters() if all(p is not t for t in tables)]
    groups = [{"params": others, "weight_decay": 0.01}, {"params": tables, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))
    folder = work / "text-encoders-training"
    losses = training_loop.train(probes, compute_loss, optimizer, constant_then_cosine(steps), folder, steps)
    for name, encoder in (("text_encoder", probes.encoders.first), ("text_encoder_2", probes.encoders.second)):
        with atomic_write(work / name) as folder:
            encoder.save_pretrained(folder)
    return losses
