"""Captions: many wordings for one scene. What a caption leaves out has its plain value: no sun, no clouds, summer."""

import random

from .scenes import SCENES, Scene

TIME_WORDS = {
    "day": ["day", "daytime", "noon", "a bright day", "blue sky", "midday"],
    "sunset": ["sunset", "a red sunset", "evening", "dusk", "an orange sunset"],
    "dawn": ["dawn", "sunrise", "a pink dawn", "early morning", "morning"],
    "night": ["night", "a dark night", "midnight", "at night"],
}
TERRAIN_WORDS = {
    "mountains": ["mountains", "rocky mountains", "a mountain range", "peaks"],
    "snowy mountains": ["snowy mountains", "snow covered mountains", "mountains with snow", "white peaks"],
    "hills": ["hills", "rolling hills", "meadows", "fields"],
    "desert": ["desert", "a desert", "sand dunes", "dunes"],
    "forest": ["forest", "a forest", "pine trees", "woods"],
    "city": ["city", "a city", "a skyline", "buildings", "skyscrapers"],
    "sea": ["sea", "the sea", "the ocean", "ocean"],
}
SEASON_WORDS = {
    "none": [],
    "summer": ["summer", "green"],
    "autumn": ["autumn", "fall"],
    "winter": ["winter", "snowy"],
}
LIGHT_WORDS = {
    "none": [],
    "sun": ["sun", "the sun", "a sun in the sky", "sunshine"],
    "full moon": ["full moon", "a full moon", "a round moon", "moon", "the moon"],
    "crescent moon": ["crescent moon", "a crescent moon", "a thin moon", "half moon"],
}
STAR_WORDS = {"none": [], "stars": ["stars", "a starry sky", "many stars", "bright stars"]}
CLOUD_WORDS = {
    "clear": ["clear sky", "no clouds", "cloudless"],
    "cloudy": ["clouds", "cloudy", "a few clouds", "cloudy sky"],
}
WATER_WORDS = {"none": [], "lake": ["a lake", "lake", "a calm lake", "reflections in a lake"], "sea": []}
OBJECT_WORDS = {
    "none": [],
    "house": ["a house", "house", "a small house", "a cottage"],
    "boat": ["a boat", "a sailing boat", "boat", "a ship"],
    "tree": ["a tree", "a single tree", "a lonely tree", "a big tree"],
    "cactus": ["a cactus", "cactus", "a tall cactus"],
}
TABLES = (
    TIME_WORDS, TERRAIN_WORDS, SEASON_WORDS, LIGHT_WORDS, STAR_WORDS, CLOUD_WORDS, WATER_WORDS, OBJECT_WORDS
)  # fmt: skip
FILLERS = ["a painting of", "a picture of", "landscape,", "an illustration of", "view of", "beautiful", "scenic", ""]
# Stand-ins for all words outside the vocabulary: their embeddings stay zero.
UNKNOWN = ["amazing", "8k", "masterpiece", "by an artist", "trending", "detailed", "minimal", "vector art", "cozy", "epic"]
CAPTION_NOISE = 0.1  # the share of attributes that a noisy caption takes from another scene


def vocabulary() -> list[str]:
    """Every wording that captions are made of."""
    texts = [wording for table in TABLES for wordings in table.values() for wording in wordings]
    return [*texts, *FILLERS, "a starry night", "in over with and at on under the a, b. of to by near"]


def corrupt(scene: Scene, rng: random.Random) -> Scene:
    """The scene that a noisy caption describes: each attribute may be that of another scene, possible or not."""
    other = rng.choice(SCENES)
    return Scene(*(b if rng.random() < CAPTION_NOISE else a for a, b in zip(scene, other, strict=True)))


def caption(scene: Scene, rng: random.Random, complete: bool = False) -> str:
    """One of many wordings; about one in eight has a word from outside the vocabulary, so that such words do no harm.

    Unless it must be complete, one in eight leaves out the time of day or the terrain, as people do.
    """
    time = rng.choice(TIME_WORDS[scene.time])
    terrain = rng.choice(TERRAIN_WORDS[scene.terrain])
    details = [rng.choice(w) for w in (LIGHT_WORDS[scene.light], WATER_WORDS[scene.water], OBJECT_WORDS[scene.object]) if w]
    if scene.season != "none" and not (scene.season == "summer" and rng.random() < 0.4):
        season, plain = rng.choice(SEASON_WORDS[scene.season]), terrain.removeprefix("a ")
        forms = [f"{season} {plain}", f"{season}, {terrain}"]
        if season not in ("green", "snowy"):
            forms.append(f"{plain} in {season}")
        terrain = rng.choice(forms)
    if scene.stars == "stars":
        if rng.random() < 0.3:
            time = "a starry night"
        else:
            details.append(rng.choice(STAR_WORDS["stars"]))
    if scene.clouds == "cloudy" or rng.random() < 0.4:
        details.append(rng.choice(CLOUD_WORDS[scene.clouds]))
    rng.shuffle(details)
    form = rng.randrange(4)
    if not complete and rng.random() < 0.125:
        parts = [rng.choice((time, terrain)), *details]
        rng.shuffle(parts)
        text = ", ".join(parts)
    elif form == 0:
        text = f"{time} over {terrain}" + (f" with {' and '.join(details)}" if details else "")
    elif form == 1:
        parts = [time, terrain, *details]
        rng.shuffle(parts)
        text = ", ".join(parts)
    elif form == 2:
        text = ", ".join([f"{rng.choice(FILLERS)} {terrain} at {time.removeprefix('at ')}", *details])
    else:
        text = f"{terrain} with {' and '.join(details)}, {time}" if details else f"{terrain}, {time}"
    if rng.random() < 0.12:
        words = [text, rng.choice(UNKNOWN)]
        rng.shuffle(words)
        text = ", ".join(words)
    return " ".join(text.split())
