"""The options of `python -m train lora`, in the words of diffusers' and kohya's scripts."""

import argparse
from pathlib import Path

# What kohya's networks.lora adapts: all of each attention block.
TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
SCHEDULERS = ("constant", "cosine", "linear")


def at_least(minimum: float, kind: type = int):
    def number(text: str):
        value = kind(text)
        if not value >= minimum or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is less than {minimum}" if value < minimum else f"{text} is no number")
        return value

    number.__name__ = kind.__name__
    return number


def share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


def file_name(text: str) -> str:
    if not text.strip() or set(text) & set('/\\:*?"<>|') or text.startswith(".") or text != text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} can't be a file's name on every system")
    return text


def add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("pictures", type=Path, help="a folder of pictures, or a .tar")
    command.add_argument("--resolution", type=at_least(64), help="side of a square of the buckets' area (the base's)")
    command.add_argument("--instance-prompt", default="", help="the caption of pictures that have none")


def add_lora(command: argparse.ArgumentParser) -> None:
    command.add_argument("base", help="a diffusers folder, a checkpoint file, or vega-nano")
    add_data(command)
    option = command.add_argument
    option("--name", required=True, type=file_name, help="of the run and of the file that it makes")
    option("--output-dir", type=Path, default=Path(), help="where NAME.safetensors is written (here)")
    option("--work", type=Path, default=Path("vega-training"), help="where runs and caches are kept (vega-training)")
    option("--overwrite", action="store_true", help="forget an earlier run of that name, and its file")
    option("--vae", type=Path, help="another autoencoder than the base's, a folder or a file")
    option("--rank", type=at_least(1), default=16)
    option("--alpha", type=at_least(1e-3, float), help="scales the LoRA by alpha / rank (rank)")
    option("--target-modules", nargs="+", default=list(TARGET_MODULES), help="ends of the names of what is adapted")
    option("--train-text-encoder", action="store_true", help="adapt the text encoders as well")
    option("--steps", type=at_least(1), default=1500)
    option("--learning-rate", type=at_least(0, float), default=1e-4)
    option("--text-encoder-lr", type=at_least(0, float), default=5e-6)
    option("--lr-scheduler", choices=SCHEDULERS, default="constant")
    option("--lr-warmup-steps", type=at_least(0), default=0)
    option("--use-8bit-adam", action="store_true", help="needs bitsandbytes")
    option("--batch-size", type=at_least(1), default=1, help="pictures at once, on each GPU")
    option("--gradient-accumulation-steps", type=at_least(1), default=4)
    option("--gradient-checkpointing", action="store_true", help="less memory for a third more time")
    option("--mixed-precision", choices=("no", "fp16", "bf16"), help="(bf16 on a GPU that has it, else no)")
    option("--max-grad-norm", type=at_least(0, float), default=1.0)
    option("--ema-decay", type=share, default=0.0, help="0: no moving average")
    option("--snr-gamma", type=at_least(0, float), default=5.0, help="of min-SNR weights; 0: none")
    option("--caption-dropout", type=share, default=0.05, help="share of captions that are left empty")
    option("--random-flip", action="store_true", help="mirror every second picture")
    option("--seed", type=at_least(0), default=0)
    option(
        "--class-prompt",
        nargs="+",
        default=[],
        help="prior preservation: what the base must go on drawing, or @FILE, a prompt a line",
    )
    option("--num-class-images", type=at_least(1), default=100, help="that the base draws of it")
    option("--prior-loss-weight", type=at_least(0, float), default=1.0)
    option("--sample-prompts", nargs="+", default=[], help="what is drawn now and then, into WORK/NAME/samples")
    option("--sample-every", type=at_least(1), default=200, help="steps; a multiple of --save-every")
    option("--lcm-lora", type=Path, help="an LCM-LoRA for the base, with which samples are drawn in four steps as well")
    option("--save-every", type=at_least(1), default=100, help="steps")
    option("--report-to", choices=("tensorboard", "wandb"))
    option("--progress", choices=("text", "json"), default="text", help="json: one event a line, for programs")
