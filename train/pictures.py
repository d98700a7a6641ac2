"""Procedural landscapes with known attributes, and captions for them.

Every picture is a function of (attributes, seed), so the data set is never stored: an index is enough to draw it again.
"""

import itertools
import random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128
SUPERSAMPLING = 2

TIMES = ("day", "sunset", "dawn", "night")
TERRAINS = ("mountains", "snowy mountains", "hills", "desert", "forest", "city", "sea")
LIGHTS = ("none", "sun", "full moon", "crescent moon")
CLOUDS = ("clear", "cloudy")
OBJECTS = ("none", "lake", "house", "boat", "cactus")


class Scene(NamedTuple):
    """What a picture shows; each field is one of the tuples above."""

    time: str
    terrain: str
    light: str
    clouds: str
    object: str


VALUES = Scene(TIMES, TERRAINS, LIGHTS, CLOUDS, OBJECTS)


def possible(scene: Scene) -> bool:
    """Whether nature (and the caption grammar) allows the combination."""
    moon = scene.light.endswith("moon")
    if (scene.time == "night" and scene.light == "sun") or (scene.time != "night" and moon):
        return False
    allowed = {
        "sea": ("none", "boat"),
        "desert": ("none", "cactus"),
        "city": ("none", "lake"),
    }.get(scene.terrain, ("none", "lake", "house"))
    return scene.object in allowed


SCENES = [s for s in itertools.starmap(Scene, itertools.product(*VALUES)) if possible(s)]


def split(held_out: float = 0.1) -> tuple[list[Scene], list[Scene]]:
    """(training scenes, held-out scenes): whole attribute combinations, never single pictures, are held out."""
    scenes = list(SCENES)
    random.Random(0).shuffle(scenes)
    cut = int(len(scenes) * held_out)
    return scenes[cut:], scenes[:cut]


# Sky colours from zenith to horizon, the colour of the light on the ground, and how dark silhouettes get.
SKIES = {
    "day": ([(38, 110, 214), (110, 180, 245), (214, 238, 252)], (1.0, 1.0, 1.0)),
    "sunset": ([(86, 30, 98), (232, 74, 60), (255, 196, 84)], (0.95, 0.62, 0.46)),
    "dawn": ([(150, 130, 205), (246, 178, 204), (255, 232, 206)], (0.92, 0.80, 0.88)),
    "night": ([(8, 10, 38), (16, 24, 66), (36, 48, 104)], (0.30, 0.35, 0.58)),
}
GROUND = {
    "mountains": [(120, 126, 146), (92, 98, 116), (86, 132, 84)],
    "snowy mountains": [(238, 244, 252), (150, 168, 200), (232, 238, 246)],
    "hills": [(140, 196, 96), (104, 168, 76), (70, 138, 58)],
    "desert": [(240, 204, 140), (226, 176, 104), (206, 146, 78)],
    "forest": [(74, 128, 92), (42, 96, 66), (24, 70, 46)],
    "city": [(150, 156, 176), (96, 102, 124), (88, 88, 98)],
    "sea": [(60, 140, 196), (32, 104, 168), (20, 78, 140)],
}


def _tint(colour, light, gain=1.0):
    return tuple(int(min(255, c * k * gain)) for c, k in zip(colour, light, strict=True))


def _gradient(colours, height, width):
    stops = np.linspace(0, 1, len(colours))
    rows = np.linspace(0, 1, height)
    column = np.stack([np.interp(rows, stops, [c[i] for c in colours]) for i in range(3)], axis=-1)
    return np.repeat(column[:, None], width, axis=1)


def _ridge(rng, width, octaves, roughness=0.5):
    """A 1-D fractal profile in about -1..1, one value per pixel."""
    x = np.linspace(0, 1, width)
    profile = np.zeros(width)
    for octave in range(octaves):
        frequency = 2 ** (octave + 1)
        knots = rng.uniform(-1, 1, frequency + 2)
        profile += roughness**octave * np.interp(x * frequency, np.arange(frequency + 2), knots)
    return profile


def _smooth_ridge(rng, width):
    x = np.linspace(0, 2 * np.pi, width)
    return sum(rng.uniform(0.3, 1) / k * np.sin(k * x * rng.uniform(0.6, 1.4) + rng.uniform(0, 7)) for k in (1, 2, 3)) / 1.5


def _below(draw, profile, bottom, colour):
    points = [(x, y) for x, y in enumerate(profile)]
    draw.polygon([*points, (len(profile), bottom), (0, bottom)], fill=colour)


