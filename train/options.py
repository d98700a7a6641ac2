"""The options of `python -m train`, in the words of diffusers' and kohya's scripts."""

import argparse
from pathlib import Path

from vega import file_names

# What kohya's networks.lora adapts: all of each attention block.
TARGET_MODULES = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
SCHEDULERS = ("constant", "cosine", "linear")
TIMESTEP_BIAS_STRATEGIES = ("none", "earlier", "later")
TIMESTEP_BIAS_MULTIPLIER, TIMESTEP_BIAS_PORTION = 1.0, 0.25  # by default, as in diffusers
METHODS = ("consistency", "trajectories")
OPTIMIZERS = ("adamw", "adafactor")
DEFAULT_W = 7.5  # w of the published LCM-LoRAs, the same for all bases
BASE = "a diffusers folder, a checkpoint file, or vega-nano"


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
    try:
        file_names.check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_data(command: argparse.ArgumentParser, optional: bool = False) -> None:
    help_text = f"a folder of pictures, or a .tar{'; without it, --prompts' if optional else ''}"
    command.add_argument("pictures", nargs="?" if optional else None, type=Path, help=help_text)
    command.add_argument("--resolution", type=at_least(64), help="side of a square of the buckets' area (the base's)")
    help_text = "further ones, at which each picture or prompt is learned as well"
    command.add_argument("--more-resolutions", nargs="+", action="extend", type=at_least(64), default=[], help=help_text)
    command.add_argument("--instance-prompt", default="", help="the caption of pictures that have none")


def add_training(command: argparse.ArgumentParser, result: str = "NAME.safetensors") -> None:
    """What every run has."""
    option = command.add_argument
    option("--name", required=True, type=file_name, help="of the run and of what it makes")
    option("--output-dir", type=Path, default=Path(), help=f"where {result} is written (here)")
    option("--work", type=Path, default=Path("vega-training"), help="where runs and caches are kept (vega-training)")
    option("--overwrite", action="store_true", help="replace a run of that name with other settings, and its file")
    option("--vae", type=Path, help="another autoencoder than the base's, a folder or a file")
    option("--steps", type=at_least(1), default=1500)
    option("--learning-rate", type=at_least(0, float), default=1e-4)
    option("--lr-scheduler", choices=SCHEDULERS, default="constant")
    option("--lr-warmup-steps", type=at_least(0), default=0)
    option("--use-8bit-adam", action="store_true", help="needs bitsandbytes")
    option("--batch-size", type=at_least(1), default=1, help="pictures at once, on each GPU")
    option("--gradient-accumulation-steps", type=at_least(1), default=4)
    option("--gradient-checkpointing", action="store_true", help="less memory for a third more time")
    option("--mixed-precision", choices=("no", "fp16", "bf16"), help="(bf16 on a GPU that has it, else no)")
    option("--max-grad-norm", type=at_least(0, float), default=1.0)
    option("--ema-decay", type=share, default=0.0, help="0: no moving average")
    option("--caption-dropout", type=share, default=0.05, help="share of captions that are left empty")
    option("--random-flip", action="store_true", help="mirror every second picture")
    option("--seed", type=at_least(0), default=0)
    option("--sample-prompts", nargs="+", action="extend", default=[], help="what is drawn now and then, into NAME/samples")
    option("--sample-every", type=at_least(1), default=200, help="steps; a multiple of --save-every")
    option("--save-every", type=at_least(1), default=100, help="steps")
    option("--report-to", choices=("tensorboard", "wandb"))
    option("--progress", choices=("text", "json"), default="text", help="json: one event a line, for programs")


def add_adapter(command: argparse.ArgumentParser) -> None:
    """What every run has that makes a LoRA."""
    add_training(command)
    command.add_argument("--rank", type=at_least(1), default=16)
    command.add_argument("--alpha", type=at_least(1e-3, float), help="scales the LoRA by alpha / rank (rank)")


