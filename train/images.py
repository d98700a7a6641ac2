"""Pictures as tensors in -1..1, and back."""

import numpy as np
import torch
from PIL import Image

COLUMNS = 8  # of a grid


def to_tensor(images) -> torch.Tensor:
    """RGB images of one size -> [B, 3, H, W] in -1..1, float32."""
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pil(pixels: torch.Tensor) -> list[Image.Image]:
    """The inverse of `to_tensor`; values outside -1..1 are clamped."""
    array = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a) for a in array]


def make_grid(images: list[Image.Image], size: int, columns: int = COLUMNS) -> Image.Image:
    """The images side by side, so many to a row, each in a square of `size` pixels."""
    sheet = Image.new("RGB", (size * min(columns, len(images)), size * -(-len(images) // columns)))
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * size, i // columns * size))
    return sheet
