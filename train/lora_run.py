"""`python -m train lora`: a LoRA of a style or a subject for any base, and DreamBooth with prior preservation."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from accelerate.utils import set_seed
from diffusers import DDPMScheduler
from torch import nn

from . import adapters, dataset_check, metadata, prior, timesteps
from .base import NANO, NANO_LCM_LORA
from .data.dataset import Dataset
from .denoising import denoising_loss, prior_preserving_loss
from .diffusion import NOISE_SCHEDULE
from .examples import EncodedTexts, Examples
from .optimization import make_optimizer
from .training_run import TrainingRun, dataset_fingerprint

SEED_OF_PRIOR = 1  # added to the run's: class pictures are not in step with the others


def run(options: Namespace) -> None:
    check(options)
    options.alpha = options.alpha or float(options.rank)
    training = TrainingRun(options)
    dataset = dataset_check.load(options, quiet=not training.is_main)
    training.events.send("pictures", count=len(dataset.pictures), left_out=dataset.left_out)
    checked = LoraRun(training, dataset)
    training.begin(dataset_fingerprint(dataset))
    checked.run()


def check(options: Namespace) -> None:
    """ValueError for options that would do nothing."""
    timesteps.check(options)
    if options.prior_prediction and not options.class_prompt:
        raise ValueError("--prior-prediction needs class pictures: give --class-prompt, or leave --prior-prediction out.")


class LoraRun:
    """A run from pictures to the file; what is done, in the order of `run`. ValueError for what could not be used."""

    def __init__(self, training: TrainingRun, dataset: Dataset):
        self.training, self.dataset, self.options = training, dataset, training.options
        self.scheduler = DDPMScheduler(**NOISE_SCHEDULE)
        base, device = training.base, training.device
        self.encoders = base.text_encoders(training.dtype) if self.options.train_text_encoder else []
        encoders = [encoder.to(device) for encoder in self.encoders]
        # What the UNet is given: from the cache, unless the encoders learn.
        self.texts = EncodedTexts(encoders, training.tokenizers) if encoders else training.cached_texts()
        self.lcm_lora = self.options.lcm_lora or (NANO_LCM_LORA if base.path == NANO else None)
        if self.lcm_lora and not self.lcm_lora.is_file():
            raise ValueError(f"--lcm-lora {self.lcm_lora} is no file.")
        training.on_main_process(training.open_vae)

    def run(self) -> None:
        training = self.training
        examples = training.examples(self.dataset, self.texts)
        training.on_main_process(partial(self.fill_caches, examples))
        unet = training.unet()
        class_examples = self.prior(unet) if self.options.class_prompt else None
        optimizer = make_optimizer(self.add_adapters(unet), self.options.use_8bit_adam)
        compute_loss = self.objective(unet, examples, class_examples)
        draw_samples = partial(training.draw_samples, unet, self.texts, self.lcm_lora)
        losses = training.optimize(unet, optimizer, compute_loss, draw_samples)
        about = metadata.of_lora(self.options, training.base, self.dataset, len(losses))
        training.on_main_process(lambda: training.save_lora(unet, self.encoders, about, losses))
        training.on_main_process(lambda: training.check_lora(unet, self.encoders))

    def fill_caches(self, examples: Examples) -> None:
        self.training.fill_latents(examples)
        if not self.encoders:
            captions = ["", *(picture.caption for picture in examples.pictures)]
            captions += [*self.options.class_prompt, *self.options.sample_prompts]
            self.training.fill_texts(self.texts, captions)

    def prior(self, unet: nn.Module) -> Examples:
        """The class pictures, drawn where they are missing."""
        training, directory = self.training, self.training.folder.class_pictures
        prompts, count = self.options.class_prompt, self.options.num_class_images
        with training.accelerator.autocast():
            make_sampler = partial(training.sampler, unet, self.texts)
            training.on_main_process(lambda: prior.draw(directory, prompts, count, make_sampler, training.events))
        # Not at others, at which what the base drew would be resized.
        class_pictures, drawn_at = prior.dataset(directory, prompts, count), [self.options.resolution]
        examples = training.examples(class_pictures, self.texts, SEED_OF_PRIOR, resolutions=drawn_at)
        training.on_main_process(partial(self.fill_caches, examples))
        return examples

    def add_adapters(self, unet: nn.Module) -> list[dict]:
        """The optimizer's groups of parameters: the UNet's LoRA, and that of the text encoders where they learn."""
        set_seed(self.options.seed)
        rank, alpha = self.options.rank, self.options.alpha
        targets = tuple(self.options.target_modules)
        groups = [{"params": adapters.add(unet, rank, alpha, targets), "lr": self.options.learning_rate}]
        for encoder in self.encoders:
            learned = adapters.add(encoder, rank, alpha, adapters.TEXT_TARGET_MODULES)
            groups.append({"params": learned, "lr": self.options.text_encoder_lr})
        return groups

    def objective(self, unet: nn.Module, examples: Examples, classes: Examples | None) -> Callable[[int], torch.Tensor]:
        gamma, weight = self.options.snr_gamma, self.options.prior_loss_weight

        def compute_loss(number: int) -> torch.Tensor:
            batch = examples(number)
            if classes is None:
                return denoising_loss(unet, self.scheduler, batch, gamma)
            class_batch, target = classes(number), None
            if self.options.prior_prediction:
                # Encoders that learn are asked again, as what they were.
                make_batch = partial(classes, number) if self.encoders else lambda: class_batch
                target = prior.base_prediction(unet, self.encoders, self.scheduler, make_batch)
            return prior_preserving_loss(unet, self.scheduler, batch, class_batch, weight, gamma, target)

        return compute_loss
