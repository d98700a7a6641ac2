"""Draws what the Comfy registry shows of the pack, its icon and its banner, with vega-nano on the real server."""

from PIL import Image, ImageDraw, ImageFont

from vega_client import Client

from .host import ROOT

OUTPUT_DIR = ROOT / "docs" / "pictures"
ICON_PIXELS = 400  # the largest that the registry takes
TILE_PIXELS = 180
COLUMNS, ROWS = 7, 3  # 21:9, as the registry wants it
DRAWN_PIXELS = 256  # what vega-nano draws best
STEPS = 8

ICON_PROMPT = ("a sunset over the sea with a boat, sun", 7)
# One day from left to right, three landscapes from top to bottom; the name stands in the middle of the middle row.
TIMES_OF_DAY = ("dawn", "dawn, sun", "day, sun", "day, clouds", "sunset", "night, stars", "night, full moon")
LANDSCAPES = ("the sea with a boat, {}", "hills with a house, {}", "desert with a cactus, {}")
NAME_PLATE = (2, 1, 5, 2)  # columns and rows: left, top, right, bottom
NAME, SLOGAN = "Vega RT", "pictures in one to eight steps"
NAME_PIXELS, SLOGAN_PIXELS = 92, 30
TEXT_COLOUR, BACKGROUND_COLOUR = "#ffffff", "#16121f"


def draw_picture(client: Client, prompt: str, seed: int) -> Image.Image:
    picture = client.generate(prompt, seed=seed, steps=STEPS, width=DRAWN_PIXELS, height=DRAWN_PIXELS, format="png")
    return picture.convert("RGB")


def scale_to(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def draw_icon(client: Client) -> Image.Image:
    return scale_to(draw_picture(client, *ICON_PROMPT), ICON_PIXELS)


def draw_banner(client: Client) -> Image.Image:
    page = Image.new("RGB", (COLUMNS * TILE_PIXELS, ROWS * TILE_PIXELS), BACKGROUND_COLOUR)
    left, top, right, bottom = NAME_PLATE
    for row, landscape in enumerate(LANDSCAPES):
        for column, time in enumerate(TIMES_OF_DAY):
            if not (left <= column < right and top <= row < bottom):
                picture = draw_picture(client, landscape.format(time), COLUMNS * row + column)
                page.paste(scale_to(picture, TILE_PIXELS), (column * TILE_PIXELS, row * TILE_PIXELS))
    middle = (left + right) / 2 * TILE_PIXELS
    ink = ImageDraw.Draw(page)
    ink.text((middle, (top + 0.38) * TILE_PIXELS), NAME, TEXT_COLOUR, ImageFont.load_default(NAME_PIXELS), anchor="mm")
    ink.text((middle, (top + 0.79) * TILE_PIXELS), SLOGAN, TEXT_COLOUR, ImageFont.load_default(SLOGAN_PIXELS), anchor="mm")
    return page


def write(client: Client) -> None:
    draw_icon(client).save(OUTPUT_DIR / "icon.png", optimize=True)
    draw_banner(client).save(OUTPUT_DIR / "banner.jpg", quality=90)
    print(OUTPUT_DIR / "icon.png", OUTPUT_DIR / "banner.jpg")
