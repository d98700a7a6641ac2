"""Scene attributes: their values, which combinations exist, and which of those are held out of training."""

import itertools
import random
from typing import NamedTuple

import torch

TIMES = ("day", "sunset", "dawn", "night")
TERRAINS = ("mountains", "snowy mountains", "hills", "desert", "forest", "city", "sea")
SEASONS = ("none", "summer", "autumn", "winter")
LIGHTS = ("none", "sun", "full moon", "crescent moon")
STARS = ("none", "stars")
CLOUDS = ("clear", "cloudy")
WATERS = ("none", "lake", "sea")
OBJECTS = ("none", "house", "boat", "tree", "cactus")


class Scene(NamedTuple):
    """One picture's attributes; each field is one of the tuples above, in their order."""

    time: str
    terrain: str
    season: str
    light: str
    stars: str
    clouds: str
    water: str
    object: str


VALUES = Scene(TIMES, TERRAINS, SEASONS, LIGHTS, STARS, CLOUDS, WATERS, OBJECTS)


def is_possible(scene: Scene) -> bool:
    """Whether the renderer can draw the combination and it makes sense."""
    night = scene.time == "night"
    sky = scene.light in (("none", "full moon", "crescent moon") if night else ("none", "sun"))
    season = (scene.season != "none") == (scene.terrain in ("hills", "forest"))
    waters = {"sea": ("sea",), "desert": ("none",)}.get(scene.terrain, ("none", "lake"))
    if scene.water != "none":
        objects = ("none", "boat") if scene.terrain in ("sea", "city") else ("none", "boat", "house")
    else:
        objects = {"desert": ("none", "cactus"), "city": ("none",), "forest": ("none", "house")}.get(
            scene.terrain, ("none", "house", "tree")
        )
    return sky and season and (night or scene.stars == "none") and scene.water in waters and scene.object in objects


SCENES = [s for s in itertools.starmap(Scene, itertools.product(*VALUES)) if is_possible(s)]


def split(held_out: float = 0.1) -> tuple[list[Scene], list[Scene]]:
    """(training scenes, held-out scenes): whole attribute combinations, never single pictures, are held out."""
    shuffled = list(SCENES)
    random.Random(0).shuffle(shuffled)
    cut = int(len(shuffled) * held_out)
    return shuffled[cut:], shuffled[:cut]


def sample_scene(scenes: list[Scene], rng: random.Random) -> Scene:
    """A scene with every time of day and every terrain equally likely, however many combinations each of them has."""
    time, terrain = rng.choice(TIMES), rng.choice(TERRAINS)
    return rng.choice([s for s in scenes if s.time == time and s.terrain == terrain])


def labels(scenes: list[Scene]) -> torch.Tensor:
    """[len(scenes), attributes] indices into VALUES."""
    return torch.tensor([[v.index(x) for v, x in zip(VALUES, scene, strict=True)] for scene in scenes])
