"""Graphs for the Python client to queue, and whether two of their pictures are the same."""

import graphs
from PIL import Image, ImageChops

PROMPT = "night, desert, full moon"


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and not ImageChops.difference(one, other).getbbox()


def graph(seed: int, **changes) -> dict:
    """The shipped graph, its picture sent instead of saved."""
    prompt = graphs.text_to_image(VegaLCMSampler__seed=seed, **changes)
    prompt[graphs.SAVE] = graphs.sending(graphs.DECODE, "png")
    return prompt
