"""Makes vega-nano: `python -m train` runs every stage that is not done yet, `python -m train lcm-lora` just one."""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from . import autoencoder, block_removal, evaluation, lcm_lora, reader, text_encoders, text_to_image
from .export import LORA, export
from .fitting import whole
from .latents import Batches

NANO = Path(__file__).resolve().parents[1] / "vega" / "nano"
WORK = Path(__file__).resolve().parent / "work"
STEPS = {
    "autoencoder": 10000,
    "text-encoders": 300,
    "base": 3500,
    "direct": 2000,
    "teacher": 800,
    "student": 800,
    "lcm-lora": 1000,
    "decoder": 1500,
    "reader": 800,
}
# How the base is finished: by training it on, or by way of a larger teacher. Both take the same time.
ROUTES = {"direct": ("direct",), "block-removal": ("teacher", "student")}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=(*STEPS, "export", "evaluation"))
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints and intermediate files")
    parser.add_argument("--out", type=Path, default=NANO, help="the diffusers folder to write")
    parser.add_argument("--pictures", type=int, default=12000, help="pictures whose latents the base learns from")
    for stage, steps in STEPS.items():
        parser.add_argument(f"--{stage}-steps", type=int, default=steps)
    parser.add_argument("--route", choices=ROUTES, default="direct", help="how the base is finished")
    parser.add_argument("--prompts", type=int, default=512, help="held-out prompts that the evaluation draws")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)

    def run(stage: str, result: Path, train) -> None:
        if options.stage == stage or (options.stage is None and not result.exists()):
            losses = train(getattr(options, stage.replace("-", "_") + "_steps"))
            tenth = max(1, len(losses) // 10)
            first, last = torch.tensor(losses[:tenth]).mean(), torch.tensor(losses[-tenth:]).mean()
            print(f"{stage}: loss {first:.5f} -> {last:.5f} over {len(losses)} steps", flush=True)

    def batches() -> Batches:
        return Batches(work, NANO, options.pictures)

    run("autoencoder", work / "autoencoder", lambda n: autoencoder.train(work, n))
    run("text-encoders", work / "text_encoder_2", lambda n: text_encoders.train(work, NANO, n))
    run("base", work / "base", lambda n: text_to_image.train(work, batches(), n))
    finish = {"direct": text_to_image.train_on, "teacher": block_removal.train_teacher, "student": block_removal.distil}
    for stage, train in finish.items():
        if stage in ROUTES[options.route] or stage == options.stage:
            run(stage, work / stage, lambda n, train=train: train(work, batches(), n))
    if options.stage is None and not (work / "unet").exists():
        with whole(work / "unet") as unet:
            shutil.copytree(work / ROUTES[options.route][-1], unet)
    run("lcm-lora", work / LORA, lambda n: lcm_lora.distil(work, work / LORA, batches(), n, work))
    run("decoder", work / "autoencoder-refined", lambda n: autoencoder.refine_decoder(work, n))
    if options.stage in (None, "export"):
        export(work, options.out)
        for tokenizer in ("tokenizer", "tokenizer_2"):
            if options.out != NANO:
                shutil.copytree(NANO / tokenizer, options.out / tokenizer, dirs_exist_ok=True)
        print(f"exported to {options.out}")
    if options.stage in (None, "reader", "evaluation"):
        run("reader", work / "reader.pt", lambda n: reader.train(work, n))
    if options.stage == "evaluation" or (options.stage is None and not (work / "scores.json").exists()):
        print(evaluation.as_markdown(evaluation.evaluate(options.out, work, options.prompts)))


if __name__ == "__main__":
    main()
