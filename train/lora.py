"""`python -m train lora`: a LoRA of a style or a subject for any base, and DreamBooth with prior preservation."""

from argparse import Namespace
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import is_tensorboard_available, is_wandb_available
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from . import inspect
from .base import Base, open_base
from .cache import key_of
from .data.dataset import Dataset
from .events import Events
from .lora_run import LoraRun
from .optimization import adamw_8bit
from .run_folder import RunFolder

TRACKERS = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


def run(options: Namespace) -> None:
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    base = open_base(options.base)
    options.resolution = options.resolution or base.resolution
    options.alpha = options.alpha or float(options.rank)
    folder = RunFolder(options.work, options.name, options.output_dir)
    accelerator = make_accelerator(options, folder)
    events = Events(options.progress == "json" and accelerator.is_main_process, options.steps)
    dataset = inspect.load(options, quiet=not accelerator.is_main_process)
    if accelerator.is_main_process:
        folder.begin(settings(options, base, dataset, accelerator.num_processes), options.overwrite)
    accelerator.wait_for_everyone()
    LoraRun(options, base, dataset, folder, accelerator, events).run()


def make_accelerator(options: Namespace, folder: RunFolder) -> Accelerator:
    """Accelerate's, in the precision that is asked for; ValueError for what this machine or installation lacks."""
    if options.report_to and not TRACKERS[options.report_to]():
        raise ValueError(f"--report-to {options.report_to} needs it: pip install {options.report_to}, or leave it out.")
    if options.use_8bit_adam:
        adamw_8bit()  # now, and not after an hour of latents
    cuda = torch.cuda.is_available()
    options.mixed_precision = options.mixed_precision or ("bf16" if cuda and torch.cuda.is_bf16_supported() else "no")
    if options.mixed_precision == "fp16" and not cuda:
        raise ValueError("--mixed-precision fp16 needs a GPU: leave it out, or give bf16.")
    return Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=options.report_to,
        project_dir=folder.folder,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=2))],  # the others wait while one fills the cache
    )


def settings(options: Namespace, base: Base, dataset: Dataset, processes: int) -> dict:
    """What a run is made of: its options, and what they stand for in files."""
    chosen = {name: value for name, value in vars(options).items() if name not in ("run", "command", "pictures", "base")}
    content = key_of(*((p.name, p.digest, p.caption, p.repeats) for p in dataset.pictures))[:12]
    return {**chosen, "base": base.fingerprint, "pictures": content, "processes": processes}
