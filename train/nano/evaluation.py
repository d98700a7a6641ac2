"""Scores an exported folder: how many attributes of held-out prompts the classifier finds in what it draws.

Each row of the table (a set of pictures) is cached in work/evaluation once it is classified, so that a killed run resumes;
rows of other weights or other code are in a folder of their own.
"""

import copy
import json
import random
import re
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from diffusers import EulerDiscreteScheduler, LCMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ..device import default_device
from ..files import atomic_write, fingerprint
from ..images import to_tensor
from . import autoencoder, classifier, metrics, render, seeds
from .captions import caption
from .export import LORA
from .scenes import Scene, labels, split

BATCH_SIZE = 32
FIRST_SEED = 1000
SEARCH_PROMPTS = 128  # for choosing a guidance scale
GUIDANCE_SCALES = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
DIVERSITY_IMAGES = 64  # of one prompt
SQUARES = (128, 160, 192, 224, 288, 320)
WIDE_SIZES = ((192, 128), (256, 128), (320, 128), (296, 168), (256, 192), (320, 192), (320, 256))
OTHER_SIZES = (*((side, side) for side in SQUARES), *WIDE_SIZES, *((height, width) for width, height in WIDE_SIZES))
# What decides a row beside the weights.
CODE = ("autoencoder", "captions", "classifier", "evaluation", "render", "scenes")


class SamplingConfig(NamedTuple):
    lora: bool
    scheduler: type
    steps: int
    guidance: float = 1.0

    @property
    def unet_calls(self) -> int:
        """UNet evaluations for a picture; guidance takes two a step."""
        return self.steps * (2 if self.guidance > 1 else 1)

    def __str__(self):
        model = "LCM-LoRA" if self.lora else f"base, {'LCM' if self.scheduler is LCMScheduler else 'Euler'}"
        guidance = "" if self.lora else f", CFG {self.guidance:g}"
        return f"{model}{guidance}, {self.steps} step{'s' * (self.steps > 1)}"


def row_folders(folder: Path, work: Path, prompts: int) -> dict[bool, Path]:
    """Whether rows are drawn with the LoRA -> where they are cached, for these weights and this code."""
    code = [Path(__file__).with_name(f"{name}.py") for name in CODE]
    weights = sorted(folder.rglob("*.safetensors"))
    # Rows drawn without the LoRA, which take most of the time, do not depend on it.
    plain = [file for file in weights if file != folder / LORA]
    return {
        lora: work / "evaluation" / f"{prompts} prompts, {Accelerator().mixed_precision}, {fingerprint(code + files)}"
        for lora, files in ((True, weights), (False, plain))
    }


def held_out_prompts(count: int) -> tuple[list[Scene], list[str]]:
    """Captions of attribute combinations that training never showed, an equal number for each."""
    _, scenes = split()
    chosen = [scenes[i % len(scenes)] for i in range(count)]
    return chosen, [caption(scene, random.Random(FIRST_SEED + i), complete=True) for i, scene in enumerate(chosen)]


class PipelineSampler:
    """The exported folder in diffusers' own pipeline, drawing with any SamplingConfig.

    The LCM-LoRA is fused into a second UNet: an adapter that is only disabled still draws 1.6 times slower.
    """

    def __init__(self, folder: Path):
        self.pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False, torch_dtype=torch.float32)
        self.pipe.to(default_device()).set_progress_bar_config(disable=True)
        plain = copy.deepcopy(self.pipe.unet)
        self.pipe.load_lora_weights(folder / LORA.parent, weight_name=LORA.name)
        self.pipe.fuse_lora()
        self.pipe.unload_lora_weights()
        self.unets = {True: self.pipe.unet, False: plain}
        # Together they nearly halve the time that decoding takes on a CPU.
        self.pipe.vae.enable_slicing()
        self.pipe.vae.to(memory_format=torch.channels_last)
        self.autocast = Accelerator().autocast
        for unet in self.unets.values():  # so that schedulers keep their latents in fp32 under autocast
            unet.register_forward_hook(lambda module, given, out: tuple(part.float() for part in out))

    def draw(self, prompts: list[str], config: SamplingConfig, width=render.SIZE, height=render.SIZE) -> torch.Tensor:
        """[len(prompts), 3, height, width] in -1..1; picture i has seed FIRST_SEED + i with every config."""
        self.pipe.unet = self.unets[config.lora]
        self.pipe.scheduler = config.scheduler.from_config(self.pipe.scheduler.config)
        pixels = []
        for start in range(0, len(prompts), BATCH_SIZE):
            part = prompts[start : start + BATCH_SIZE]
            generators = [torch.Generator("cpu").manual_seed(FIRST_SEED + start + i) for i in range(len(part))]
            with self.autocast():
                images = self.pipe(
                    part,
                    width=width,
                    height=height,
                    num_inference_steps=config.steps,
                    guidance_scale=config.guidance,
                    generator=generators,
                    output_type="pil",
                ).images
            pixels.append(to_tensor(images))
        return torch.cat(pixels)