def _sky(rng, scene, height, width):
    colours, light = SKIES[scene.time]
    canvas = _gradient([tuple(c + rng.integers(-8, 9) for c in stop) for stop in colours], height, width)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    if scene.time == "night":
        for _ in range(int(rng.integers(20, 36))):
            x, y = rng.uniform(0, width), rng.uniform(0, height * 0.5)
            r = rng.uniform(0.8, 1.7) * SUPERSAMPLING / 2
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(225, 230, 250))
    return image, light


def _light(rng, scene, image, horizon):
    width, _ = image.size
    if scene.light == "none":
        return None
    x = width * rng.choice([0.25, 0.5, 0.75]) + rng.uniform(-0.05, 0.05) * width
    low = scene.time in ("sunset", "dawn")
    y = horizon * (rng.uniform(0.62, 0.8) if low else rng.uniform(0.25, 0.45))
    r = width * rng.uniform(0.085, 0.105)
    colour = {"day": (255, 240, 130), "sunset": (255, 226, 112), "dawn": (255, 246, 214)}.get(scene.time, (248, 244, 218))
    glow = Image.new("L", image.size)
    spread = r * (1.5 if scene.light == "sun" else 1.25)
    ImageDraw.Draw(glow).ellipse([x - spread, y - spread, x + spread, y + spread], fill=120)
    image.paste(colour, mask=glow.filter(ImageFilter.GaussianBlur(r * 0.5)))
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
    if scene.light == "crescent moon":
        side = rng.choice([-1, 1])
        draw.ellipse([x - r + side * r * 0.6, y - r * 1.1, x + r + side * r * 0.6, y + r * 0.9], fill=0)
    image.paste(colour, mask=mask)
    return x


def _clouds(rng, scene, image, horizon):
    width, _ = image.size
    colour = {"day": (252, 253, 255), "sunset": (240, 130, 104), "dawn": (255, 214, 224)}.get(scene.time, (70, 80, 124))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 5))):
        x, y = rng.uniform(0, width), rng.uniform(0.06, 0.42) * horizon
        length, bump = rng.uniform(0.16, 0.26) * width, rng.uniform(0.032, 0.045) * width
        draw.rounded_rectangle([x - length / 2, y, x + length / 2, y + bump], bump / 2, fill=colour)
        for offset in np.linspace(-0.35, 0.35, 4):
            r = bump * rng.uniform(0.7, 1.25)
            cx = x + offset * length
            draw.ellipse([cx - r, y - r * 0.8, cx + r, y + r], fill=colour)


def _terrain(rng, scene, image, horizon, light):
    width, height = image.size
    draw = ImageDraw.Draw(image)
    far, middle, near = (_tint(c, light, rng.uniform(0.94, 1.06)) for c in GROUND[scene.terrain])
    if scene.terrain in ("mountains", "snowy mountains"):
        peak = horizon - np.abs(_ridge(rng, width, 5)) * height * 0.2 - height * 0.03
        _below(draw, peak, height, far)
        shade = peak + np.abs(_ridge(rng, width, 4)) * height * 0.1 + height * 0.03
        _below(draw, shade, height, middle)
        if scene.terrain == "snowy mountains":
            _below(draw, shade + np.abs(_ridge(rng, width, 4)) * height * 0.12 + height * 0.03, height, far)
        _below(draw, horizon + _smooth_ridge(rng, width) * height * 0.012, height, near)
    elif scene.terrain in ("hills", "desert"):
        amplitude = height * (0.06 if scene.terrain == "hills" else 0.045)
        for colour, base in ((far, -0.05), (middle, 0.06), (near, 0.19)):
            _below(draw, horizon + base * height + _smooth_ridge(rng, width) * amplitude, height, colour)
    elif scene.terrain == "forest":
        for colour, base, tall in ((far, -0.07, 0.12), (middle, -0.02, 0.17)):
            _below(draw, np.full(width, horizon + base * height + 0.1 * height), height, colour)
            step = width / 26
            for i in range(28):
                x = i * step + rng.uniform(-0.3, 0.3) * step
                top, foot = (
                    horizon + base * height - tall * height * rng.uniform(0.3, 1),
                    horizon + base * height + 0.12 * height,
                )
                draw.polygon([(x, top), (x - step * 0.75, foot), (x + step * 0.75, foot)], fill=colour)
        _below(draw, np.full(width, horizon + 0.07 * height), height, near)
    elif scene.terrain == "city":
        lit = scene.time in ("night", "sunset")
        for colour, tall, step in ((far, 0.36, width / 9), (middle, 0.25, width / 11)):
            x = -rng.uniform(0, step)
            while x < width:
                w, h = step * rng.uniform(0.7, 1.1), height * tall * rng.uniform(0.4, 1)
                draw.rectangle([x, horizon - h, x + w, horizon + 2], fill=colour)
                pane = width / 64
                window = (255, 216, 104) if lit else _tint(colour, (0.72, 0.76, 0.84))
                if colour is middle:
                    for wy in np.arange(horizon - h + pane, horizon - pane, pane * 2):
                        for wx in np.arange(x + pane, x + w - pane, pane * 2):
                            if rng.random() < 0.55:
                                draw.rectangle([wx, wy, wx + pane * 0.8, wy + pane * 0.9], fill=window)
                x += w + step * rng.uniform(0, 0.1)
        draw.rectangle([0, horizon, width, height], fill=near)
    else:
        water = _gradient([far, middle, near], height - int(horizon), width)
        image.paste(Image.fromarray(water.clip(0, 255).astype(np.uint8)), (0, int(horizon)))
        _waves(rng, draw, horizon, height, width, _tint(far, (1.2, 1.2, 1.2)))


