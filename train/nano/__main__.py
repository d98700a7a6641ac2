"""Makes vega-nano: `python -m train.nano` runs every stage that is not done yet, `... lcm-lora` only one."""

import argparse
import filecmp
import shutil
import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import LCMScheduler
from diffusers.utils import logging as diffusers_logging

from ..files import atomic_write
from . import autoencoder, base_unet, block_removal, classifier, evaluation, lcm_lora, model_card, text_encoders
from .export import LORA, export
from .latents import LatentBatches
from .sample_sheet import write_contact_sheet, write_sample_sheet
from .start import INITIAL_LORA, start_from

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "vega" / "nano"
# How the base is finished: by continued training, or by distilling a larger teacher. Both take about the same time.
ROUTES = {"direct": ("direct",), "block-removal": ("teacher", "student")}


def load_batches(options) -> LatentBatches:
    return LatentBatches(options.work, NANO, options.pictures)


def choose_unet(options) -> None:
    with atomic_write(options.work / "unet") as unet:
        shutil.copytree(options.work / STAGES[ROUTES[options.route][-1]].result, unet)


def distil(options) -> list[float]:
    batches = load_batches(options)

    def log_samples(unet, encoders):
        file = options.work / "lcm-lora.png"
        write_sample_sheet(file, unet, encoders, batches.tokenizers, LCMScheduler, steps=4, guidance=1.0)

    work, steps = options.work, options.lcm_lora_steps
    initial = work / INITIAL_LORA if (work / INITIAL_LORA).exists() else None
    return lcm_lora.distil(work, work / LORA, batches, steps, work, log_samples=log_samples, initial=initial)


def write_export(options) -> None:
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
    "pictures": Stage("pictures.png", (), lambda o: write_contact_sheet(o.work / "pictures.png")),
    "autoencoder": Stage("autoencoder", (), lambda o: autoencoder.train(o.work, o.autoencoder_steps), 10000),
    "sharpening": Stage(
        "autoencoder-sharp", ("autoencoder",), lambda o: autoencoder.sharpen(o.work, o.sharpening_steps), 9000
    ),
    "text-encoders": Stage("text_encoder_2", (), lambda o: text_encoders.train(o.work, NANO, o.text_encoders_steps), 300),
    "base": Stage(
        "base", ("sharpening", "text-encoders"), lambda o: base_unet.train(o.work, load_batches(o), o.base_steps), 3500
    ),
    "direct": Stage(
        "direct", ("base",), lambda o: base_unet.continue_training(o.work, load_batches(o), o.direct_steps), 3800
    ),
    "teacher": Stage(
        "teacher", ("base",), lambda o: block_removal.train_teacher(o.work, load_batches(o), o.teacher_steps), 400
    ),
    "student": Stage("student", ("teacher",), lambda o: block_removal.distil(o.work, load_batches(o), o.student_steps), 400),
    "unet": Stage("unet", (), choose_unet),
    "lcm-lora": Stage(LORA, ("sharpening", "text-encoders", "unet"), distil, 3900),
    "classifier": Stage(classifier.WEIGHTS, (), lambda o: classifier.train(o.work, o.classifier_steps), 800),
    "export": Stage("", ("text-encoders", "unet", "lcm-lora", "classifier"), write_export),
    "evaluation": Stage("scores.json", ("export",), evaluate),
    "card": Stage("", ("export", "evaluation"), lambda o: model_card.write(o.out, o.work)),
}


def needs(name: str, options: argparse.Namespace) -> tuple[str, ...]:
    """The stages whose results `name` builds on."""
    return ROUTES[options.route][-1:] if name == "unet" else STAGES[name].needs


def result_of(name: str, options: argparse.Namespace) -> Path:
    """The file or folder whose existence says that the stage is done."""
    return options.out / classifier.WEIGHTS if name == "export" else options.work / STAGES[name].result


def run(name: str, options: argparse.Namespace) -> None:
    """Runs one stage to its end, or says what it needs first."""
    for need in needs(name, options):
        if not (result := result_of(need, options)).exists():
            sys.exit(f"{name} needs {result}: run `python -m train.nano {need}` first, or `python -m train.nano` for all")
    losses = STAGES[name].run(options)
    if losses:
        tenth = max(min(3, len(losses)), len(losses) // 10)
        first, last = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
        print(f"{name}: loss {first:.5f} -> {last:.5f} over {len(losses)} steps", flush=True)


def stages_of_export(options) -> list[str]:
    """Everything that the export is made of, in an order in which each stage comes after its needs."""
    graph, pending = {}, ["export"]
    while pending:
        name = pending.pop()
        graph[name] = needs(name, options)
        pending += graph[name]
    return [name for name in TopologicalSorter(graph).static_order() if name != "export"]


def run_all(options) -> None:
    for name in stages_of_export(options):
        if not result_of(name, options).exists():
            run(name, options)
    finished = ROUTES[options.route][-1]
    chosen, finished = (options.work / name / "diffusion_pytorch_model.safetensors" for name in ("unet", finished))
    if not filecmp.cmp(chosen, finished, shallow=False):
        sys.exit(
            f"{chosen.parent} is not {finished.parent}: to go on with the latter, delete the former "
            f"and {options.work / LORA.parent}"
        )
    run("export", options)
    if options.prompts:
        run("evaluation", options)


def at_least(minimum: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} is less than {minimum}")
        return int(text)

    return number


def prompt_count(text: str) -> int:
    return 0 if text == "0" else at_least(2)(text)  # a distribution of one picture has no spread


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.nano", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=STAGES)
    parser.add_argument("--work", type=Path, default=ROOT / "train" / "work", help="checkpoints and intermediate files")
    parser.add_argument("--out", type=Path, default=NANO, help="the diffusers folder to write")
    parser.add_argument("--start", type=Path, help="a diffusers folder of vega-nano whose parts are trained on")
    parser.add_argument("--pictures", type=at_least(1), default=6000, help="pictures whose latents the base learns from")
    for name, stage in STAGES.items():
        if stage.steps:
            parser.add_argument(f"--{name}-steps", type=at_least(1), default=stage.steps)
    parser.add_argument("--route", choices=ROUTES, default="direct", help="how the base is finished")
    parser.add_argument("--prompts", type=prompt_count, default=512, help="held-out prompts for the evaluation; 0: none")
    options = parser.parse_args(arguments)
    diffusers_logging.set_verbosity_error()
    for folder in (options.work, options.out):
        if folder.exists() and not folder.is_dir():
            parser.error(f"{folder} is a file; --work and --out are folders")
    options.work.mkdir(parents=True, exist_ok=True)
    if options.start and not (options.start / "unet").is_dir():
        parser.error(f"--start {options.start} is no diffusers folder: it has no folder unet")
    if options.start:
        start_from(options.start, options.work)
    if options.stage:
        run(options.stage, options)
    else:
        run_all(options)


if __name__ == "__main__":
    # The momentum of channels that have died decays into denormal numbers, with which a CPU computes many times slower.
    torch.set_flush_denormal(True)
    main()
