"""What shows vega-nano: the grid and the table of its model card."""

import json
import re
import sys
from pathlib import Path

from diffusers import EulerDiscreteScheduler, LCMScheduler
from PIL import Image, ImageDraw, ImageFont

from .autoencoder import as_images, grid
from .evaluation import Artist, Setting, as_markdown
from .pictures import SIZE
from .text_to_image import PROMPTS

MARGIN = 150  # pixels, for a row's label
TEXT = 14


def settings(guidance: float) -> list[Setting]:
    base = [Setting(False, EulerDiscreteScheduler, 25, guidance), Setting(False, LCMScheduler, 4)]
    return base + [Setting(True, LCMScheduler, steps) for steps in (8, 4, 2, 1)]


def sheet(artist: Artist, rows: list[Setting]) -> Image.Image:
    """PROMPTS across, `rows` down, each row with its label; one seed for each prompt."""
    page = Image.new("RGB", (MARGIN + SIZE * len(PROMPTS), SIZE * len(rows)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(TEXT)
    for i, setting in enumerate(rows):
        label = str(setting).replace(", ", "\n")
        draw.multiline_text((10, (i + 0.5) * SIZE), label, fill="black", font=font, anchor="lm", spacing=6)
        page.paste(grid(as_images(artist.draw(list(PROMPTS), setting)), SIZE), (MARGIN, i * SIZE))
    return page


def make(folder: Path, work: Path) -> None:
    """Writes samples.jpg and the scores between the marks of README.md, all in folder."""
    readme = folder / "README.md"
    if not readme.exists():
        sys.exit(f"card writes the scores into {readme}, which is missing: copy vega/nano/README.md there first")
    result = json.loads((work / "scores.json").read_text())
    artist = Artist(folder)
    sheet(artist, settings(result["guidance"]["25"])).save(folder / "samples.jpg", quality=92)
    marked = re.compile(r"(<!-- scores -->\n).*?(<!-- end of scores -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda m: m[1] + as_markdown(result) + "\n" + m[2], readme.read_text()))
