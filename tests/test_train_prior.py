"""Class pictures of DreamBooth, sample sheets, the loss plot, and the files of every family in every loader."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import training_runs as runs
from diffusers import EulerDiscreteScheduler, LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from host_loras import host_modules
from PIL import Image
from safetensors.torch import load_file

from dev import diffusers_folders, single_files
from train import lora_run, loss_plot, prior
from train.__main__ import main
from train.base import NANO, NANO_LCM_LORA, open_base
from train.denoising import prediction
from train.examples import EncodedTexts
from train.options import TARGET_MODULES
from train.sampling import Sampler

pytestmark = pytest.mark.model
PROMPTS = ["night, desert, full moon", "a lake at dawn"]


def pipeline(path, **changed):
    pipe = StableDiffusionXLPipeline.from_pretrained(path, add_watermarker=False, torch_dtype=torch.float32, **changed)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, prompt: str, seed: int, **given) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    image = pipe(prompt, negative_prompt="", generator=generator, height=64, width=64, **given).images[0]
    return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def sampler():
    base = open_base("vega-nano")
    return Sampler(base.unet(), base.vae, EncodedTexts(base.text_encoders(), base.tokenizers()), True, 64)


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def test_it_draws_as_the_pipeline_does(sampler):
    """In 25 steps, and in four with the LCM-LoRA; and the UNet is as it was after that."""
    pipe = pipeline(NANO)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    few = sampler.sample_in_few_steps(NANO_LCM_LORA, PROMPTS, [3, 4])
    many = sampler.sample(PROMPTS, [3, 4])
    for k, prompt in enumerate(PROMPTS):
        expected = drawn(pipe, prompt, 3 + k, num_inference_steps=25, guidance_scale=5.0)
        assert np.abs(np.asarray(many[k]).astype(int) - expected).max() <= 2
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(NANO_LCM_LORA.parent, weight_name=NANO_LCM_LORA.name)
    for k, prompt in enumerate(PROMPTS):
        expected = drawn(pipe, prompt, 3 + k, num_inference_steps=4, guidance_scale=1.0)
        assert np.abs(np.asarray(few[k]).astype(int) - expected).max() <= 2


def test_pictures_are_decoded_in_fp32(sampler):
    """Also amid a run in half precision; what is not finite is no black picture, but ends with a sentence."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        halved = sampler.decode(latents)
    assert [image.tobytes() for image in halved] == [image.tobytes() for image in sampler.decode(latents)]
    latents[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="no finite numbers"):
        sampler.decode(latents)


def test_class_pictures_samples_and_plot(tmp_path):
    """Missing class pictures are drawn, by the base; those that are there are kept; nothing of it changes the weights."""
    runs.pictures(tmp_path / "pictures")
    prompts = ["--class-prompt", *PROMPTS]
    given = runs.arguments(tmp_path, "vega-nano", num_class_images=3, learning_rate=1e-2)
    with torch.enable_grad():
        main([*given, *prompts, "--sample-prompts", *PROMPTS])
    run = tmp_path / "work" / "test"
    assert sorted(file.name for file in (run / "class").iterdir()) == ["0000.png", "0001.png", "0002.png"]
    with Image.open(run / "samples" / "000004.png") as sheet:
        assert sheet.size == (128, 128)
    with Image.open(run / "loss.png") as plot:
        assert plot.size == (loss_plot.WIDTH_PIXELS, loss_plot.HEIGHT_PIXELS)
    expected = runs.weights(tmp_path)
    first, second = (file.read_bytes() for file in sorted((run / "class").iterdir())[:2])
    shutil.rmtree(run)
    with torch.enable_grad():
        main([*given, *prompts, "--overwrite"])
    assert runs.largest_difference(runs.weights(tmp_path), expected) == 0
    assert (run / "class" / "0000.png").read_bytes() == first
    assert (run / "class" / "0001.png").read_bytes() == second


def test_prior_prediction_pulls_at_nothing_at_first(tmp_path):
    """A LoRA begins as the base, so class pictures add no gradient to its first step, however much they weigh."""
    runs.pictures(tmp_path / "pictures")
    found = {}
    for name, flags in (("with", ["--class-prompt", *PROMPTS, "--prior-prediction"]), ("without", [])):
        given = runs.arguments(tmp_path, name=name, num_class_images=3, prior_loss_weight=100, steps=1)
        with torch.enable_grad():
            main([*given, *flags])
        found[name] = load_file(tmp_path / f"{name}.safetensors")
    assert runs.largest_difference(found["with"], found["without"]) == 0


