"""API-format graphs that the server tests queue."""

import copy
import json
from pathlib import Path

TEXT_TO_IMAGE = json.loads((Path(__file__).parents[1] / "workflows" / "api" / "vega_txt2img.json").read_text())
TEXT_TO_IMAGE["4"]["inputs"] |= {"width": 128, "height": 128}  # sooner drawn than the shipped 256
LOADER, LORA, TEXT, EMPTY, SAMPLER, DECODE, SAVE = "1", "2", "3", "4", "5", "6", "7"
ACCELERATE = "10"


def text_to_image(**changes) -> dict:
    """The shipped text-to-image graph; a change is named node__input, by the node's class: VegaLCMSampler__seed=1."""
    graph = copy.deepcopy(TEXT_TO_IMAGE)
    for name, value in changes.items():
        class_type, key = name.split("__")
        for node in graph.values():
            if node["class_type"] == class_type:
                node["inputs"][key] = value
    return graph


def sending(source: str, format: str = "jpeg") -> dict:
    """A Send Image node for the pictures of another node."""
    return {"class_type": "VegaSendImage", "inputs": {"images": [source, 0], "format": format, "quality": 95}}
