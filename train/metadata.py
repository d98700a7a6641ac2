"""What a file says of itself, under the names that kohya's scripts and Stability's modelspec gave these things.

Nothing of it depends on when or where the run was, so that equal runs make equal files.
"""

import json
from argparse import Namespace
from collections import Counter

from .base import Base
from .data.dataset import Dataset

# By whether it is of SDXL's family: kohya's name of the base, and modelspec's of the architecture.
BASE_VERSION = {True: "sdxl_base_v1-0", False: "sd_v1"}
ARCHITECTURE = {True: "stable-diffusion-xl-v1-base", False: "stable-diffusion-v1"}
IMPLEMENTATION = "diffusers"


def of_lcm_lora(options: Namespace, base: Base) -> dict[str, str]:
    """Nothing of kohya's about pictures: by that a LoRA for a style is told."""
    return {
        **modelspec(options, base, f"{options.name} LCM-LoRA"),
        "modelspec.description": f"LCM-LoRA distilled from {base.path.name}: {options.method}, guidance scale "
        f"{1 + options.w_min:g} to {1 + options.w_max:g}",
    }


def of_model(options: Namespace, base: Base) -> dict[str, str]:
    """Of a whole checkpoint."""
    return modelspec(options, base, options.name, kind="")


def modelspec(options: Namespace, base: Base, title: str, kind: str = "/lora") -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ARCHITECTURE[base.is_xl] + kind,
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": title,
        "modelspec.resolution": f"{options.resolution}x{options.resolution}",
        "modelspec.prediction_type": "epsilon",
    }


def of_lora(options: Namespace, base: Base, dataset: Dataset, steps: int) -> dict[str, str]:
    pictures = dataset.pictures
    captions = {"pictures": dict(Counter(picture.caption for picture in pictures))}
    found = {
        "ss_base_model_version": BASE_VERSION[base.is_xl],
        "ss_sd_model_name": base.path.name,
        "ss_output_name": options.name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": options.rank,
        "ss_network_alpha": options.alpha,
        "ss_steps": steps,
        "ss_learning_rate": options.learning_rate,
        "ss_unet_lr": options.learning_rate,
        "ss_text_encoder_lr": options.text_encoder_lr if options.train_text_encoder else 0,
        "ss_lr_scheduler": options.lr_scheduler,
        "ss_total_batch_size": options.batch_size * options.gradient_accumulation_steps,
        "ss_mixed_precision": options.mixed_precision,
        "ss_min_snr_gamma": options.snr_gamma,
        "ss_noise_offset": options.noise_offset,
        "ss_caption_dropout_rate": options.caption_dropout,
        "ss_seed": options.seed,
        "ss_resolution": f"({options.resolution}, {options.resolution})",
        "ss_enable_bucket": True,
        "ss_num_train_images": sum(picture.repeats for picture in pictures),
        "ss_num_reg_images": options.num_class_images if options.class_prompt else 0,
        "ss_tag_frequency": json.dumps(captions, ensure_ascii=False),
    } | modelspec(options, base, options.name)
    if options.instance_prompt:
        found["modelspec.trigger_phrase"] = options.instance_prompt
    return {name: str(value) for name, value in found.items()}
