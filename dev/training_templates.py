"""The graphs of the templates that train.

The node that trains stands outside, where its progress is seen; what it makes goes into the subgraph that draws with it.
"""

import itertools

from .graph import Graph
from .template_parts import (
    COMPARED,
    NANO,
    NANO_LORA,
    NANO_SIDE,
    SMALL,
    add_decode,
    add_empty_latent,
    add_save,
    model_widgets,
    prompt,
    sampler,
    sampler_widgets,
    size_widgets,
    with_and_without,
)

EXAMPLE_STYLE = "vega_example_style"  # a folder, which extension.py puts into the input folder
# What the template that distils practises on: each time with each place, and one of the things in turn.
TIMES = ("a bright day", "a red sunset", "a pink dawn", "a starry night")
PLACES = ("mountains", "snowy mountains", "rolling hills", "a desert", "a forest", "a city", "the sea")
THINGS = ("a calm lake", "a house", "the sun", "a tree", "a boat", "clouds", "a full moon", "a cactus", "a crescent moon")


def train_lora(g: Graph) -> None:
    settings = {"steps": 300, "learning_rate": 2e-3, "batch_size": 4, "gradient_accumulation_steps": 1}
    shown_while = "a bright day, hills with a tree\na starry night over the sea with a boat"
    trained = g.node(
        "VegaTrainLora",
        2,
        0,
        model_name=NANO,
        folder=EXAMPLE_STYLE,
        name="cyanotype",
        sample_prompts=shown_while,
        gradient_checkpointing=False,
        **settings,
    )
    with g.subgraph("Text to picture in your style", column=3) as face:
        load = g.node("VegaLoader", 1, -40, model_name=NANO, vae="tiny")
        unstyled = {"model": load["MODEL"], "clip": load["CLIP"]}
        style = g.node("VegaLoraLoader", 2, -40, "Your LoRA", **unstyled, lora_name=trained["lora name"])
        lora = g.node("VegaLCMLora", 3, -40, model=style["MODEL"], lora_name=NANO_LORA)
        fast = g.node("VegaAccelerate", 4, -40, model=lora)
        text = prompt(g, 3, 270, style, "a bright day, the sea with a boat, the sun")
        size = add_empty_latent(g, 4, 320, NANO_SIDE)
        drawn = sampler(g, 5, 60, fast, text, size, steps=8)  # four are blurred after so little training
        decode = add_decode(g, 6, 60, load, drawn, 480)
        g.group("1. Model and LoRAs", load, style, lora, fast)
        g.group("2. Prompt and size", text, size)
        g.group("3. Draw", drawn, decode)
        face.show(
            prompt=(text, "text"),
            strength=(style, "strength_model"),
            **size_widgets(size),
            **sampler_widgets(drawn),
            **model_widgets(load, fast),
        )
    add_save(g, decode, SMALL, "my_style", column=4)


def train_lcm_lora(g: Graph) -> None:
    """Left what was learned, right the base alone in the same steps."""
    pairs = itertools.product(TIMES, PLACES)
    practised = [f"{time} over {place}, {thing}" for (time, place), thing in zip(pairs, itertools.cycle(THINGS))]
    settings = {"steps": 400, "learning_rate": 1e-3, "rank": 32, "resolution": 128, "w_min": 3.0, "w_max": 3.0}
    settings |= {"batch_size": 8, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
    prompts = "\n".join(practised)
    distilled = g.node("VegaTrainLCMLora", 2, 0, model_name=NANO, prompts=prompts, name="my-nano-lcm", **settings)
    with g.subgraph("With your LCM-LoRA and without", column=3) as face:
        load = g.node("VegaLoader", 1, -40, model_name=NANO, vae="tiny")
        lora = g.node("VegaLCMLora", 2, -40, "Your LCM-LoRA", model=load["MODEL"], lora_name=distilled["lora name"])
        fast = g.node("VegaAccelerate", 3, -40, model=lora)
        text = prompt(g, 2, 240, load, "a pink dawn over pine trees with a calm lake")
        size = add_empty_latent(g, 3, 290, NANO_SIDE)
        few, base, left, right, both = with_and_without(g, load, fast, text, text, size, steps=4, cfg=1.0)
        g.group("1. Model and LCM-LoRA", load, lora, fast)
        g.group("2. Prompt and size", text, size)
        g.group("3. With your LCM-LoRA", few, left)
        g.group("4. Without, CFG 1", base, right)
        g.group("5. Left and right", both)
        face.show(
            prompt=(text, "text"),
            **size_widgets(size),
            steps=[(few, "steps"), (base, "steps")],
            seed=[(few, "seed"), (base, "seed")],
            model=(load, "model_name"),
        )
    add_save(g, both, COMPARED, "my_lcm", column=4)
