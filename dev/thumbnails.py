"""Draws each template's thumbnail through the real server: with the template itself, or vega-nano in its models' place."""

import json

from PIL import Image, ImageDraw, ImageFont

from vega_client import Client

from . import demo, templates

MAX_SCALE = 2  # vega-nano's pictures are smaller than what the template browser shows
MAX_SIDE_PIXELS = 512  # and more than this it doesn't show
NANO_PROMPTS = {  # what vega-nano draws in the place of models that are downloaded
    "vega_txt2img_1024": "a red sunset over the sea with the sun",
    "vega_realvisxl_lcm": "a pink dawn over mountains with a calm lake",
    "vega_small_sd_tiny_sd": "a bright day, rolling hills with a house",
    "vega_style_lora": "a starry night over a city, full moon",
    "vega_recipes_compared": "a bright day, the sea with a boat and the sun",
    "vega_controlnet": "early morning, pine trees with reflections in a lake",
}
TITLE_PIXELS, SMALL_PIXELS, MARGIN_PIXELS = 36, 26, 20  # letters' sizes and the space around them, in pixels
BACKGROUND_COLOUR, TEXT_COLOUR = "#101418", "white"


def write(client: Client) -> None:
    for name, template in templates.TEMPLATES.items():
        text = NANO_PROMPTS.get(name)
        picture = draw_labelled(client, name, text) if text else enlarge(draw_picture(client, read_prompt(name)))
        thumbnail = templates.WORKFLOWS / f"{template.title}.jpg"
        picture.save(thumbnail, quality=92)
        print(thumbnail)


def read_prompt(template: str) -> dict:
    """The template as programs queue it."""
    return json.loads((templates.WORKFLOWS / "api" / f"{template}.json").read_text(encoding="utf-8"))


def draw_picture(client: Client, prompt: dict) -> Image.Image:
    """The picture that the prompt saves or sends; what it only shows on the way comes before it."""
    return client.queue(prompt)[-1].convert("RGB")


def enlarge(picture: Image.Image) -> Image.Image:
    scale = min(MAX_SCALE, MAX_SIDE_PIXELS / max(picture.size))
    return picture.resize((round(scale * picture.width), round(scale * picture.height)), Image.Resampling.LANCZOS)


def draw_labelled(client: Client, name: str, text: str) -> Image.Image:
    """vega-nano's picture of the text, which says what the template is and that its models are downloaded."""
    (picture,) = client.queue(demo.WORKFLOW, {"CLIPTextEncode.text": text})
    picture = picture.resize((MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.LANCZOS)
    title = templates.notes()[name].partition("\n")[0].removeprefix("## ")
    lines = [(title, TITLE_PIXELS), ("models to download", SMALL_PIXELS), ("this picture: vega-nano", SMALL_PIXELS)]
    brush = ImageDraw.Draw(picture)
    top = MAX_SIDE_PIXELS - sum(size + MARGIN_PIXELS // 2 for _, size in lines) - MARGIN_PIXELS
    brush.rectangle((0, top - MARGIN_PIXELS // 2, MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), fill=BACKGROUND_COLOUR)
    for line, size in lines:
        brush.text((MARGIN_PIXELS, top), line, TEXT_COLOUR, ImageFont.load_default(size))
        top += size + MARGIN_PIXELS // 2
    return picture
