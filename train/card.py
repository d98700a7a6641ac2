"""What shows vega-nano: the grid and the table of its model card, and the pack's icon, drawn by itself."""

import json
import re
from pathlib import Path

from diffusers import EulerDiscreteScheduler, LCMScheduler
from PIL import Image, ImageDraw, ImageFont

from .autoencoder import as_images
from .evaluation import Artist, Setting, as_markdown
from .pictures import SIZE
from .text_to_image import PROMPTS

MARGIN = 150  # pixels, for a row's label
TEXT = 14


def settings(guidance: float) -> list[Setting]:
    base = [Setting(False, EulerDiscreteScheduler, 25, guidance), Setting(False, LCMScheduler, 4)]
    return base + [Setting(True, LCMScheduler, steps) for steps in (8, 4, 2, 1)]


def grid(artist: Artist, rows: list[Setting]) -> Image.Image:
    """PROMPTS across, `rows` down, each row with its label; one seed for each prompt."""
    sheet = Image.new("RGB", (MARGIN + SIZE * len(PROMPTS), SIZE * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for y, setting in enumerate(rows):
        label = str(setting).replace(", ", "\n")
        draw.multiline_text((10, (y + 0.5) * SIZE), label, fill="black", font=font, anchor="lm", spacing=6)
        for x, image in enumerate(as_images(artist.draw(list(PROMPTS), setting))):
            sheet.paste(image, (MARGIN + x * SIZE, y * SIZE))
    return sheet


def make(folder: Path, work: Path) -> None:
    """Writes samples.jpg, icon.png and the scores between the marks of README.md, all in folder."""
    result = json.loads((work / "scores.json").read_text())
    artist = Artist(folder)
    grid(artist, settings(result["guidance"]["25"])).save(folder / "samples.jpg", quality=92)
    drawn = artist.draw([PROMPTS[0]], Setting(True, LCMScheduler, 4))
    as_images(drawn)[0].resize((400, 400), Image.Resampling.LANCZOS).save(folder / "icon.png")
    readme = folder / "README.md"
    marked = re.compile(r"(<!-- scores -->\n).*?(<!-- end of scores -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda m: m[1] + as_markdown(result) + "\n" + m[2], readme.read_text()))
