"""How near an LCM-LoRA draws in a few steps to what its teacher draws in many, on prompts that it did not learn from."""

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, LCMScheduler
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from .adapters import disable_adapters
from .diffusion import NOISE_SCHEDULE
from .events import SILENT, Events
from .files import atomic_write
from .images import make_grid
from .sampling import STEPS as TEACHER_STEPS
from .sampling import Sampler

STEPS = (1, 2, 4, 8)
KINDS = ("student", "base")
COMPARED = ("other", *((kind, steps) for kind in KINDS for steps in STEPS))
PROMPTS_PER_HELD_OUT = 8  # one of so many prompts, at most
SAMPLE_BATCH_SIZE = 4  # pictures that are drawn
PICTURES = 8  # across the contact sheet
MARGIN_PIXELS, FONT_PIXELS = 130, 14
SEED_OFFSET = 1000  # added to the seeds, for other pictures of the same prompts


def held_out(prompts: list[str], count: int) -> list[str]:
    """The prompts that are kept from training: `count`, but at most one of eight. The same ones where others are added."""
    distinct = sorted(set(prompts), key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    return distinct[: min(count, len(distinct) // PROMPTS_PER_HELD_OUT)]


def batches(count: int) -> list[slice]:
    """Of `count` pictures, a few at a time."""
    return [slice(k, k + SAMPLE_BATCH_SIZE) for k in range(0, count, SAMPLE_BATCH_SIZE)]


class FewStep:
    """Draws with a UNet as its teacher, guided and by DDIM, and as its student, by LCM; both begin at the same noise."""

    def __init__(self, unet: nn.Module, sampler: Sampler, guidance: float):
        self.unet, self.sampler, self.guidance = unet, sampler, guidance

    def latents(self, prompts: list[str], seeds: list[int], steps: int, guidance: float) -> torch.Tensor:
        """[B, 4, h, w], drawn a few at a time."""
        return torch.cat([self.sampler.sample_latents(prompts[b], seeds[b], steps, guidance) for b in batches(len(prompts))])

    def teacher(self, prompts: list[str], seeds: list[int]) -> torch.Tensor:
        """Latents after TEACHER_STEPS steps."""
        with disable_adapters(self.unet), self.sampler.use_scheduler(ddim()):
            return self.latents(prompts, seeds, TEACHER_STEPS, self.guidance)

    def student(self, prompts: list[str], seeds: list[int], steps: int) -> torch.Tensor:
        with self.sampler.use_scheduler(LCMScheduler(**NOISE_SCHEDULE)):
            return self.latents(prompts, seeds, steps, 1.0)

    def compared(self, prompts: list[str], seeds: list[int], steps: int) -> torch.Tensor:
        """Without the new noise of LCM's steps, which leads to other pictures than the teacher's, however good they are.

        DDIM's step has as much noise as LCM's, the one that was predicted: a perfect student ends where the teacher does.
        """
        with self.sampler.use_scheduler(ddim()):
            return self.latents(prompts, seeds, steps, 1.0)

    def base(self, prompts: list[str], seeds: list[int], steps: int) -> torch.Tensor:
        """As compared(), without what it learned."""
        with disable_adapters(self.unet):
            return self.compared(prompts, seeds, steps)

    def sheet(self, prompts: list[str], seeds: list[int], rows: dict[str, torch.Tensor] | None = None) -> Image.Image:
        """The prompts across, the student in 1, 2, 4 and 8 steps and below it the teacher. rows: those that are drawn."""
        if rows is None:
            rows = {label(steps): self.student(prompts, seeds, steps) for steps in STEPS}
            rows["teacher"] = self.teacher(prompts, seeds)
        side, font = self.sampler.side, ImageFont.load_default(FONT_PIXELS)
        page = Image.new("RGB", (MARGIN_PIXELS + side * len(prompts), side * len(rows)), "white")
        draw = ImageDraw.Draw(page)
        for k, name in enumerate(rows):
            draw.text((10, (k + 0.5) * side), name, "black", font, anchor="lm")
        page.paste(make_grid(self.sampler.decode(torch.cat([*rows.values()])), side, len(prompts)), (MARGIN_PIXELS, 0))
        return page


def ddim() -> DDIMScheduler:
    return DDIMScheduler(**NOISE_SCHEDULE, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False)


def label(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"


class Distance(NamedTuple):
    """The mean over the prompts, and half of its 95 % interval."""

    mean: float
    margin: float


def summarize(errors: torch.Tensor) -> Distance:
    """Of each prompt's error, [B]."""
    margin = 1.96 * errors.std() / len(errors) ** 0.5 if len(errors) > 1 else torch.tensor(float("inf"))
    return Distance(errors.mean().item(), margin.item())


def latent_errors(latents: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """[B], each one's mean squared error."""
    return (latents - others).float().square().mean((1, 2, 3))


def compare(errors: Callable[..., torch.Tensor], names: Iterable = COMPARED) -> dict:
    """How far the student, the base and other seeds are from the teacher. errors(name) gives each prompt's, [B]."""
    found = {name: summarize(errors(name)) for name in names}
    return {kind: {str(steps): found[kind, steps] for steps in STEPS} for kind in KINDS} | {"other seeds": found["other"]}


class ScoreCard:
    """The distances of one run, after each number of steps that it was scored at; kept in a file.

    lpips: what load_lpips() gives.
    """

    def __init__(self, folder: Path, lpips: Callable | None = None):
        self.lpips = lpips
        self.json, self.table, self.sheet = (folder / f"score-card.{ending}" for ending in ("json", "md", "png"))

    def read(self) -> dict:
        return json.loads(self.json.read_text(encoding="utf-8")) if self.json.exists() else {"students": {}}

    def has(self, done: int) -> bool:
        """Whether what was learned in `done` steps is scored; the file with the numbers is written last."""
        scores = self.read()
        tables = [scores, scores.get("LPIPS", {"students": {}})] if self.lpips else [scores]
        return all(str(done) in table["students"] for table in tables)

    def write(
        self, drawing: FewStep, prompts: list[str], seed: int, done: int, is_held_out: bool, events: Events = SILENT
    ) -> None:
        """Scores what was learned in `done` steps."""
        seeds = [seed + k for k in range(len(prompts))]
        shown = prompts[:PICTURES], seeds[:PICTURES]
        draw = {
            "teacher": partial(drawing.teacher, prompts, seeds),
            "other": partial(drawing.teacher, prompts, [seed + SEED_OFFSET for seed in seeds]),
            **{label(steps): partial(drawing.student, *shown, steps) for steps in STEPS},
            **{("student", steps): partial(drawing.compared, prompts, seeds, steps) for steps in STEPS},
            **{("base", steps): partial(drawing.base, prompts, seeds, steps) for steps in STEPS},
        }
        drawn = {name: draw[name]() for name in events.track(list(draw), "drawing the score card")}
        teacher = drawn["teacher"]
        scores = self.read() | {"prompts": prompts, "held out": is_held_out}
        self.add(scores, done, compare(lambda name: latent_errors(drawn[name], teacher)))
        if self.lpips:
            errors = partial(self.lpips_errors, drawing, drawn, drawing.sampler.decode(teacher))
            found = compare(errors, events.track(COMPARED, "measuring LPIPS"))
            self.add(scores.setdefault("LPIPS", {"students": {}}), done, found)
        rows = {label(steps): drawn[label(steps)] for steps in STEPS} | {"teacher": teacher[:PICTURES]}
        with atomic_write(self.sheet) as file:
            drawing.sheet(*shown, rows).save(file, "PNG")
        with atomic_write(self.table) as file:
            file.write_text(as_markdown(scores), encoding="utf-8")
        with atomic_write(self.json) as file:
            file.write_text(json.dumps(scores, indent=1), encoding="utf-8")

    def lpips_errors(self, drawing: FewStep, drawn: dict, teacher: list[Image.Image], name) -> torch.Tensor:
        """[B], a few pictures at a time."""
        found = [self.lpips(drawing.sampler.decode(drawn[name][b]), teacher[b]) for b in batches(len(teacher))]
        return torch.cat(found)

    @staticmethod
    def add(scores: dict, done: int, found: dict) -> None:
        """Puts what compare() found after `done` steps beside what was found after others."""
        scores.update({"base": found["base"], "other seeds": found["other seeds"]})
        scores["students"][str(done)] = found["student"]


def as_table(scores: dict) -> list[str]:
    """Its lines: the base, and the student after each number of steps."""

    def row(name: str, distances: dict) -> str:
        cells = (f"{mean:.3f} ± {margin:.3f}" for mean, margin in distances.values())
        return f"| {name} | " + " | ".join(cells) + " |"

    lines = ["| | " + " | ".join(label(steps) for steps in STEPS) + " |", "|---" * (len(STEPS) + 1) + "|"]
    lines.append(row("base alone", scores["base"]))
    students = sorted(scores["students"].items(), key=lambda student: int(student[0]))
    lines += [row(f"after {label(int(done))}", distances) for done, distances in students]
    return lines


def as_markdown(scores: dict) -> str:
    """The tables with the intervals, and what their numbers are."""
    learned = "it did not learn from" if scores["held out"] else "it learned from, as there are too few to keep some apart"
    mean, margin = scores["other seeds"]
    lines = as_table(scores) + [
        "",
        f"Mean squared distance of latents to the teacher's in {TEACHER_STEPS} steps from the same noise, all drawn by "
        f"DDIM, ± half of the 95 % interval, on {len(scores['prompts'])} prompts that {learned}. The teacher's own pictures "
        f"of other seeds are {mean:.3f} ± {margin:.3f} away.",
    ]
    if lpips := scores.get("LPIPS"):
        mean, margin = lpips["other seeds"]
        lines += ["", *as_table(lpips), "", f"LPIPS of the same pictures. Those of other seeds: {mean:.3f} ± {margin:.3f}."]
    return "\n".join(lines) + "\n"
