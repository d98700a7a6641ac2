"""Scores an exported folder: how many attributes of held-out prompts can be read back from what it draws.

Each row of the table (a set of pictures) is kept in work/evaluation as soon as it is read, so a run goes on after a kill;
what other weights or other code drew lies in a folder of its own and is never mixed in.
"""

import copy
import json
import random
import re
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from . import measures, pictures, reader
from .autoencoder import as_tensor, device
from .captions import caption
from .export import LORA
from .fitting import fingerprint, whole
from .scenes import Scene, labels, split

BATCH = 32
SEED = 1000
SEARCH_PROMPTS = 128  # for choosing a guidance scale
GUIDANCE_SCALES = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
SEEDS = 64  # pictures of one prompt, for the diversity
OTHER_SIZES = ((96, 96), (192, 128), (128, 192), (192, 96), (96, 192), (160, 160), (192, 192), (256, 256))


class Setting(NamedTuple):
    lora: bool
    scheduler: type
    steps: int
    guidance: float = 1.0

    @property
    def calls(self) -> int:
        """UNet evaluations for a picture; guidance takes two a step."""
        return self.steps * (2 if self.guidance > 1 else 1)

    def __str__(self):
        model = "LCM-LoRA" if self.lora else f"base, {'LCM' if self.scheduler is LCMScheduler else 'Euler'}"
        guidance = "" if self.lora else f", CFG {self.guidance:g}"
        return f"{model}{guidance}, {self.steps} step{'s' * (self.steps > 1)}"


def held_out_prompts(count: int) -> tuple[list[Scene], list[str]]:
    """Captions of attribute combinations that training never showed, an equal number for each."""
    _, scenes = split()
    chosen = [scenes[i % len(scenes)] for i in range(count)]
    return chosen, [caption(scene, random.Random(SEED + i), complete=True) for i, scene in enumerate(chosen)]


class Artist:
    """The exported folder in diffusers' own pipeline, drawing with any setting.

    The LCM-LoRA is merged into a second UNet: one that can be switched off draws 1.6 times slower even then.
    """

    def __init__(self, folder: Path):
        self.pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False, torch_dtype=torch.float32)
        self.pipe.to(device()).set_progress_bar_config(disable=True)
        plain = copy.deepcopy(self.pipe.unet)
        self.pipe.load_lora_weights(folder / LORA.parent, weight_name=LORA.name)
        self.pipe.fuse_lora()
        self.pipe.unload_lora_weights()
        self.unets = {True: self.pipe.unet, False: plain}
        # Together they nearly halve the time that decoding takes on a CPU.
        self.pipe.vae.enable_slicing()
        self.pipe.vae.to(memory_format=torch.channels_last)

    def draw(self, prompts: list[str], setting: Setting, width=pictures.SIZE, height=pictures.SIZE) -> torch.Tensor:
        """[len(prompts), 3, height, width] in -1..1; picture i has seed SEED + i, whatever the setting."""
        self.pipe.unet = self.unets[setting.lora]
        self.pipe.scheduler = setting.scheduler.from_config(self.pipe.scheduler.config)
        pixels = []
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            generators = [torch.Generator("cpu").manual_seed(SEED + start + i) for i in range(len(part))]
            images = self.pipe(
                part,
                width=width,
                height=height,
                num_inference_steps=setting.steps,
                guidance_scale=setting.guidance,
                generator=generators,
                output_type="pil",
            ).images
            pixels.append(as_tensor(images))
        return torch.cat(pixels)


