"""diffusers' own DreamBooth script, run as it is, against our steps on what it learned from.

The script is in diffusers' repository, not in its package: DIFFUSERS_EXAMPLES names the folder examples/ of a clone, else
.host/diffusers/examples is looked into.
"""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
import training_files as files
from diffusers import DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer

from dev import diffusers_folders
from train import adapters
from train.base import NANO, open_base
from train.data.buckets import resize_and_crop
from train.denoising import Batch, denoising_loss, prior_preserving_loss
from train.diffusion import NOISE_SCHEDULE
from train.optimization import make_optimizer, schedule
from train.text_encoding import encode, tokenize
from train.training_loop import train

pytestmark = [pytest.mark.model, pytest.mark.soak]
ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = Path(os.environ.get("DIFFUSERS_EXAMPLES") or ROOT / ".host" / "diffusers" / "examples")
SCRIPT = EXAMPLES / "dreambooth" / "train_dreambooth_lora_sdxl.py"
SIDE, STEPS, RANK, RATE, GAMMA, WEIGHT = 64, 3, 4, 1e-2, 5.0, 0.7
PROMPT, CLASS_PROMPT = "a photo of sks dog", "a photo of a dog"
TARGETS = ("to_k", "to_q", "to_v", "to_out.0")  # the script's


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip(f"{SCRIPT} is not there: set DIFFUSERS_EXAMPLES to the folder examples/ of a clone of diffusers")
    spec = importlib.util.spec_from_file_location("example_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A whole folder of Segmind-Vega's block structure, with AutoencoderKL, as the script asks for."""
    folder = tmp_path_factory.mktemp("base")
    StableDiffusionXLPipeline(
        **diffusers_folders.modules("Segmind-Vega", "full"),
        tokenizer=CLIPTokenizer.from_pretrained(NANO / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(NANO / "tokenizer_2"),
        scheduler=DDPMScheduler(**NOISE_SCHEDULE),
    ).save_pretrained(folder)
    return folder


def theirs(script: ModuleType, base: Path, folder: Path, with_prior: bool, monkeypatch):
    """Runs it. The UNet that it trained, the LoRA that it began with, and what it noised in each step."""
    unets, noised = [], []
    add_adapter, add_noise = UNet2DConditionModel.add_adapter, DDPMScheduler.add_noise

    def remembering_adapter(unet, *given):
        add_adapter(unet, *given)
        unets.append((unet, {key: value.clone() for key, value in get_peft_model_state_dict(unet).items()}))

    def remembering_noise(scheduler, *given):
        noised.append(given)
        return add_noise(scheduler, *given)

    options = {"pretrained_model_name_or_path": base, "output_dir": folder / "out", "resolution": SIDE, "rank": RANK}
    options |= {"instance_data_dir": folder / "pictures", "instance_prompt": PROMPT, "train_batch_size": 1, "seed": 0}
    options |= {"max_train_steps": STEPS, "learning_rate": RATE, "lr_scheduler": "constant", "lr_warmup_steps": 0}
    options |= {"gradient_accumulation_steps": 1, "adam_weight_decay": 1e-2, "snr_gamma": GAMMA, "mixed_precision": "no"}
    flags = ["--center_crop"]
    if with_prior:
        options |= {"class_data_dir": folder / "class", "class_prompt": CLASS_PROMPT}
        options |= {"num_class_images": 1, "prior_loss_weight": WEIGHT}
        flags.append("--with_prior_preservation")
    script.args = script.parse_args([*(f"--{name}={value}" for name, value in options.items()), *flags])
    with monkeypatch.context() as patch:
        patch.setattr(UNet2DConditionModel, "add_adapter", remembering_adapter)
        patch.setattr(DDPMScheduler, "add_noise", remembering_noise)
        script.main(script.args)
    unet, began = unets[0]
    return get_peft_model_state_dict(unet), began, noised


def ours(base: Path, folder: Path, began: dict[str, torch.Tensor], noised: list[tuple]):
    """The same steps by our parts, from latents, noise and timesteps alone."""
    opened, scheduler = open_base(str(base)), DDPMScheduler(**NOISE_SCHEDULE)
    unet = opened.unet()
    groups = [{"params": adapters.add(unet, RANK, RANK, TARGETS), "lr": RATE}]
    set_peft_model_state_dict(unet, began)
    unet.train()
    with Image.open(folder / "pictures" / "0.png") as picture:
        crop = resize_and_crop(picture, (SIDE, SIDE), False)
    time_ids = torch.tensor([[*crop.original_size, *crop.crop_top_left, *crop.target_size]])
    with torch.no_grad():
        texts = [encode(opened.text_encoders(), tokenize(opened.tokenizers(), [text])) for text in (PROMPT, CLASS_PROMPT)]

    def compute_loss(number: int) -> torch.Tensor:
        latents, noise, timesteps = noised[number]
        parts = zip(latents.split(1), noise.split(1), timesteps.split(1), texts, strict=False)
        batches = [Batch(*part, time_ids) for part in parts]
        if len(batches) == 1:
            return denoising_loss(unet, scheduler, batches[0], GAMMA)
        return prior_preserving_loss(unet, scheduler, *batches, WEIGHT, GAMMA)

    learned = nn.ParameterList(groups[0]["params"])
    train(learned, compute_loss, make_optimizer(groups), schedule("constant", STEPS), folder / "ours", STEPS)
    return get_peft_model_state_dict(unet)


@pytest.mark.parametrize("with_prior", [False, True], ids=["LoRA", "prior"])
def test_steps_are_those_of_the_example_script(script, base, tmp_path, with_prior, monkeypatch, record_property):
    """Within fp32's rounding, of which Adam makes whole steps where a gradient is nearly zero: so by the norm."""
    for number, name in enumerate(("pictures", "class")):
        files.write(tmp_path / name, {"0.png": files.png(number, (96, 96))})
    expected, began, noised = theirs(script, base, tmp_path, with_prior, monkeypatch)
    found = ours(base, tmp_path, began, noised)
    assert found.keys() == expected.keys()
    far = sum((found[key] - expected[key]).square().sum() for key in expected).sqrt()
    moved = sum((began[key] - expected[key]).square().sum() for key in expected).sqrt()
    record_property("difference as a share of what was learned", f"{far / moved:.1e}")
    assert far < 1e-3 * moved