def test_prior_prediction_is_the_base_s_own(tmp_path, monkeypatch):
    """Also when text encoders have learned for some steps; a run that was broken off ends as an unbroken one."""
    base, targets = open_base("vega-nano"), []
    unet, texts = base.unet(), EncodedTexts(base.text_encoders(), base.tokenizers())
    compute = lora_run.prior_preserving_loss

    def noting(learned, scheduler, instance, prior, weight, gamma, target):
        with torch.no_grad():
            expected = prediction(unet, scheduler, prior._replace(text=texts(["a lake at dawn"] * len(prior.latents))))
        targets.append((target - expected).abs().max())
        return compute(learned, scheduler, instance, prior, weight, gamma, target)

    monkeypatch.setattr(lora_run, "prior_preserving_loss", noting)
    runs.pictures(tmp_path / "pictures")
    flags = ["--class-prompt=a lake at dawn", "--prior-prediction", "--train-text-encoder", "--gradient-checkpointing"]
    options = dict(num_class_images=2, text_encoder_lr=1e-2, gradient_accumulation_steps=2, caption_dropout=0)
    for name, ends in (("whole", (4,)), ("broken", (2, 4))):
        for steps in ends:
            with torch.enable_grad():
                main(runs.arguments(tmp_path, "vega-nano", *flags, name=name, steps=steps, **options))
    assert len(targets) == 16
    assert max(targets) < 1e-4
    whole, broken = (load_file(tmp_path / f"{name}.safetensors") for name in ("whole", "broken"))
    assert runs.largest_difference(whole, broken) == 0


def test_prior_prediction_needs_class_pictures(tmp_path):
    assert "give --class-prompt" in runs.refused(tmp_path, "vega-nano", "--prior-prediction", {})


def sheet(folder: Path, name: str, prompt: str) -> Path:
    """The last one of a run of one step."""
    with torch.enable_grad():
        main([*runs.arguments(folder, steps=1, name=name, ema_decay=0.5), "--sample-prompts", prompt])
    return folder / "work" / name / "samples" / "000001.png"


def test_other_samples_of_a_finished_run(tmp_path):
    """They are drawn, and those that are there are not drawn again."""
    runs.pictures(tmp_path / "pictures")
    before = sheet(tmp_path, "one", PROMPTS[0]).read_bytes()
    file = sheet(tmp_path, "one", PROMPTS[1])
    drawn = file.stat().st_mtime_ns
    assert file.read_bytes() != before
    sheet(tmp_path, "one", PROMPTS[1])
    assert file.stat().st_mtime_ns == drawn


@pytest.mark.soak
def test_other_samples_are_those_of_an_unbroken_run(tmp_path):
    runs.pictures(tmp_path / "pictures")
    sheet(tmp_path, "one", PROMPTS[0])
    assert sheet(tmp_path, "one", PROMPTS[1]).read_bytes() == sheet(tmp_path, "other", PROMPTS[1]).read_bytes()


def test_class_pictures_are_drawn_in_the_same_groups(tmp_path, sampler):
    """Also where some of a group are there; these stay as they are."""
    drawn = []

    class Noting:
        def sample(self, prompts, seeds):
            drawn.append((prompts, seeds))
            return sampler.sample(prompts, seeds, steps=1)

    prior.draw(tmp_path, PROMPTS, 6, Noting)
    assert drawn == [(PROMPTS * 2, [0, 1, 2, 3]), (PROMPTS, [4, 5])]
    files = sorted(tmp_path.iterdir())
    before = [file.read_bytes() for file in files]
    files[2].unlink()
    files[3].write_bytes(b"mine")
    prior.draw(tmp_path, PROMPTS, 6, Noting)
    assert drawn[2:] == drawn[:1]
    assert [file.read_bytes() for file in files] == [*before[:3], b"mine", *before[4:]]


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGTERM")
def test_interrupted_while_it_draws_class_pictures(tmp_path):
    """What is drawn is kept, and the same command goes on."""
    runs.pictures(tmp_path / "pictures")
    given = [*runs.arguments(tmp_path, num_class_images=100, steps=1), "--class-prompt", *PROMPTS]
    directory = tmp_path / "work" / "test" / "class"
    process = runs.start(given)
    runs.wait_until(process, lambda: directory.exists() and len(list(directory.glob("*.png"))) >= 4)
    process.send_signal(signal.SIGTERM)
    status, printed = runs.ended(process)
    assert status == 130, printed
    assert "Interrupted. What is done is kept" in printed
    assert "Traceback" not in printed
    kept = {file: file.read_bytes() for file in directory.glob("*.png")}
    assert 4 <= len(kept) < 100
    for k in range(len(kept), 100):
        (directory / f"{k:04}.png").write_bytes((directory / "0000.png").read_bytes())
    with torch.enable_grad():
        main(given)
    assert all(file.read_bytes() == content for file, content in kept.items())