class Evaluation:
    """Draws, reads and keeps rows; a row is what the reader saw in one set of pictures."""

    def __init__(self, folder: Path, work: Path, prompts: int):
        code = [
            Path(__file__).with_name(f"{name}.py") for name in ("captions", "evaluation", "pictures", "reader", "scenes")
        ]
        weights = sorted(folder.rglob("*.safetensors"))
        # A LoRA says nothing about what is drawn without it, which takes most of the time.
        plain = [file for file in weights if file != folder / LORA]
        self.rows = {
            lora: work / "evaluation" / f"{prompts} prompts, {fingerprint(code + files)}"
            for lora, files in ((True, weights), (False, plain))
        }
        for rows in self.rows.values():
            rows.mkdir(parents=True, exist_ok=True)
        self.reader = reader.load(folder)
        self.artist = Artist(folder)
        self.scenes, self.prompts = held_out_prompts(prompts)
        self.truth = labels(self.scenes)
        self.table, self.seen = {}, {}
        self.seeds = min(SEEDS, prompts)

    def row(self, name: str, draw, setting: Setting | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(labels read, features) of the pictures that draw() returns, from the disk when they are there already."""
        file = self.rows[setting is not None and setting.lora] / (re.sub(r"\W+", "-", name) + ".safetensors")
        if not file.exists():
            seen, features = reader.read(self.reader, draw())
            with whole(file) as partial:
                save_file({"seen": seen, "features": features}, partial)
        stored = load_file(file)
        return stored["seen"], stored["features"]

    def score(self, name: str, draw, setting: Setting | None = None) -> None:
        """Puts a row of the held-out prompts (or of the first of them) into the table."""
        seen, features = self.row(name, draw, setting)
        self.seen[name] = seen
        hits = seen == self.truth[: len(seen)]
        mean, margin = measures.accuracy(hits)
        self.table[name] = dict(zip(Scene._fields, hits.float().mean(0).tolist(), strict=True))
        self.table[name] |= {"mean": mean, "margin": margin, "all": hits.all(1).float().mean().item()}
        self.table[name]["calls"] = setting.calls if setting else 0
        self.table[name]["prompts"] = len(seen)
        if name != "real pictures" and len(seen) == len(self.real):
            self.table[name]["distance"] = measures.frechet(features, self.real)
        print(name, {k: round(v, 3) for k, v in self.table[name].items()}, flush=True)

    def setting(self, setting: Setting) -> None:
        self.score(str(setting), lambda: self.artist.draw(self.prompts, setting), setting)

    def best_guidance(self, steps: int) -> float:
        """The guidance scale with which the base under Euler draws the first prompts best."""
        few = self.prompts[:SEARCH_PROMPTS]

        def share(scale):
            setting = Setting(False, EulerDiscreteScheduler, steps, scale)
            seen, _ = self.row(f"search {setting}", lambda: self.artist.draw(few, setting))
            return measures.accuracy(seen == self.truth[: len(few)])[0]

        return max(GUIDANCE_SCALES, key=share)

    def diversity(self, setting: Setting | None) -> float:
        """Mean pairwise feature distance of `seeds` pictures of one scene, the mean over the first four held-out scenes.

        Without a setting the pictures are the generator's own.
        """
        spreads = []
        for i in range(min(4, len(self.prompts))):
            if setting:
                draw = lambda i=i: self.artist.draw([self.prompts[i]] * self.seeds, setting)  # noqa: E731
            else:
                draw = lambda i=i: real([self.scenes[i]] * self.seeds)  # noqa: E731
            name = f"seeds of prompt {i}, {setting or 'real pictures'}"
            spreads.append(measures.spread(self.row(name, draw, setting)[1]))
        return sum(spreads) / len(spreads)

    def run(self) -> dict:
        """Every row; what `as_markdown` takes."""
        self.real = self.row("real", lambda: real(self.scenes, 3 * 10**9))[1]
        self.score("real pictures", lambda: real(self.scenes))
        self.score("through the autoencoder", lambda: reconstruct(self.artist.pipe.vae, real(self.scenes)))
        best = {steps: self.best_guidance(steps) for steps in (25, 2, 4, 8)}
        strongest = Setting(False, EulerDiscreteScheduler, 25, best[25])
        settings = [strongest, Setting(False, EulerDiscreteScheduler, 25)]
        settings += [Setting(True, LCMScheduler, steps) for steps in (1, 2, 4, 8)]
        settings += [Setting(False, LCMScheduler, steps) for steps in (1, 2, 4, 8)]
        settings += [Setting(False, EulerDiscreteScheduler, steps) for steps in (1, 2, 4, 8)]
        settings += [Setting(False, EulerDiscreteScheduler, steps, best[steps]) for steps in (2, 4, 8)]
        for setting in tqdm(settings, desc="rows"):
            self.setting(setting)
        seen = self.seen[str(strongest)]
        shuffled = self.truth[torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))]
        result = {
            "table": self.table,
            "guidance": best,
            "chance": measures.chance(self.truth),
            "seeds": self.seeds,
            "shuffled": measures.accuracy(seen == shuffled)[0],
        }
        lcm = Setting(True, LCMScheduler, 4)
        result["diversity"] = {str(s or "real pictures"): self.diversity(s) for s in (None, strongest, lcm)}
        few = self.prompts[:SEARCH_PROMPTS]
        for width, height in OTHER_SIZES:
            name = f"{lcm}, {width} x {height}"
            self.score(name, lambda w=width, h=height: self.artist.draw(few, lcm, w, h), lcm)
        return result


def real(scenes, seed: int = 2 * 10**9) -> torch.Tensor:
    return as_tensor([pictures.picture(scene, seed + i) for i, scene in enumerate(scenes)])


def reconstruct(vae, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        parts = [vae.decode(vae.encode(part.to(vae.device)).latents).sample.cpu() for part in pixels.split(BATCH)]
    return torch.cat(parts)


def evaluate(folder: Path, work: Path, prompts: int) -> dict:
    """Writes work/scores.json and returns what it holds."""
    result = Evaluation(folder, work, prompts).run()
    (work / "scores.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def as_markdown(result: dict) -> str:
    """The table in percent, with the 95 % interval of the mean, the distance and the UNet calls of a picture; controls."""
    columns = [*Scene._fields, "all"]
    lines = ["| | calls | mean | " + " | ".join(columns) + " | distance |", "|---" * (len(columns) + 4) + "|"]
    for row, v in result["table"].items():
        cells = [str(v["calls"] or ""), f"{100 * v['mean']:.1f} ± {100 * v['margin']:.1f}"]
        cells += [f"{100 * v[c]:.1f}" for c in columns] + [f"{v['distance']:.1f}" if "distance" in v else ""]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Chance is {100 * result['chance']:.1f}; with the prompts shuffled the base scores {100 * result['shuffled']:.1f}.",
    ]
    drawn = dict(result["diversity"])
    real_spread = drawn.pop("real pictures")
    spreads = (f"{name} {spread / real_spread:.2f}" for name, spread in drawn.items())
    lines += [
        "",
        f"Diversity of {result['seeds']} seeds for one prompt, as a share of the real pictures': {'; '.join(spreads)}.",
    ]
    return "\n".join(lines)
