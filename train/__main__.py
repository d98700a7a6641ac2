"""Makes vega-nano: `python -m train` runs every stage that is not done yet, `python -m train lcm-lora` just one."""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from . import autoencoder, classifier, evaluation, lcm_lora, text_encoders, text_to_image
from .export import LORA, export

NANO = Path(__file__).resolve().parents[1] / "vega" / "nano"
WORK = Path(__file__).resolve().parent / "work"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=("autoencoder", "base", "lcm-lora", "decoder", "export", "evaluation"))
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints and intermediate files")
    parser.add_argument("--out", type=Path, default=NANO, help="the diffusers folder to write")
    parser.add_argument("--pictures", type=int, default=4000, help="pictures whose latents the base learns from")
    parser.add_argument("--autoencoder-steps", type=int, default=900)
    parser.add_argument("--base-steps", type=int, default=900)
    parser.add_argument("--lcm-lora-steps", type=int, default=190)
    parser.add_argument("--decoder-steps", type=int, default=1200)
    parser.add_argument("--classifier-steps", type=int, default=700)
    parser.add_argument("--prompts", type=int, default=96, help="held-out prompts that the evaluation draws")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    options.work.mkdir(parents=True, exist_ok=True)

    def wanted(stage: str, result: Path) -> bool:
        if options.stage == stage:
            return True
        return options.stage is None and not result.exists()

    if wanted("autoencoder", options.work / "autoencoder"):
        report("autoencoder", autoencoder.train(options.work, options.autoencoder_steps))
    if wanted("base", options.work / "base"):
        report("base", text_to_image.train(options.work, NANO, options.base_steps, options.pictures))
    if wanted("lcm-lora", options.work / LORA):
        latents = text_to_image.encode_pictures(options.work, options.pictures)
        tokenizers = text_encoders.load_tokenizers(NANO)

        def batch_of(step, size):
            return text_to_image.batch_of(step, size, latents, tokenizers)

        losses = lcm_lora.distil(options.work / "base", options.work / LORA, batch_of, options.lcm_lora_steps, options.work)
        report("lcm-lora", losses)
    if wanted("decoder", options.work / "autoencoder-refined"):
        report("decoder", autoencoder.refine_decoder(options.work, options.decoder_steps))
    if options.stage in (None, "export"):
        export(options.work, options.out)
        for tokenizer in ("tokenizer", "tokenizer_2"):
            if options.out != NANO:
                shutil.copytree(NANO / tokenizer, options.out / tokenizer, dirs_exist_ok=True)
        print(f"exported to {options.out}")
    if wanted("evaluation", options.work / "scores.json"):
        if not (options.work / "classifier.pt").exists():
            report("classifier", classifier.train(options.work, options.classifier_steps))
        print(evaluation.table(evaluation.evaluate(options.out, options.work, options.prompts)))


def report(stage: str, losses: list[float]) -> None:
    """Prints the mean loss of the first and the last tenth of a stage's steps in this run."""
    tenth = max(1, len(losses) // 10)
    first, last = torch.tensor(losses[:tenth]).mean(), torch.tensor(losses[-tenth:]).mean()
    print(f"{stage}: loss {first:.5f} -> {last:.5f} over {len(losses)} steps", flush=True)


if __name__ == "__main__":
    main()
