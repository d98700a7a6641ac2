"""Makes vega-nano: `python -m train` runs every stage that is not done yet, `python -m train lcm-lora` just one."""

import argparse
import filecmp
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from diffusers import LCMScheduler
from diffusers.utils import logging as diffusers_logging

from . import autoencoder, block_removal, card, evaluation, lcm_lora, pictures, reader, text_encoders, text_to_image
from .export import LORA, export
from .fitting import whole
from .latents import Batches
from .text_to_image import show

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "vega" / "nano"
# How the base is finished: by training it on, or by way of a larger teacher. Both take about the same time.
ROUTES = {"direct": ("direct",), "block-removal": ("teacher", "student")}


def batches(options) -> Batches:
    return Batches(options.work, NANO, options.pictures)


def show_pictures(options) -> None:
    pictures.sheet(32).save(options.work / "pictures.png")
    print(f"see {options.work / 'pictures.png'}")


def choose_unet(options) -> None:
    with whole(options.work / "unet") as unet:
        shutil.copytree(options.work / STAGES[ROUTES[options.route][-1]].result, unet)


def distil(options) -> list[float]:
    learned_from = batches(options)

    def sample(unet, encoders):
        show(options.work / "lcm-lora.png", unet, encoders, learned_from.tokenizers, LCMScheduler, steps=4, guidance=1.0)

    work, steps = options.work, options.lcm_lora_steps
    return lcm_lora.distil(work, work / LORA, learned_from, steps, work, sample=sample)


def write(options) -> None:
    export(options.work, options.out)
    if options.out != NANO:
        for tokenizer in ("tokenizer", "tokenizer_2"):
            shutil.copytree(NANO / tokenizer, options.out / tokenizer, dirs_exist_ok=True)
    print(f"exported to {options.out}")


def evaluate(options) -> None:
    print(evaluation.as_markdown(evaluation.evaluate(options.out, options.work, options.prompts)))


class Stage(NamedTuple):
    result: str | Path  # in the working folder; a stage with a result is done
    needs: tuple[str, ...]  # stages
    run: Callable[[argparse.Namespace], list[float] | None]
    steps: int = 0  # by default; only a stage that trains has any, and returns the loss of each


STAGES = {
    "pictures": Stage("pictures.png", (), show_pictures),
    "autoencoder": Stage("autoencoder", (), lambda o: autoencoder.train(o.work, o.autoencoder_steps), 10000),
    "text-encoders": Stage("text_encoder_2", (), lambda o: text_encoders.train(o.work, NANO, o.text_encoders_steps), 300),
    "base": Stage(
        "base", ("autoencoder", "text-encoders"), lambda o: text_to_image.train(o.work, batches(o), o.base_steps), 3500
    ),
    "direct": Stage("direct", ("base",), lambda o: text_to_image.train_on(o.work, batches(o), o.direct_steps), 1000),
    "teacher": Stage("teacher", ("base",), lambda o: block_removal.train_teacher(o.work, batches(o), o.teacher_steps), 400),
    "student": Stage("student", ("teacher",), lambda o: block_removal.distil(o.work, batches(o), o.student_steps), 400),
    "unet": Stage("unet", (), choose_unet),
    "lcm-lora": Stage(LORA, ("autoencoder", "text-encoders", "unet"), distil, 3900),
    "decoder": Stage(
        "autoencoder-refined", ("autoencoder",), lambda o: autoencoder.refine_decoder(o.work, o.decoder_steps), 600
    ),
    "reader": Stage(reader.WEIGHTS, (), lambda o: reader.train(o.work, o.reader_steps), 800),
    "export": Stage("", ("text-encoders", "unet", "lcm-lora", "decoder", "reader"), write),
    "evaluation": Stage("scores.json", ("export",), evaluate),
    "card": Stage("", ("export", "evaluation"), lambda o: card.make(o.out, o.work)),
}


def needed(name: str, options: argparse.Namespace) -> dict[str, Path]:
    """The stages that `name` builds on, each with what it leaves behind."""
    needs = ROUTES[options.route][-1:] if name == "unet" else STAGES[name].needs
    return {n: options.out / reader.WEIGHTS if n == "export" else options.work / STAGES[n].result for n in needs}


def run(name: str, options: argparse.Namespace) -> None:
    """Runs one stage to its end, or says what it needs first."""
    for need, result in needed(name, options).items():
        if not result.exists():
            sys.exit(f"{name} needs {result}: run `python -m train {need}` first, or `python -m train` for all")
    losses = STAGES[name].run(options)
    if losses:
        tenth = max(min(3, len(losses)), len(losses) // 10)
        first, last = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
        print(f"{name}: loss {first:.5f} -> {last:.5f} over {len(losses)} steps", flush=True)


def everything(options) -> None:
    route = ROUTES[options.route]
    for name in ("autoencoder", "text-encoders", "base", *route, "unet", "lcm-lora", "decoder", "reader"):
        if not (options.work / STAGES[name].result).exists():
            run(name, options)
    chosen, finished = (options.work / name / "diffusion_pytorch_model.safetensors" for name in ("unet", route[-1]))
    if not filecmp.cmp(chosen, finished, shallow=False):
        sys.exit(
            f"{chosen.parent} is not {finished.parent}: to go on with the latter, delete the former "
            f"and {options.work / LORA.parent}"
        )
    run("export", options)
    if options.prompts:
        run("evaluation", options)


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def prompts(text: str) -> int:
    return 0 if text == "0" else at_least(2)(text)  # a distribution of one picture has no spread


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=STAGES)
    parser.add_argument("--work", type=Path, default=ROOT / "train" / "work", help="checkpoints and intermediate files")
    parser.add_argument("--out", type=Path, default=NANO, help="the diffusers folder to write")
    parser.add_argument("--pictures", type=at_least(1), default=12000, help="pictures whose latents the base learns from")
    for name, stage in STAGES.items():
        if stage.steps:
            parser.add_argument(f"--{name}-steps", type=at_least(1), default=stage.steps)
    parser.add_argument("--route", choices=ROUTES, default="direct", help="how the base is finished")
    parser.add_argument("--prompts", type=prompts, default=512, help="held-out prompts for the evaluation; 0: none")
    options = parser.parse_args(arguments)
    diffusers_logging.set_verbosity_error()
    for folder in (options.work, options.out):
        if folder.exists() and not folder.is_dir():
            parser.error(f"{folder} is a file; --work and --out are folders")
    options.work.mkdir(parents=True, exist_ok=True)
    if options.stage:
        run(options.stage, options)
    else:
        everything(options)


if __name__ == "__main__":
    main()
