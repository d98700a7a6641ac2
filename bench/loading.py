"""What a user waits for beside pictures: the server's start, the first picture, each change of what it is drawn with."""

import shutil
import statistics
import time
from collections.abc import Iterator

from . import served, stages
from .machine import main_case
from .variants import ACCELERATED, CORE, GRAPHS
from .weights import LORA, Models

STRENGTHS = (0.9, 0.8, 0.7)
OTHER_LORA, OTHER_CHECKPOINT = "other-lcm.safetensors", "other-vega.safetensors"
# Without it the host drops every loaded model at each change of graph.
KEEP = ("--cache-lru", "1000")


def other_files(models: Models) -> None:
    """The same LCM-LoRA and checkpoint under other names: for the server, others."""
    folder = models.base / "models"
    if not (folder / "loras" / OTHER_LORA).is_file():
        shutil.copy(folder / "loras" / LORA, folder / "loras" / OTHER_LORA)
    other = folder / "checkpoints" / OTHER_CHECKPOINT
    if models.checkpoint and not other.is_symlink():
        other.symlink_to(folder / "checkpoints" / models.checkpoint)


def other_model(name: str, models: Models) -> dict[str, str]:
    """The input of the loader that makes the variant load another model."""
    if models.checkpoint:
        return {"model_name" if name == ACCELERATED else "ckpt_name": OTHER_CHECKPOINT}
    return {"model_name": models.second if name == ACCELERATED else models.vega}


def of(name: str, models: Models, sizes: tuple[int, ...], prompts: Iterator) -> dict[str, float]:
    """Seconds of each step of a session on a server of its own."""
    case = main_case(sizes)
    began = time.perf_counter()
    with stages.server(models, *KEEP) as running, running.connect() as client:
        started = time.perf_counter() - began

        def draw(lora: dict = {}, load: dict = {}) -> float:  # noqa: B006 (never changed)
            graph = GRAPHS[name](models, case, *next(prompts))
            graph["lora"]["inputs"].update(lora)
            graph["load"]["inputs"].update(load)
            return served.draw(client, graph, case.batch).seconds

        return {
            "the server's start": started,
            "the first picture": draw(),
            "the next": statistics.median(draw() for _ in STRENGTHS),
            "with another strength": statistics.median(draw(lora={"strength_model": s}) for s in STRENGTHS),
            "with another LCM-LoRA": draw(lora={"lora_name": OTHER_LORA}),
            "with another model": draw(load=other_model(name, models)),
            "with the first model again": draw(),
        }


def measure(models: Models, sizes: tuple[int, ...], prompts: Iterator) -> dict[str, dict[str, float]]:
    other_files(models)
    return {name: of(name, models, sizes, prompts) for name in (ACCELERATED, CORE)}
