"""`python -m train finetune`: the whole UNet of a base, trained on pictures as the base was."""

from argparse import Namespace

from diffusers import DDPMScheduler

from . import timesteps
from .denoising import denoising_loss
from .diffusion import NOISE_SCHEDULE
from .full_unet import FullUnetRun, start
from .student_unet import on_meta


def run(options: Namespace) -> None:
    timesteps.check(options)
    training = start(options)
    scheduler = DDPMScheduler(**NOISE_SCHEDULE)

    def prepare():
        unet = training.unet(training.trainable_dtype)
        return unet, lambda batch: denoising_loss(unet, scheduler, batch, options.snr_gamma)

    FullUnetRun(training, on_meta(training.base.config).num_parameters()).run(prepare, in_one_file=True)