class Evaluation:
    """Draws, classifies and caches rows; a row is what the classifier predicts for one set of pictures."""

    def __init__(self, folder: Path, work: Path, prompts: int):
        self.rows = row_folders(folder, work, prompts)
        self.classifier = classifier.load(folder)
        self.sampler = PipelineSampler(folder)
        self.scenes, self.prompts = held_out_prompts(prompts)
        self.truth = labels(self.scenes)
        self.table, self.predictions = {}, {}
        self.diversity_images = min(DIVERSITY_IMAGES, prompts)

    def row(self, name: str, draw, config: SamplingConfig | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(predicted labels, features) of the pictures that draw() returns, from the cache where they are there already."""
        file = self.rows[config is not None and config.lora] / (re.sub(r"\W+", "-", name) + ".safetensors")
        if not file.exists():
            predicted, features = classifier.classify(self.classifier, draw())
            with atomic_write(file) as partial:
                save_file({"predicted": predicted, "features": features}, partial)
        stored = load_file(file)
        return stored["predicted"], stored["features"]

    def score(self, name: str, draw, config: SamplingConfig | None = None) -> None:
        """Puts a row of the held-out prompts (or of the first of them) into the table."""
        predicted, features = self.row(name, draw, config)
        self.predictions[name] = predicted
        hits = predicted == self.truth[: len(predicted)]
        mean, margin = metrics.accuracy(hits)
        self.table[name] = dict(zip(Scene._fields, hits.float().mean(0).tolist(), strict=True))
        self.table[name] |= {"mean": mean, "margin": margin, "all": hits.all(1).float().mean().item()}
        self.table[name]["calls"] = config.unet_calls if config else 0
        self.table[name]["prompts"] = len(predicted)
        if name != "real pictures" and len(predicted) == len(self.real):
            self.table[name]["distance"] = metrics.frechet_distance(features, self.real)
        print(name, {k: round(v, 3) for k, v in self.table[name].items()}, flush=True)

    def score_config(self, config: SamplingConfig) -> None:
        self.score(str(config), lambda: self.sampler.draw(self.prompts, config), config)

    def best_guidance(self, steps: int) -> float:
        """The guidance scale with which the base under Euler draws the first prompts best."""
        few = self.prompts[:SEARCH_PROMPTS]

        def accuracy(scale):
            config = SamplingConfig(False, EulerDiscreteScheduler, steps, scale)
            predicted, _ = self.row(f"search {config}", lambda: self.sampler.draw(few, config))
            return metrics.accuracy(predicted == self.truth[: len(few)])[0]

        return max(GUIDANCE_SCALES, key=accuracy)

    def diversity(self, config: SamplingConfig | None) -> float:
        """Mean pairwise feature distance of the pictures of one scene, averaged over the first four held-out scenes.

        Without a config the pictures are rendered.
        """
        distances = []
        for i in range(min(4, len(self.prompts))):
            if config:
                draw = lambda i=i: self.sampler.draw([self.prompts[i]] * self.diversity_images, config)  # noqa: E731
            else:
                draw = lambda i=i: real([self.scenes[i]] * self.diversity_images)  # noqa: E731
            name = f"seeds of prompt {i}, {config or 'real pictures'}"
            distances.append(metrics.mean_pairwise_distance(self.row(name, draw, config)[1]))
        return sum(distances) / len(distances)

    def run(self) -> dict:
        """Every row; what `as_markdown` takes."""
        self.real = self.row("real", lambda: real(self.scenes, seeds.EVALUATION_REFERENCE))[1]
        self.score("real pictures", lambda: real(self.scenes))
        self.score("through the autoencoder", lambda: reconstruct(self.sampler.pipe.vae, real(self.scenes)))
        best = {steps: self.best_guidance(steps) for steps in (25, 2, 4, 8)}
        strongest = SamplingConfig(False, EulerDiscreteScheduler, 25, best[25])
        configs = [strongest, SamplingConfig(False, EulerDiscreteScheduler, 25)]
        configs += [SamplingConfig(True, LCMScheduler, steps) for steps in (1, 2, 4, 8)]
        configs += [SamplingConfig(False, LCMScheduler, steps) for steps in (1, 2, 4, 8)]
        configs += [SamplingConfig(False, EulerDiscreteScheduler, steps) for steps in (1, 2, 4, 8)]
        configs += [SamplingConfig(False, EulerDiscreteScheduler, steps, best[steps]) for steps in (2, 4, 8)]
        for config in tqdm(configs, desc="rows"):
            self.score_config(config)
        predicted = self.predictions[str(strongest)]
        shuffled = self.truth[torch.randperm(len(predicted), generator=torch.Generator().manual_seed(0))]
        result = {
            "table": self.table,
            "guidance": best,
            "chance": metrics.chance(self.truth),
            "seeds": self.diversity_images,
            "shuffled": metrics.accuracy(predicted == shuffled)[0],
        }
        lcm = SamplingConfig(True, LCMScheduler, 4)
        result["diversity"] = {str(c or "real pictures"): self.diversity(c) for c in (None, strongest, lcm)}
        few = self.prompts[:SEARCH_PROMPTS]
        for width, height in OTHER_SIZES:
            name = f"{lcm}, {width} x {height}"
            self.score(name, lambda w=width, h=height: self.sampler.draw(few, lcm, w, h), lcm)
        return result


def real(scenes: list[Scene], seed: int = seeds.EVALUATION) -> torch.Tensor:
    """Rendered pictures of the scenes, [N, 3, H, W] in -1..1."""
    return to_tensor([render.render(scene, seed + i) for i, scene in enumerate(scenes)])


def reconstruct(vae, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), Accelerator().autocast():
        parts = [autoencoder.decode(vae, autoencoder.encode(vae, part)).cpu() for part in pixels.split(BATCH_SIZE)]
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
    diversity = dict(result["diversity"])
    of_real = diversity.pop("real pictures")
    shares = (f"{name} {distance / of_real:.2f}" for name, distance in diversity.items())
    lines += [
        "",
        f"Diversity of {result['seeds']} seeds for one prompt, as a share of the real pictures': {'; '.join(shares)}.",
    ]
    return "\n".join(lines)
