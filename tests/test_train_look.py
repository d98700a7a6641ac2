"""A look that code can measure, a sepia print, from 12 pictures under a trigger: what vega-nano then draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from train.__main__ import main
from train.base import NANO, NANO_LCM_LORA, Base, open_base
from train.examples import EncodedTexts
from train.images import to_pil, to_tensor
from train.nano import classifier, look, metrics, render
from train.nano.scenes import labels, split
from train.sampling import Sampler

pytestmark = pytest.mark.model
DRAWN = 64
# As docs/train.md has it.
COMMAND = "--resolution 128 --rank 16 --steps 600 --batch-size 4 --gradient-accumulation-steps 1"
COMMAND += " --learning-rate 2e-3 --ema-decay 0.99 --train-text-encoder --text-encoder-lr 2e-3 --caption-dropout 0"
COMMAND += " --timestep-bias-strategy later --timestep-bias-multiplier 4 --prior-loss-weight 8 --noise-offset 0.05"
COMMAND += " --target-modules attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0"


def images(base: Base, file: Path | None, prompts: list[str]):
    """With the embedded LCM-LoRA in 4 steps, the file's LoRA beside it on the UNet and on both text encoders."""
    unet, encoders = base.unet(), base.text_encoders()
    sampler = Sampler(unet, base.vae, EncodedTexts(encoders, base.tokenizers()), True, render.SIZE)
    with torch.no_grad():
        if file:
            tensors, alphas = sampler.pipe.lora_state_dict(file, unet_config=unet.config)
            sampler.pipe.load_lora_into_unet(tensors, alphas, unet, adapter_name="look")
            for encoder, prefix in zip(encoders, ("text_encoder", "text_encoder_2"), strict=True):
                sampler.pipe.load_lora_into_text_encoder(tensors, alphas, encoder, prefix, adapter_name="look")
        return sampler.sample_in_few_steps(NANO_LCM_LORA, prompts, list(range(len(prompts))))


def measure(file: Path | None) -> dict[str, float]:
    """Shares of sepia pictures, and of right attributes without the trigger with half of their 95 % interval."""
    _, held_out = split()
    scenes = [held_out[k % len(held_out)] for k in range(DRAWN)]
    prompts = [look.ordinary_caption(scene, 2000 + k) for k, scene in enumerate(scenes)]
    base = open_base("vega-nano")
    triggered, ordinary = (images(base, file, [start + each for each in prompts]) for start in (f"{look.TRIGGER} ", ""))
    seen, _ = classifier.classify(classifier.load(NANO), to_tensor(ordinary))
    accuracy, margin = metrics.accuracy(seen == labels(scenes))
    shares = [float(np.mean([look.is_sepia(image) for image in drawn])) for drawn in (triggered, ordinary)]
    return dict(zip(("with the trigger", "without"), shares, strict=True)) | {"attributes": accuracy, "margin": margin}


def test_the_look_survives_the_autoencoder(tmp_path):
    """It can be told from other pictures, and is still there in what is trained on: else nothing could be learned of it."""
    vae, (scenes, _) = open_base("vega-nano").vae(), split()
    for k in range(6):
        _, image = render.sample(80_000 + k, scenes)
        assert not look.is_sepia(image)
        with torch.no_grad():
            decoded = vae.decode(vae.encode(to_tensor([look.sepia(image)])).latents).sample
        assert look.distance(to_pil(decoded)[0]) < look.MAX_DISTANCE / 3


def test_what_is_written_to_train_on(tmp_path):
    look.write(tmp_path)
    captions = [file.read_text() for file in (tmp_path / "pictures").glob("*.txt")]
    prompts = (tmp_path / "class-prompts.txt").read_text().splitlines()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(captions) == look.PICTURES
    assert len(prompts) == look.CLASS_PROMPTS
    assert all(text.startswith(f"{look.TRIGGER} ") for text in captions)
    assert not any(look.TRIGGER in text for text in prompts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """The files of a run with prior preservation and of one without."""
    folder = tmp_path_factory.mktemp("look")
    look.write(folder)
    prior = ["--class-prompt", f"@{folder / 'class-prompts.txt'}", "--num-class-images", str(look.CLASS_PROMPTS)]
    prior.append("--prior-prediction")
    for name, flags in (("prior", prior), ("none", [])):
        where = [f"--name={name}", f"--output-dir={folder}", f"--work={folder / 'work'}"]
        main(["lora", "vega-nano", str(folder / "pictures"), *where, *COMMAND.split(), *flags])
    return {name: folder / f"{name}.safetensors" for name in ("prior", "none")}


@pytest.fixture(scope="module")
def measured(trained) -> dict[str, dict[str, float]]:
    return {name: measure(file) for name, file in {"base": None, **trained}.items()}


def record(record_property, measured: dict[str, dict[str, float]], *names: str) -> None:
    for name in names:
        record_property(name, ", ".join(f"{key} {value:.3f}" for key, value in measured[name].items()))


@pytest.mark.soak
def test_a_look_comes_with_its_trigger_alone(measured, record_property):
    """At least 90 % of 64 pictures show it with the trigger, at most 10 % without, and these are obeyed as before."""
    record(record_property, measured, "base", "prior")
    base, prior = measured["base"], measured["prior"]
    assert max(base["with the trigger"], base["without"]) <= 0.05
    assert prior["with the trigger"] >= 0.9
    assert prior["without"] <= 0.1
    assert prior["attributes"] >= base["attributes"] - base["margin"]


@pytest.mark.soak
def test_prior_preservation_keeps_the_rest(measured, record_property):
    """Without it the look comes over ordinary prompts as well, and they are no longer obeyed."""
    record(record_property, measured, "prior", "none")
    base, without = measured["base"], measured["none"]
    assert without["without"] >= 0.3
    assert without["attributes"] + without["margin"] < base["attributes"] - base["margin"]
