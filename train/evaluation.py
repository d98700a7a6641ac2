"""Scores an exported folder: how many attributes of held-out prompts can be read back from what it draws."""

import json
import random
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import EulerDiscreteScheduler, LCMScheduler, StableDiffusionXLPipeline
from PIL import Image, ImageDraw
from tqdm import tqdm

from . import classifier, pictures
from .autoencoder import as_images, as_tensor
from .export import LORA

BATCH = 16
SEED = 1000
# name, LoRA, scheduler, steps, guidance scale
ROWS = (
    ("base, Euler, CFG 2", False, EulerDiscreteScheduler, 25, 2.0),
    ("base, Euler, CFG 4", False, EulerDiscreteScheduler, 25, 4.0),
    ("base, Euler, no CFG", False, EulerDiscreteScheduler, 4, 1.0),
    ("base, LCM sampler, no CFG", False, LCMScheduler, 4, 1.0),
    ("LCM-LoRA", True, LCMScheduler, 1, 1.0),
    ("LCM-LoRA", True, LCMScheduler, 2, 1.0),
    ("LCM-LoRA", True, LCMScheduler, 4, 1.0),
    ("LCM-LoRA", True, LCMScheduler, 8, 1.0),
)
SHEET_PROMPTS = (
    "a red sunset over snowy mountains with a lake",
    "a starry night over the sea with a full moon and a boat",
    "a sunny day, green hills, a small house, clouds",
    "an orange sunset over sand dunes with a cactus and the sun",
    "a pink dawn over pine trees with a calm lake",
    "midnight over a city with a crescent moon",
    "a forest at night with a full moon",
    "blue sky over the ocean with a sailing boat and the sun",
)


def held_out_prompts(count: int) -> tuple[list[pictures.Scene], list[str]]:
    """Captions of attribute combinations that training never showed, an equal number for each."""
    _, scenes = pictures.split()
    chosen = [scenes[i % len(scenes)] for i in range(count)]
    return chosen, [pictures.caption(scene, random.Random(SEED + i)) for i, scene in enumerate(chosen)]


def draw(pipe, prompts: list[str], scheduler, steps: int, guidance: float) -> torch.Tensor:
    """[len(prompts), 3, 128, 128] in -1..1; picture i has its own seed, the same in every row of the table."""
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    pixels = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        generators = [torch.Generator("cpu").manual_seed(SEED + start + i) for i in range(len(part))]
        images = pipe(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="pil"
        ).images  # fmt: skip
        pixels.append(as_tensor(images))
    return torch.cat(pixels)


def evaluate(folder: Path, work: Path, prompts: int) -> dict:
    """Writes folder/samples.jpg and work/scores.json, and returns the scores: {row: {attribute: share correct}}."""
    reader = classifier.load(work)
    scenes, captions = held_out_prompts(prompts)
    scores = {}

    def score(row, pixels):
        hits = classifier.correct(reader, pixels, scenes).float()
        scores[row] = dict(zip(pictures.Scene._fields, hits.mean(0).tolist(), strict=True))
        scores[row] |= {"mean": hits.mean().item(), "all": hits.prod(1).mean().item()}
        print(row, {k: round(100 * v, 1) for k, v in scores[row].items()}, flush=True)

    real = as_tensor([pictures.picture(scene, 2 * 10**9 + i) for i, scene in enumerate(scenes)])
    score("real pictures", real)
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False, torch_dtype=torch.float32)
    pipe.to(Accelerator().device).set_progress_bar_config(disable=True)
    with torch.no_grad():
        score("through the autoencoder", torch.cat([reconstruct(pipe.vae, chunk) for chunk in real.split(BATCH)]))
    sheet = []
    for with_lora in (False, True):
        if with_lora:
            pipe.load_lora_weights(folder / LORA.parent, weight_name=LORA.name)
        for name, lora, scheduler, steps, guidance in tqdm(ROWS, desc="scores"):
            if lora == with_lora:
                row = f"{name}, {steps} step{'s' * (steps > 1)}"
                sheet.append((row, as_images(draw(pipe, list(SHEET_PROMPTS), scheduler, steps, guidance))))
                score(row, draw(pipe, captions, scheduler, steps, guidance))
    labelled(sheet).save(folder / "samples.jpg", quality=88)
    (work / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def reconstruct(vae, pixels: torch.Tensor) -> torch.Tensor:
    return vae.decode(vae.encode(pixels.to(vae.device)).latents).sample.cpu()


def labelled(rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """One row of pictures for each setting, its name above it."""
    size, bar = pictures.SIZE, 14
    sheet = Image.new("RGB", (size * len(SHEET_PROMPTS), (size + bar) * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (name, images) in enumerate(rows):
        pen.text((4, y * (size + bar) + 1), name, fill="black")
        for x, image in enumerate(images):
            sheet.paste(image, (x * size, y * (size + bar) + bar))
    return sheet


def table(scores: dict) -> str:
    """The scores as Markdown, in percent."""
    columns = [*pictures.Scene._fields, "mean", "all"]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {row} | " + " | ".join(f"{100 * values[c]:.1f}" for c in columns) + " |" for row, values in scores.items()]
    return "\n".join(lines)