def add_denoising(command: argparse.ArgumentParser) -> None:
    """What LoRA and fine-tuning have, whose objective is the noise in pictures."""
    option = command.add_argument
    option("--snr-gamma", type=at_least(0, float), default=5.0, help="of min-SNR weights; 0: none")
    help_text = "standard deviation of a shift of each channel's noise, 0.05 for example; 0: none"
    option("--noise-offset", type=at_least(0, float), default=0.0, help=help_text)
    help_text = "draw timesteps of much noise (later) or of little (earlier) more often"
    option("--timestep-bias-strategy", choices=TIMESTEP_BIAS_STRATEGIES, default="none", help=help_text)
    option("--timestep-bias-multiplier", type=at_least(0, float), default=TIMESTEP_BIAS_MULTIPLIER, help="how many times")
    option("--timestep-bias-portion", type=share, default=TIMESTEP_BIAS_PORTION, help="share of them")


def add_lora(command: argparse.ArgumentParser) -> None:
    command.add_argument("base", help=BASE)
    add_data(command)
    add_adapter(command)
    add_denoising(command)
    option = command.add_argument
    option("--target-modules", nargs="+", default=list(TARGET_MODULES), help="ends of the names of what is adapted")
    option("--train-text-encoder", action="store_true", help="adapt the text encoders as well")
    option("--text-encoder-lr", type=at_least(0, float), default=5e-6)
    option(
        "--class-prompt",
        nargs="+",
        action="extend",
        default=[],
        help="prior preservation: what the base must go on drawing, or @FILE, a prompt a line",
    )
    option("--num-class-images", type=at_least(1), default=100, help="that the base draws of it")
    option("--prior-loss-weight", type=at_least(0, float), default=1.0)
    help_text = "learn the base's own prediction of the class pictures instead of their noise"
    option("--prior-prediction", action="store_true", help=help_text)
    option("--lcm-lora", type=Path, help="an LCM-LoRA for the base, with which samples are drawn in four steps as well")


def add_lcm_lora(command: argparse.ArgumentParser) -> None:
    command.add_argument("base", help=BASE)
    add_data(command, optional=True)
    add_adapter(command)
    option = command.add_argument
    option("--prompts", type=Path, help="a text file with one prompt a line, to learn from instead of pictures")
    option("--method", choices=METHODS, help="(trajectories for fewer samples than the published recipe's 12,000)")
    option("--w-min", type=at_least(0, float), default=DEFAULT_W, help="least guidance of the teacher; its scale is 1 + w")
    option("--w-max", type=at_least(0, float), default=DEFAULT_W, help="largest guidance of the teacher")
    option("--unconditional", choices=("zeros", "empty"), help="what guidance compares with (as the base was trained)")
    option("--loss-type", choices=("huber", "l2"), default="huber")
    option("--score-prompts", type=at_least(0), default=16, help="that the score card is of, kept from training; 0: no card")
    command.set_defaults(rank=64, steps=1000, gradient_accumulation_steps=12, caption_dropout=0.0)


def add_unet(command: argparse.ArgumentParser) -> None:
    """What every run has that trains a whole UNet."""
    command.add_argument("base", help=BASE)
    add_data(command)
    add_training(command, "the folder NAME")
    help_text = "(adafactor on a GPU on which AdamW's moments would not fit, else adamw)"
    command.add_argument("--optimizer", choices=OPTIMIZERS, help=help_text)
    command.set_defaults(save_every=500, sample_every=1000, ema_decay=0.9999)


def add_finetune(command: argparse.ArgumentParser) -> None:
    add_unet(command)
    add_denoising(command)
    command.set_defaults(steps=10_000, learning_rate=1e-6)


def add_distill(command: argparse.ArgumentParser) -> None:
    add_unet(command)
    option = command.add_argument
    option("--to", required=True, help="what is kept: small-sd, tiny-sd, ssd-1b, vega, or a JSON file with a plan")
    option("--output-weight", type=at_least(0, float), default=0.5, help="of the distance to the base's prediction")
    option("--feature-weight", type=at_least(0, float), default=0.5, help="of the distances to its blocks' outputs")
    command.set_defaults(steps=50_000, learning_rate=1e-5)
