"""Procedural landscapes in a flat, bold style that stays legible through an autoencoder of eight pixels to a cell.

Every picture is a function of (attributes, seed, size), so the data set is never stored: an index draws it again.
"""

import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .scenes import Scene, sample_scene

SIZE = 256
SUPERSAMPLING = 2

# Sky colours from zenith to horizon, and the colour of the light that falls on everything else.
SKIES = {
    "day": ([(38, 110, 214), (104, 178, 246), (206, 236, 252)], (1.0, 1.0, 1.0)),
    "sunset": ([(92, 30, 104), (232, 74, 60), (255, 196, 84)], (0.95, 0.66, 0.52)),
    "dawn": ([(146, 132, 210), (244, 176, 206), (255, 230, 204)], (0.92, 0.82, 0.92)),
    "night": ([(10, 12, 44), (20, 28, 78), (46, 58, 122)], (0.40, 0.46, 0.72)),
}
LIGHT_COLOURS = {"day": (255, 240, 120), "sunset": (255, 228, 110), "dawn": (255, 248, 214), "night": (250, 246, 220)}
CLOUD_COLOURS = {"day": (253, 254, 255), "sunset": (244, 140, 112), "dawn": (255, 220, 228), "night": (88, 98, 152)}
# Far, middle and near ground.
GROUND = {
    ("mountains", "none"): [(134, 138, 164), (106, 98, 116), (98, 146, 84)],
    ("snowy mountains", "none"): [(244, 248, 255), (160, 182, 220), (226, 234, 246)],
    ("hills", "summer"): [(150, 204, 104), (108, 176, 76), (66, 140, 58)],
    ("hills", "autumn"): [(236, 176, 74), (220, 128, 48), (176, 84, 40)],
    ("hills", "winter"): [(236, 242, 252), (208, 220, 240), (176, 194, 224)],
    ("forest", "summer"): [(84, 146, 96), (44, 108, 66), (30, 82, 48)],
    ("forest", "autumn"): [(232, 164, 66), (210, 104, 40), (140, 66, 36)],
    ("forest", "winter"): [(206, 222, 242), (236, 242, 252), (190, 206, 230)],
    ("desert", "none"): [(246, 214, 150), (236, 190, 116), (214, 158, 88)],
    ("city", "none"): [(164, 170, 194), (98, 102, 128), (84, 84, 98)],
    ("sea", "none"): [(70, 156, 210), (36, 116, 182), (20, 84, 150)],
}
CROWNS = {"none": (66, 140, 62), "summer": (52, 124, 52), "autumn": (226, 98, 36), "winter": (246, 250, 255)}


def tint(colour, light, gain=1.0):
    return tuple(int(min(255, c * k * gain)) for c, k in zip(colour, light, strict=True))


def gradient(colours, height, width):
    stops, rows = np.linspace(0, 1, len(colours)), np.linspace(0, 1, height)
    column = np.stack([np.interp(rows, stops, [c[i] for c in colours]) for i in range(3)], axis=-1)
    return Image.fromarray(np.repeat(column[:, None], width, axis=1).clip(0, 255).astype(np.uint8))