def test_the_plot_shows_the_losses(tmp_path):
    losses = np.linspace(1, 0, 400)
    loss_plot.write(tmp_path / "loss.png", losses.tolist())
    pixels = np.asarray(Image.open(tmp_path / "loss.png"))
    rows, columns = np.nonzero((pixels == loss_plot.DARK).all(-1))
    assert np.corrcoef(columns, rows)[0, 1] > 0.99
    assert loss_plot.smoothed(np.arange(100.0))[-1] == pytest.approx(97)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in ("Segmind-Vega", "small-sd") else pytest.mark.soak)
        for family in diffusers_folders.FAMILIES
    ],
)
def test_every_family_loads_everywhere(tmp_path, family, capsys):
    """A run with text encoders, its file in diffusers, in ComfyUI's own code and in ours: N of N."""
    path = tmp_path / "base"
    modules = diffusers_folders.write(path, family)
    runs.pictures(tmp_path / "pictures", 2)
    with torch.enable_grad():
        main(runs.arguments(tmp_path, path, "--train-text-encoder", steps=1, alpha=1, text_encoder_lr=1e-3))
    attended = [name for name, _ in modules["unet"].named_modules() if name.endswith(TARGET_MODULES)]
    count = len(attended) + 16 * (len(modules) - 2)
    assert f"{count} of {count} modules load back in diffusers" in capsys.readouterr().out
    with torch.inference_mode():
        assert host_modules(tmp_path / "test.safetensors", path) == (count, count, count)


@pytest.mark.parametrize("family", [pytest.param("SDXL", marks=pytest.mark.soak), "tiny-sd"])
def test_a_single_file_is_the_same_base(tmp_path, family):
    """As the folder with these weights; a file without autoencoder takes the one of --vae."""
    diffusers_folders.write(tmp_path / "base", family)
    single_files.write(tmp_path / "base.safetensors", family)
    found = []
    for folder, base in ((tmp_path / "one", tmp_path / "base"), (tmp_path / "two", tmp_path / "base.safetensors")):
        runs.pictures(folder / "pictures", 2)
        with torch.enable_grad():
            main(runs.arguments(folder, base, steps=2, vae=tmp_path / "base" / "vae"))
        found.append(runs.weights(folder))
    assert runs.largest_difference(*found) == 0


@pytest.mark.parametrize("family", ["SD 1.5"])
def test_a_merge_is_the_trained_model(tmp_path, family):
    """What diffusers' public loader merges, against alpha / rank times the two matrices, in float64."""
    modules = diffusers_folders.write(tmp_path / "base", family)
    runs.pictures(tmp_path / "pictures", 2)
    with torch.enable_grad():
        main(runs.arguments(tmp_path, tmp_path / "base", steps=3, alpha=6, learning_rate=1e-2))
    tensors, alphas = StableDiffusionPipeline.lora_state_dict(tmp_path / "test.safetensors")
    unet = modules["unet"]
    before = {name: module.weight.double() for name, module in unet.named_modules() if name.endswith(TARGET_MODULES)}
    StableDiffusionPipeline.load_lora_into_unet(tensors, alphas, unet)
    unet.fuse_lora()
    file = runs.weights(tmp_path)
    for name, weight in before.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        up, down = (file[f"{key}.lora_{side}.weight"].double().flatten(1) for side in ("up", "down"))
        expected = weight + 3 * (up @ down).view_as(weight)
        found = dict(unet.named_modules())[name].base_layer.weight.double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
