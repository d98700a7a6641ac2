"""Makes vega-nano: `python -m train` runs every stage that is not done yet, `python -m train lcm-lora` just one."""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from diffusers.utils import logging as diffusers_logging

from . import autoencoder, block_removal, card, evaluation, lcm_lora, pictures, reader, text_encoders, text_to_image
from .export import LORA, export
from .fitting import whole
from .latents import Batches

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "vega" / "nano"
# How the base is finished: by training it on, or by way of a larger teacher. Both take about the same time.
ROUTES = {"direct": "direct", "block-removal": "student"}


class Stage(NamedTuple):
    steps: int
    result: Path  # in the working folder; a stage with a result is done
    needs: tuple[str, ...]
    train: Callable[[argparse.Namespace, int], list[float]]


def batches(options) -> Batches:
    return Batches(options.work, NANO, options.pictures)


STAGES = {
    "autoencoder": Stage(10000, Path("autoencoder"), (), lambda o, n: autoencoder.train(o.work, n)),
    "text-encoders": Stage(300, Path("text_encoder_2"), (), lambda o, n: text_encoders.train(o.work, NANO, n)),
    "base": Stage(
        3500,
        Path("base"),
        ("autoencoder", "text-encoders"),
        lambda o, n: text_to_image.train(o.work, batches(o), n),
    ),
    "direct": Stage(2000, Path("direct"), ("base",), lambda o, n: text_to_image.train_on(o.work, batches(o), n)),
    "teacher": Stage(800, Path("teacher"), ("base",), lambda o, n: block_removal.train_teacher(o.work, batches(o), n)),
    "student": Stage(800, Path("student"), ("teacher",), lambda o, n: block_removal.distil(o.work, batches(o), n)),
    "lcm-lora": Stage(
        1000,
        LORA,
        ("autoencoder", "text-encoders", "unet"),
        lambda o, n: lcm_lora.distil(o.work, o.work / LORA, batches(o), n, o.work),
    ),
    "decoder": Stage(
        1500, Path("autoencoder-refined"), ("autoencoder",), lambda o, n: autoencoder.refine_decoder(o.work, n)
    ),
    "reader": Stage(800, Path("reader.pt"), (), lambda o, n: reader.train(o.work, n)),
}


def run(name: str, options: argparse.Namespace) -> None:
    """Trains one stage to its end, or says what it needs first."""
    stage = STAGES[name]
    for need in stage.needs:
        result = STAGES[need].result if need in STAGES else Path(need)
        if not (options.work / result).exists():
            sys.exit(
                f"{name} needs {options.work / result}: run `python -m train {need}` first, or `python -m train` for all"
            )
    losses = stage.train(options, getattr(options, name.replace("-", "_") + "_steps"))
    tenth = max(min(3, len(losses)), len(losses) // 10)
    print(
        f"{name}: loss {np.mean(losses[:tenth]):.5f} -> {np.mean(losses[-tenth:]):.5f} over {len(losses)} steps", flush=True
    )


def show_pictures(options) -> None:
    options.work.mkdir(parents=True, exist_ok=True)
    pictures.sheet(32).save(options.work / "pictures.png")
    print(f"see {options.work / 'pictures.png'}")


def choose_unet(options) -> None:
    with whole(options.work / "unet") as unet:
        shutil.copytree(options.work / STAGES[ROUTES[options.route]].result, unet)


def write(options) -> None:
    export(options.work, options.out)
    if options.out != NANO:
        for tokenizer in ("tokenizer", "tokenizer_2"):
            shutil.copytree(NANO / tokenizer, options.out / tokenizer, dirs_exist_ok=True)
    print(f"exported to {options.out}")


def evaluate(options) -> None:
    print(evaluation.as_markdown(evaluation.evaluate(options.out, options.work, options.prompts)))


OTHERS = {
    "pictures": show_pictures,
    "unet": choose_unet,
    "export": write,
    "evaluation": evaluate,
    "card": lambda o: card.make(o.out, o.work),
}


def everything(options) -> None:
    finish = ("teacher", "student") if options.route == "block-removal" else ("direct",)
    for name in ("autoencoder", "text-encoders", "base", *finish, "unet", "lcm-lora", "decoder", "reader"):
        if name == "unet":
            if not (options.work / name).exists():
                choose_unet(options)
        elif not (options.work / STAGES[name].result).exists():
            run(name, options)
    write(options)
    if options.prompts and not (options.work / "scores.json").exists():
        evaluate(options)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=(*STAGES, *OTHERS))
    parser.add_argument("--work", type=Path, default=ROOT / "train" / "work", help="checkpoints and intermediate files")
    parser.add_argument("--out", type=Path, default=NANO, help="the diffusers folder to write")
    parser.add_argument("--pictures", type=int, default=12000, help="pictures whose latents the base learns from")
    for name, stage in STAGES.items():
        parser.add_argument(f"--{name}-steps", type=int, default=stage.steps)
    parser.add_argument("--route", choices=ROUTES, default="direct", help="how the base is finished")
    parser.add_argument("--prompts", type=int, default=512, help="held-out prompts for the evaluation; 0: none")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage is None:
        everything(options)
    elif options.stage in STAGES:
        run(options.stage, options)
    else:
        OTHERS[options.stage](options)


if __name__ == "__main__":
    main()