def _waves(rng, draw, top, height, width, colour):
    for _ in range(26):
        y = top + (height - top) * rng.uniform(0.03, 1)
        x, length = rng.uniform(0, width), width * rng.uniform(0.03, 0.12)
        draw.line([x, y, x + length, y], fill=colour, width=SUPERSAMPLING)


def _lake(rng, image, horizon, light):
    """Mirrors what stands above the shore into the lower part of the picture, darker and bluer."""
    width, height = image.size
    shore = int(horizon + 0.09 * height)
    mirrored = image.crop((0, max(0, 2 * shore - height), width, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    water = Image.new("RGB", mirrored.size, _tint((70, 140, 210), light))
    image.paste(Image.blend(mirrored, water, 0.45), (0, shore))
    _waves(rng, ImageDraw.Draw(image), shore, height, width, _tint((190, 220, 245), light))


def _object(rng, scene, image, horizon, light):
    width, height = image.size
    draw = ImageDraw.Draw(image)
    x = width * rng.uniform(0.2, 0.8)
    if scene.object == "house":
        s, y = width * rng.uniform(0.15, 0.18), horizon + height * rng.uniform(0.2, 0.27)
        draw.rectangle([x - s / 2, y - s * 0.6, x + s / 2, y], fill=_tint((226, 170, 140), light, 1.1))
        draw.polygon(
            [(x - s * 0.68, y - s * 0.58), (x, y - s * 1.15), (x + s * 0.68, y - s * 0.58)],
            fill=_tint((186, 46, 40), light, 1.2),
        )
        draw.rectangle([x - s * 0.34, y - s * 0.45, x - s * 0.08, y - s * 0.2], fill=(255, 222, 110))
        draw.rectangle([x + s * 0.12, y - s * 0.4, x + s * 0.32, y], fill=_tint((110, 70, 60), light))
    elif scene.object == "boat":
        s, y = width * rng.uniform(0.17, 0.21), horizon + height * rng.uniform(0.14, 0.24)
        draw.polygon(
            [(x - s * 0.5, y), (x + s * 0.5, y), (x + s * 0.3, y + s * 0.24), (x - s * 0.3, y + s * 0.24)],
            fill=_tint((160, 62, 40), light, 1.1),
        )
        draw.polygon(
            [(x + s * 0.04, y - s * 1.1), (x + s * 0.04, y - s * 0.08), (x + s * 0.48, y - s * 0.08)],
            fill=_tint((250, 248, 240), light, 1.15),
        )
        draw.polygon(
            [(x - s * 0.04, y - s * 0.95), (x - s * 0.04, y - s * 0.08), (x - s * 0.4, y - s * 0.08)],
            fill=_tint((236, 232, 224), light, 1.15),
        )
    elif scene.object == "cactus":
        s, y = width * rng.uniform(0.24, 0.3), horizon + height * rng.uniform(0.24, 0.32)
        w, green = s * 0.09, _tint((46, 112, 58), light, 0.9)
        draw.rounded_rectangle([x - w, y - s, x + w, y], w, fill=green)
        for side, low, high in ((-1, 0.4, 0.75), (1, 0.5, 0.88)):
            arm = x + side * s * 0.3
            draw.rounded_rectangle(
                [min(x, arm) - w * 0.8, y - s * low - w, max(x, arm) + w * 0.8, y - s * low + w * 0.6], w * 0.8, fill=green
            )
            draw.rounded_rectangle([arm - w * 0.8, y - s * high, arm + w * 0.8, y - s * low], w * 0.8, fill=green)


def picture(scene: Scene, seed: int, size: int = SIZE) -> Image.Image:
    """The scene as a size x size RGB picture; the seed decides shapes and places, never attributes."""
    rng = np.random.default_rng(seed)
    full = size * SUPERSAMPLING
    image, light = _sky(rng, scene, full, full)
    horizon = full * rng.uniform(0.5, 0.6)
    _light(rng, scene, image, horizon)
    if scene.clouds == "cloudy":
        _clouds(rng, scene, image, horizon)
    _terrain(rng, scene, image, horizon, light)
    if scene.object == "lake":
        _lake(rng, image, horizon, light)
    _object(rng, scene, image, horizon, light)
    return image.resize((size, size), Image.Resampling.BOX)


TIME_WORDS = {
    "day": ["day", "a sunny day", "daytime", "noon", "a bright day", "blue sky"],
    "sunset": ["sunset", "a red sunset", "evening", "dusk", "an orange sunset"],
    "dawn": ["dawn", "sunrise", "a pink dawn", "early morning", "morning"],
    "night": ["night", "a dark night", "midnight", "a starry night"],
}
TERRAIN_WORDS = {
    "mountains": ["mountains", "rocky mountains", "a mountain range", "peaks"],
    "snowy mountains": ["snowy mountains", "snow covered mountains", "mountains with snow", "white peaks"],
    "hills": ["hills", "green hills", "rolling hills", "meadows"],
    "desert": ["desert", "a desert", "sand dunes", "dunes"],
    "forest": ["forest", "a forest", "pine trees", "woods"],
    "city": ["city", "a city", "a skyline", "buildings", "skyscrapers"],
    "sea": ["sea", "the sea", "the ocean", "ocean"],
}
LIGHT_WORDS = {
    "none": [],
    "sun": ["sun", "the sun", "a sun in the sky"],
    "full moon": ["full moon", "a full moon", "a round moon"],
    "crescent moon": ["crescent moon", "a crescent moon", "a thin moon"],
}
CLOUD_WORDS = {
    "clear": ["clear sky", "no clouds", "cloudless"],
    "cloudy": ["clouds", "cloudy", "a few clouds", "cloudy sky"],
}
OBJECT_WORDS = {
    "none": [],
    "lake": ["a lake", "lake", "a calm lake", "reflections in a lake"],
    "house": ["a house", "house", "a small house", "a cottage"],
    "boat": ["a boat", "a sailing boat", "boat", "a ship"],
    "cactus": ["a cactus", "cactus", "a tall cactus"],
}
FILLERS = ["a painting of", "a picture of", "landscape,", "an illustration of", "view of", "beautiful", "scenic", ""]
UNKNOWN = ["amazing", "8k", "masterpiece", "by an artist", "trending", "detailed", "minimal", "vector art", "cozy", "epic"]


def caption(scene: Scene, rng: random.Random) -> str:
    """One of many wordings; about one in eight carries a word that means nothing, so that such words do no harm."""
    time = rng.choice(TIME_WORDS[scene.time])
    terrain = rng.choice(TERRAIN_WORDS[scene.terrain])
    details = [rng.choice(w) for w in (LIGHT_WORDS[scene.light], OBJECT_WORDS[scene.object]) if w]
    if scene.clouds == "cloudy" or rng.random() < 0.5:
        details.append(rng.choice(CLOUD_WORDS[scene.clouds]))
    rng.shuffle(details)
    form = rng.randrange(4)
    if form == 0:
        text = f"{time} over {terrain}" + (f" with {' and '.join(details)}" if details else "")
    elif form == 1:
        parts = [time, terrain, *details]
        rng.shuffle(parts)
        text = ", ".join(parts)
    elif form == 2:
        text = f"{rng.choice(FILLERS)} {terrain} at {time}" + (f", {', '.join(details)}" if details else "")
    else:
        text = f"{terrain} with {' and '.join(details)}, {time}" if details else f"{terrain}, {time}"
    if rng.random() < 0.12:
        words = [text, rng.choice(UNKNOWN)]
        rng.shuffle(words)
        text = ", ".join(words)
    return " ".join(text.split())


def sample(index: int, scenes: list[Scene]) -> tuple[Scene, Image.Image]:
    """Picture number `index` of the endless data set drawn from `scenes`."""
    scene = random.Random(index).choice(scenes)
    return scene, picture(scene, index)