class SceneRenderer:
    """Draws one picture, back to front; lengths are shares of `unit`, the side of a square of equal area."""

    def __init__(self, scene: Scene, seed: int, width: int, height: int):
        self.scene, self.rng = scene, np.random.default_rng(seed)
        self.width, self.height, self.unit = width, height, (width * height) ** 0.5
        self.horizon = height * self.rng.uniform(0.52, 0.6)
        self.shore = self.horizon + 0.11 * height
        colours, self.light = SKIES[scene.time]
        self.image = gradient([tuple(c + self.rng.integers(-8, 9) for c in stop) for stop in colours], height, width)
        self.draw = ImageDraw.Draw(self.image)

    def render(self) -> Image.Image:
        scene = self.scene
        place = self.sun_or_moon()
        if scene.stars == "stars":
            self.stars(place)
        if scene.clouds == "cloudy":
            self.clouds(place)
        self.terrain()
        x = self.width * self.rng.uniform(0.24, 0.76)
        if scene.object in ("house", "tree", "cactus"):
            on_shore = scene.water == "lake"
            y = self.shore if on_shore else self.horizon + self.height * self.rng.uniform(0.2, 0.28)
            getattr(self, scene.object)(x, y)
        if scene.water == "lake":
            self.lake()
        if place and scene.water != "none":
            self.glitter(place, self.shore if scene.water == "lake" else self.horizon)
        if scene.object == "boat":
            self.boat(x, self.shore + (self.height - self.shore) * self.rng.uniform(0.35, 0.55))
        return self.image

    def sun_or_moon(self):
        """Draws it and returns its (x, y, radius), or None."""
        scene, rng, unit = self.scene, self.rng, self.unit
        if scene.light == "none":
            return None
        x = self.width * rng.uniform(0.2, 0.8)
        low = scene.time in ("sunset", "dawn") and scene.terrain in ("sea", "hills", "desert")
        y = self.horizon * (rng.uniform(0.6, 0.75) if low else rng.uniform(0.26, 0.4))
        r = unit * rng.uniform(0.095, 0.115)
        colour = LIGHT_COLOURS[scene.time]
        glow = Image.new("L", self.image.size)
        spread = r * (1.6 if scene.light == "sun" else 1.25)
        ImageDraw.Draw(glow).ellipse([x - spread, y - spread, x + spread, y + spread], fill=110)
        self.image.paste(colour, mask=glow.filter(ImageFilter.GaussianBlur(r * 0.45)))
        mask = Image.new("L", self.image.size)
        disc = ImageDraw.Draw(mask)
        disc.ellipse([x - r, y - r, x + r, y + r], fill=255)
        if scene.light == "crescent moon":
            side = rng.choice([-1, 1])
            disc.ellipse([x - r + side * r * 0.7, y - r * 1.12, x + r + side * r * 0.7, y + r * 0.88], fill=0)
        self.image.paste(colour, mask=mask)
        return x, y, r

    def free_place(self, place, low, high, gap):
        """A point of the sky that keeps its distance from the sun or moon, as well as ten tries can find one."""
        for _ in range(10):
            x, y = self.rng.uniform(0.05, 0.95) * self.width, self.rng.uniform(low, high) * self.horizon
            if place is None or abs(x - place[0]) > place[2] + gap * self.unit or abs(y - place[1]) > place[2] * 1.3:
                break
        return x, y

    def stars(self, place):
        for _ in range(int(self.rng.integers(11, 16))):
            x, y = self.free_place(place, 0.04, 0.75, 0.04)
            r = self.rng.uniform(0.016, 0.027) * self.unit
            thin = r * 0.3
            self.draw.polygon(
                [(x, y - r), (x + thin, y - thin), (x + r, y), (x + thin, y + thin),
                 (x, y + r), (x - thin, y + thin), (x - r, y), (x - thin, y - thin)],
                fill=(255, 252, 224),
            )  # fmt: skip

    def clouds(self, place):
        colour = CLOUD_COLOURS[self.scene.time]
        for _ in range(int(self.rng.integers(3, 5))):
            x, y = self.free_place(place, 0.1, 0.55, 0.15)
            length, bump = self.rng.uniform(0.24, 0.36) * self.unit, self.rng.uniform(0.045, 0.06) * self.unit
            self.draw.rounded_rectangle([x - length / 2, y, x + length / 2, y + bump], bump / 2, fill=colour)
            for offset, size in ((-0.22, 0.75), (0.02, 1.1), (0.24, 0.7)):
                r, cx = bump * size * self.rng.uniform(0.85, 1.15), x + offset * length
                self.draw.ellipse([cx - r, y - r * 0.8, cx + r, y + r * 0.9], fill=colour)

    def below(self, profile, colour):
        self.draw.polygon([*enumerate(profile), (self.width, self.height), (0, self.height)], fill=colour)

    def wave(self):
        """A smooth line in about -1..1, one value for each column."""
        x = np.linspace(0, 2 * np.pi * self.width / self.unit, self.width)
        rng = self.rng
        return sum(rng.uniform(0.4, 1) / k * np.sin(k * x * rng.uniform(0.7, 1.3) + rng.uniform(0, 7)) for k in (1, 2)) / 1.2

    def places(self, step, jitter):
        """Positions from edge to edge, `step` of a unit apart."""
        step *= self.unit
        offset = self.rng.uniform(-1, 0)
        return [(i + offset + self.rng.uniform(-jitter, jitter)) * step for i in range(int(self.width / step) + 3)]

    def terrain(self):
        scene = self.scene
        far, middle, near = (tint(c, self.light, self.rng.uniform(0.95, 1.05)) for c in GROUND[scene.terrain, scene.season])
        {
            "mountains": self.mountains,
            "snowy mountains": self.mountains,
            "hills": self.hills,
            "desert": self.dunes,
            "forest": self.forest,
            "city": self.city,
            "sea": self.sea,
        }[scene.terrain](far, middle, near)

    def mixed(self, colour, other, share):
        return tuple(int(a + (b - a) * share) for a, b in zip(colour, other, strict=True))

    def mountains(self, far, middle, near):
        snowy = self.scene.terrain == "snowy mountains"
        haze = self.image.getpixel((self.width // 2, int(self.horizon) - 1))
        base = self.horizon + 0.04 * self.height
        for distance, step in ((0.55, 0.3), (0.0, 0.42)):
            lit, shade = (self.mixed(colour, haze, distance * 0.6) for colour in (far, middle))
            for x in self.places(step, 0.25):
                tall = self.height * (self.rng.uniform(0.2, 0.27) if distance else self.rng.uniform(0.14, 0.25))
                half = self.unit * step * self.rng.uniform(0.75, 0.95)
                top, kink = base - tall, self.rng.uniform(-0.12, 0.12) * half
                self.draw.polygon([(x, top), (x - half, base), (x + half, base)], fill=shade)
                self.draw.polygon([(x, top), (x - half, base), (x + kink, base), (x - kink, base - tall * 0.5)], fill=lit)
        ground = base + self.wave() * 0.012 * self.height
        self.below(ground, near)
        if snowy:
            self.below(ground + 0.16 * self.height + self.wave() * 0.02 * self.height, tint(near, (0.9, 0.93, 1.0)))

    def hills(self, far, middle, near):
        for colour, base in ((far, -0.04), (middle, 0.07), (near, 0.21)):
            self.below(self.horizon + (base + self.wave() * 0.055) * self.height, colour)

    def dunes(self, far, middle, near):
        self.below(np.full(self.width, self.horizon + 0.02 * self.height), middle)
        for base, tall, step in ((0.04, 0.1, 0.5), (0.16, 0.12, 0.65), (0.34, 0.15, 0.8)):
            foot = self.horizon + base * self.height
            for x in self.places(step, 0.2):
                half, top = step * self.unit * 0.72, foot - tall * self.height * self.rng.uniform(0.7, 1.1)
                self.draw.polygon([(x - half, foot), (x, top), (x + half, foot)], fill=far)
                self.draw.polygon([(x, top), (x + half, foot), (x + half * 0.15, foot)], fill=near)
            self.draw.rectangle([0, foot, self.width, self.height], fill=far if base < 0.3 else middle)

    def forest(self, far, middle, near):
        for colour, base, tall in ((far, 0.02, 0.26), (middle, 0.09, 0.3)):
            foot = self.horizon + base * self.height
            for x in self.places(0.085, 0.3):
                self.fir(x, foot, tall * self.height * self.rng.uniform(0.5, 1), 0.075 * self.unit, colour)
            self.draw.rectangle([0, foot, self.width, self.height], fill=colour)
        self.below(np.full(self.width, self.horizon + 0.1 * self.height), near)

    def fir(self, x, foot, tall, half, colour):
        """Three tiers, each wider than the one above it, and lit from the left."""
        lit = self.mixed(colour, tuple(int(255 * k) for k in self.light), 0.16)
        for top, bottom, share in ((0.0, 0.45, 0.55), (0.22, 0.72, 0.78), (0.45, 1.0, 1.0)):
            peak, base = foot - tall * (1 - top), foot - tall * (1 - bottom)
            self.draw.polygon([(x, peak), (x - half * share, base), (x + half * share, base)], fill=colour)
            self.draw.polygon([(x, peak), (x - half * share, base), (x - half * share * 0.3, base)], fill=lit)

    def city(self, far, middle, near):
        lit = self.scene.time in ("night", "sunset")
        window = (255, 218, 104) if lit else tint(middle, (0.66, 0.7, 0.8))
        pane = 0.026 * self.unit
        for colour, tall, step in ((far, 0.36, 0.13), (middle, 0.27, 0.16)):
            for x in self.places(step, 0.1):
                w, h = step * self.unit * self.rng.uniform(0.75, 1), self.height * tall * self.rng.uniform(0.45, 1)
                self.draw.rectangle([x, self.horizon - h, x + w, self.height], fill=colour)
                if colour is middle:
                    for wy in np.arange(self.horizon - h + pane, self.horizon - pane, pane * 2):
                        for wx in np.arange(x + pane * 0.8, x + w - pane * 1.2, pane * 1.7):
                            if self.rng.random() < 0.75:
                                self.draw.rectangle([wx, wy, wx + pane, wy + pane], fill=window)
        self.draw.rectangle([0, self.horizon, self.width, self.height], fill=near)

    def sea(self, far, middle, near):
        self.image.paste(gradient([far, middle, near], self.height - int(self.horizon), self.width), (0, int(self.horizon)))
        self.ripples(self.horizon, tint(far, (1.2, 1.15, 1.1)))

    def ripples(self, top, colour):
        """Waves, the nearer the longer and thicker."""
        for _ in range(12):
            near = self.rng.uniform(0.06, 0.97)
            x, y = self.rng.uniform(-0.05, 0.95) * self.width, top + (self.height - top) * near
            length = self.unit * self.rng.uniform(0.06, 0.1) * (1 + near)
            self.wave_crest(x, y, length, self.unit * (0.004 + 0.006 * near), colour)

    def wave_crest(self, x, y, length, thick, colour):
        self.draw.rounded_rectangle([x, y - thick, x + length, y + thick], thick, fill=colour)

    def glitter(self, place, top):
        """The light of the sun or moon on the water below it, ever wider towards the viewer."""
        colour = self.mixed(tint((196, 224, 246), self.light), LIGHT_COLOURS[self.scene.time], 0.75)
        for near in np.arange(0.05, 0.95, 0.09):
            length = place[2] * self.rng.uniform(0.5, 0.9) * (0.9 + near)
            x = place[0] + place[2] * self.rng.uniform(-0.4, 0.4) - length / 2
            self.wave_crest(x, top + (self.height - top) * near, length, self.unit * (0.004 + 0.006 * near), colour)

    def lake(self):
        """Mirrors what stands above the shore, bluer."""
        shore = int(self.shore)
        depth = self.height - shore
        mirrored = self.image.crop((0, shore - depth, self.width, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        water = Image.new("RGB", mirrored.size, tint((60, 136, 214), self.light))
        self.image.paste(Image.blend(mirrored, water, 0.5), (0, shore))
        self.ripples(shore, tint((196, 224, 246), self.light))

    def house(self, x, y):
        s = self.unit * self.rng.uniform(0.22, 0.26)
        self.draw.rectangle([x - s / 2, y - s * 0.6, x + s / 2, y], fill=tint((244, 214, 176), self.light, 1.1))
        roof = [(x - s * 0.68, y - s * 0.56), (x, y - s * 1.1), (x + s * 0.68, y - s * 0.56)]
        self.draw.polygon(roof, fill=tint((206, 50, 44), self.light, 1.2))
        self.draw.rectangle([x - s * 0.36, y - s * 0.44, x - s * 0.08, y - s * 0.16], fill=(255, 224, 110))
        self.draw.rectangle([x + s * 0.1, y - s * 0.4, x + s * 0.34, y], fill=tint((110, 66, 56), self.light))

    def boat(self, x, y):
        s = self.unit * self.rng.uniform(0.26, 0.3)
        hull = [(x - s * 0.5, y), (x + s * 0.5, y), (x + s * 0.3, y + s * 0.26), (x - s * 0.3, y + s * 0.26)]
        self.draw.polygon(hull, fill=tint((176, 60, 40), self.light, 1.1))
        right = [(x + s * 0.04, y - s), (x + s * 0.04, y - s * 0.07), (x + s * 0.5, y - s * 0.07)]
        left = [(x - s * 0.04, y - s * 0.85), (x - s * 0.04, y - s * 0.07), (x - s * 0.42, y - s * 0.07)]
        self.draw.polygon(right, fill=tint((255, 252, 244), self.light, 1.2))
        self.draw.polygon(left, fill=tint((240, 232, 220), self.light, 1.15))

    def tree(self, x, y):
        s = self.unit * self.rng.uniform(0.36, 0.42)
        self.draw.rectangle([x - s * 0.055, y - s * 0.5, x + s * 0.055, y], fill=tint((96, 62, 44), self.light))
        crown = CROWNS[self.scene.season]
        if self.scene.terrain == "snowy mountains":
            crown = CROWNS["winter"]
        for dx, dy, r in ((-0.17, 0.52, 0.19), (0.17, 0.52, 0.19), (0, 0.72, 0.26)):
            cx, cy = x + dx * s, y - dy * s
            self.draw.ellipse([cx - r * s, cy - r * s, cx + r * s, cy + r * s], fill=tint(crown, self.light, 0.9 + 0.2 * dy))
            bright, r = tint(crown, self.light, 1.12 + 0.2 * dy), r * 0.62
            cx, cy = cx - 0.3 * r * s, cy - 0.3 * r * s
            self.draw.ellipse([cx - r * s, cy - r * s, cx + r * s, cy + r * s], fill=bright)

    def cactus(self, x, y):
        s = self.unit * self.rng.uniform(0.33, 0.39)
        w, green = s * 0.1, tint((50, 124, 62), self.light, 0.95)
        self.draw.rounded_rectangle([x - w, y - s, x + w, y], w, fill=green)
        for side, low, high in ((-1, 0.38, 0.75), (1, 0.5, 0.9)):
            arm = x + side * s * 0.32
            left, right = min(x, arm) - w * 0.8, max(x, arm) + w * 0.8
            self.draw.rounded_rectangle([left, y - s * low - w, right, y - s * low + w * 0.6], w * 0.8, fill=green)
            self.draw.rounded_rectangle([arm - w * 0.8, y - s * high, arm + w * 0.8, y - s * low], w * 0.8, fill=green)


def render(scene: Scene, seed: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    """The scene as an RGB picture; the seed decides shapes and places, never attributes."""
    large = SceneRenderer(scene, seed, width * SUPERSAMPLING, height * SUPERSAMPLING).render()
    return large.resize((width, height), Image.Resampling.BOX)


def scene_at(index: int, scenes: list[Scene]) -> Scene:
    """What picture number `index` of the endless data set drawn from `scenes` shows, at any size."""
    return sample_scene(scenes, random.Random(index))


def sample(index: int, scenes: list[Scene], width: int = SIZE, height: int = SIZE) -> tuple[Scene, Image.Image]:
    """Picture number `index`."""
    scene = scene_at(index, scenes)
    return scene, render(scene, index, width, height)
