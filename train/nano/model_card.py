"""The model card of vega-nano: its sheets of samples and its table of scores."""

import json
import re
import sys
from pathlib import Path

from diffusers import EulerDiscreteScheduler, LCMScheduler
from PIL import Image, ImageDraw, ImageFont

from ..images import make_grid, to_pil
from .evaluation import PipelineSampler, SamplingConfig, as_markdown, held_out_prompts
from .render import SIZE
from .sample_sheet import PROMPTS

MARGIN_PIXELS = 150  # for a row's label
FONT_PIXELS = 14
UNPICKED = 64


def sampling_configs(guidance: float) -> list[SamplingConfig]:
    base = [SamplingConfig(False, EulerDiscreteScheduler, 25, guidance), SamplingConfig(False, LCMScheduler, 4)]
    return base + [SamplingConfig(True, LCMScheduler, steps) for steps in (8, 4, 2, 1)]


def sample_sheet(sampler: PipelineSampler, rows: list[SamplingConfig]) -> Image.Image:
    """PROMPTS across, `rows` down, each row with its label; one seed for each prompt."""
    page = Image.new("RGB", (MARGIN_PIXELS + SIZE * len(PROMPTS), SIZE * len(rows)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(FONT_PIXELS)
    for i, config in enumerate(rows):
        label = str(config).replace(", ", "\n")
        draw.multiline_text((10, (i + 0.5) * SIZE), label, fill="black", font=font, anchor="lm", spacing=6)
        images = to_pil(sampler.draw(list(PROMPTS), config))
        page.paste(make_grid(images, SIZE), (MARGIN_PIXELS, i * SIZE))
    return page


def unpicked_sheet(sampler: PipelineSampler) -> Image.Image:
    """The LCM-LoRA's pictures, in four steps, of the first held-out prompts, each with the seed that the scores are of."""
    _, prompts = held_out_prompts(UNPICKED)
    return make_grid(to_pil(sampler.draw(prompts, SamplingConfig(True, LCMScheduler, 4))), SIZE)


def write(folder: Path, work: Path) -> None:
    """Writes samples.jpg, unpicked.jpg and the scores between the marks of README.md, all in folder."""
    readme = folder / "README.md"
    if not readme.exists():
        sys.exit(f"card writes the scores into {readme}, which is missing: copy vega/nano/README.md there first")
    result = json.loads((work / "scores.json").read_text())
    configs = sampling_configs(result["guidance"]["25"])
    sampler = PipelineSampler(folder)
    sample_sheet(sampler, configs).save(folder / "samples.jpg", quality=90)
    unpicked_sheet(sampler).save(folder / "unpicked.jpg", quality=88)
    marked = re.compile(r"(<!-- scores -->\n).*?(<!-- end of scores -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda m: m[1] + as_markdown(result) + "\n" + m[2], readme.read_text()))
