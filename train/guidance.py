"""Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), as the bases' own pipelines have it."""

from collections.abc import Callable

import torch

from .diffusion import predict_noise

Text = tuple[torch.Tensor, torch.Tensor | None]  # (context [B, 77, D], pooled [B, D]); SD 1.5 has no pooled text


def unconditional_text(texts: Callable[[list[str]], Text], count: int, zeros: bool) -> Text:
    """The text of no prompt, `count` times: the encoded empty one, or zeros in its shape."""
    context, pooled = texts([""] * count)
    if zeros:
        context, pooled = torch.zeros_like(context), None if pooled is None else torch.zeros_like(pooled)
    return context, pooled


def rows_of(text: Text, rows: torch.Tensor) -> Text:
    context, pooled = text
    return context[rows], None if pooled is None else pooled[rows]


def guided_noise(
    unet, x: torch.Tensor, t: torch.Tensor, text: Text, unconditional: Text, time_ids: torch.Tensor, w: torch.Tensor
) -> torch.Tensor:
    """The noise [B, 4, h, w] that a guided UNet predicts; w [B] is that of the LCM paper, the guidance scale less 1."""
    with_text, without = (predict_noise(unet, x, t, each, time_ids).to(x.dtype) for each in (text, unconditional))
    return with_text + w[:, None, None, None] * (with_text - without)
