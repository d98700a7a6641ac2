"""Every variant draws every case, in random order, again and again."""

import io
import itertools
import random
import statistics
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image
from tqdm import tqdm

from .machine import BF16_ARITHMETIC, GPU, Case
from .variants import BF16, COMPILED_VARIANTS, GPU_VARIANTS, VariantError

MAX_ROUNDS = 100
SCENES = (
    "a red sunset over snowy mountains",
    "a pink dawn over pine trees",
    "night, desert, full moon",
    "a lake at noon",
)


def unique_prompts() -> Iterator[tuple[str, int]]:
    """(text, seed) without end, each once: nothing that was worked out for one helps with the next."""
    for number in itertools.count():
        yield f"{SCENES[number % len(SCENES)]}, number {number}", 1000 + number


def plan_jobs(names: list[str], cases: list[Case]) -> tuple[list[tuple[str, Case]], dict[str, str]]:
    """What is to be drawn by whom, the main case first; and what is left out, with the reason."""
    left_out = {name: "CUDA graphs and Triton need a GPU" for name in names if name in GPU_VARIANTS and not GPU}
    if BF16 in names and not BF16_ARITHMETIC:
        left_out[BF16] = "the models are on a device without bf16 arithmetic of its own, or on a GPU"
    jobs = []
    for name in names:
        if name not in left_out:
            # A compiler takes minutes for each size on a CPU.
            jobs += [(name, case) for case in (cases[:1] if name in COMPILED_VARIANTS and not GPU else cases)]
    return jobs, left_out


def warm_up(variants: dict, jobs: list, prompts: Iterator) -> tuple[dict, dict[str, str]]:
    """Seconds of each job's first drawing, loading and compiling in it, and why variants failed; pictures are checked."""
    first, failed = {}, {}
    for name, case in tqdm(jobs, desc="first pictures", unit="prompt"):
        if name in failed:
            continue
        try:
            drawing = variants[name].draw(case, *next(prompts))
        except VariantError as error:
            failed[name] = str(error)
            continue
        check_pictures(drawing.pictures, case, name)
        first[name, case] = drawing.seconds
    return first, failed


def check_pictures(pictures: list[bytes], case: Case, name: str) -> None:
    """RuntimeError unless these are the case's pictures and something is on them: NaN makes them black."""
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(picture)))
        if pixels.shape[:2] != (case.size, case.size) or pixels.std() < 1:
            raise RuntimeError(f"{name} drew an empty picture, or one of {pixels.shape} for {case}: its time means nothing.")


def measure(variants: dict, jobs: list, prompts: Iterator, seconds: float) -> dict[tuple[str, Case], list[float]]:
    """Seconds of every drawing: rounds of all jobs, each in another order, as many as the time allows, at least one."""
    times = {job: [] for job in jobs}
    began, took = time.monotonic(), 0.0
    for _ in tqdm(range(MAX_ROUNDS), desc="rounds", unit="round"):
        since = time.monotonic()
        if since + took > began + seconds:
            break
        for name, case in random.sample(jobs, len(jobs)):
            times[name, case].append(variants[name].draw(case, *next(prompts)).seconds)
        took = time.monotonic() - since
    return times


def summarize(times: list[float]) -> dict[str, float]:
    """n, and in milliseconds the least, the median and the 95th percentile."""
    least, *_ = ordered = sorted(times)
    return {
        "n": len(times),
        "min_ms": 1000 * least,
        "p50_ms": 1000 * statistics.median(ordered),
        "p95_ms": 1000 * float(np.percentile(ordered, 95)),
    }
