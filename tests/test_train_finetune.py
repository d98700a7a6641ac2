"""Fine-tuning the whole UNet: steps against the same arithmetic from public classes, the files, and what is refused."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import comfy.model_detection
import comfy.ops
import pytest
import torch
import torch.nn.functional as F
import training_files as files
import training_runs as runs
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from diffusers import AutoencoderTiny, DDPMScheduler, DiffusionPipeline, StableDiffusionPipeline
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import load_file
from transformers.optimization import Adafactor
from unet_steps import SCHEDULE, batches, trained
from vega_pack.vega import checkpoint
from vega_pack.vega.encoder_files import Encoder

from dev import diffusers_folders, single_files
from train import finetune_run, ldm_checkpoint, training_loop, training_run
from train.__main__ import main
from train.denoising import denoising_loss
from train.optimization import optimizer_state_fits

pytestmark = pytest.mark.model
RATE, GAMMA, STEPS = 1e-4, 5.0, 2
DECAY = 0.1  # less than EMAModel has at the second step by itself, 2 / 11
OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adafactor": lambda parameters, lr: Adafactor(parameters, lr, scale_parameter=False, relative_step=False),
}
FILES = ["Segmind-Vega", "SD 1.5", *(pytest.param(name, marks=pytest.mark.soak) for name in ("SSD-1B", "SDXL"))]


def oracle(unet, given: list, optimizer: str) -> list[float]:
    """diffusers' train_text_to_image_sdxl.py: min-SNR weights, clipping, the optimizer, and the average that it ends as."""
    scheduler, parameters = DDPMScheduler(**SCHEDULE), list(unet.requires_grad_(True).parameters())
    made = OPTIMIZERS[optimizer](parameters, lr=RATE)
    average, losses = EMAModel(parameters, decay=DECAY), []
    for batch in given:
        context, pooled = batch.text
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": batch.time_ids}
        noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        out = unet(noisy, batch.timesteps, context, added_cond_kwargs=added).sample
        snr = compute_snr(scheduler, batch.timesteps)
        weights = torch.stack([snr, GAMMA * torch.ones_like(snr)], dim=1).min(dim=1)[0] / snr
        loss = (F.mse_loss(out, batch.noise, reduction="none").mean(dim=[1, 2, 3]) * weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        made.step()
        made.zero_grad()
        average.step(parameters)
        losses.append(loss.item())
    average.copy_to(parameters)
    return losses


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("adafactor", marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "family",
    ["tiny-sd", *(pytest.param(name, marks=pytest.mark.soak) for name in ("SD 1.5", "SDXL", "SSD-1B", "Segmind-Vega"))],
)
def test_whole_steps_are_those_of_diffusers(tmp_path, family, optimizer):
    """In fp64: every weight of the UNet, after two steps of the optimizer and of the moving average."""
    unet = diffusers_folders.modules(family)["unet"].double()
    before, expected, given = copy.deepcopy(unet.state_dict()), copy.deepcopy(unet), batches(unet.config, STEPS, 1)
    losses = oracle(expected, given, optimizer)
    scheduler = DDPMScheduler(**SCHEDULE)

    def compute_loss(number: int) -> torch.Tensor:
        return denoising_loss(unet, scheduler, given[number], GAMMA)

    options = {"use_adafactor": optimizer == "adafactor", "ema_decay": DECAY}
    assert trained(unet, compute_loss, RATE, tmp_path, STEPS, **options) == pytest.approx(losses, rel=1e-9)
    found, theirs = unet.state_dict(), expected.state_dict()
    for name, weight in theirs.items():
        assert (found[name] - weight).abs().max() < 1e-9, name
    # Attention over one cell, in the middle of SD 1.5, has nothing to learn.
    assert sum(not torch.equal(found[name], before[name]) for name in theirs) > 0.9 * len(theirs)


@pytest.mark.parametrize("family", FILES)
def test_one_file_as_diffusers_scripts_write_it(family):
    """Names and values of every weight."""
    modules = diffusers_folders.modules(family, "full")
    unet, vae = modules["unet"], modules["vae"]
    assert ldm_checkpoint.has_layout(unet, vae)
    encoders = {
        name: Encoder(Path(), Path(), {}, modules[part].state_dict())
        for name, part in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2"))
        if part in modules
    }
    found = ldm_checkpoint.tensors(unet, vae, encoders)
    expected = single_files.to_single_file(modules)
    extra = {name for name in expected if name.endswith((".position_ids", ".logit_scale")) or name == "alphas_cumprod"}
    assert found.keys() == expected.keys() - extra
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("family", "name"), {"Segmind-Vega": "Segmind_Vega", "SSD-1B": "SSD1B", "SDXL": "SDXL", "SD 1.5": "SD15"}.items()
)
def test_core_knows_the_file(family, name):
    """By its names and shapes at real dimensions, each of which is one of the UNet's that it then makes."""
    unet, prefix = diffusers_folders.real_unet(family), "model.diffusion_model."
    found = {prefix + ldm_checkpoint.unet_key(key, unet): weight for key, weight in unet.state_dict().items()}
    config = comfy.model_detection.model_config_from_unet(found, prefix)
    assert type(config).__name__ == name
    made = UNetModel(**config.unet_config, device="meta", operations=comfy.ops.disable_weight_init).state_dict()
    assert {prefix + key: weight.shape for key, weight in made.items()} == {k: weight.shape for k, weight in found.items()}


def test_which_have_no_such_file():
    modules = diffusers_folders.modules("SD 1.5", "full")
    for family in ("small-sd", "tiny-sd"):
        assert not ldm_checkpoint.has_layout(diffusers_folders.unet(family), modules["vae"])
    assert not ldm_checkpoint.has_layout(modules["unet"], AutoencoderTiny())


@torch.inference_mode()
def unets_of(path: Path) -> torch.Tensor:
    """What the UNet that Load Vega makes of the path gives for one input, and what its encoder gives for a prompt."""
    model, clip, _ = checkpoint.load(path, "full", [])
    model.model.manual_cast_dtype = None
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 77, 64, generator=generator)
    out = model.model.diffusion_model.float()(x, torch.tensor([500]), context=context)
    return torch.cat([out.flatten(), clip.encode("a lake").float().flatten()])


@pytest.mark.soak
def test_folder_and_file_are_one_model(tmp_path):
    """A base of SD 1.5's shape, fine-tuned: what Load Vega opens, what diffusers does, and what was kept of the base."""
    runs.pictures(tmp_path / "pictures", 2)
    modules = diffusers_folders.write(tmp_path / "base", "SD 1.5", vae="full")
    main(runs.arguments(tmp_path, tmp_path / "base", verb="finetune", steps=1, learning_rate=1e-2))
    folder, file = tmp_path / "test", tmp_path / "test" / "test.safetensors"
    assert torch.equal(unets_of(folder), unets_of(file))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    found, before = pipeline.unet.state_dict(), modules["unet"].state_dict()
    moved = [not torch.equal(found[name], before[name].half().float()) for name in before]
    assert sum(moved) > 0.9 * len(moved)
    for name, module in (("vae", pipeline.vae), ("text_encoder", pipeline.text_encoder)):
        kept = modules[name].state_dict()
        loaded = module.state_dict()
        assert kept.keys() == loaded.keys()
        assert all(torch.equal(loaded[key], kept[key].half().float()) for key in kept)
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_its_options_reach_the_loss_and_the_loop(tmp_path, monkeypatch):
    gammas, loops = [], []

    def compute(unet, scheduler, batch, snr_gamma):
        gammas.append(snr_gamma)
        return denoising_loss(unet, scheduler, batch, snr_gamma)

    def run(module, loss, optimizer, *given, **options):
        loops.append((type(optimizer), options["ema_decay"]))
        return training_loop.train(module, loss, optimizer, *given, **options)

    monkeypatch.setattr(finetune_run, "denoising_loss", compute)
    monkeypatch.setattr(training_run, "training_loop", SimpleNamespace(train=run))
    runs.pictures(tmp_path / "pictures")
    options = dict(steps=1, snr_gamma=3.0, ema_decay=0.9, optimizer="adafactor")
    main(runs.arguments(tmp_path, verb="finetune", **options))
    assert gammas == [3.0]
    assert loops == [(Adafactor, 0.9)]


@pytest.mark.parametrize("family", ["Segmind-Vega", pytest.param("SD 1.5", marks=pytest.mark.soak)])
def test_a_checkpoint_file_becomes_a_folder(tmp_path, family):
    """With an autoencoder of its own; text encoders are the file's, and diffusers and Load Vega open the folder."""
    runs.pictures(tmp_path / "pictures", 2)
    modules = single_files.write(tmp_path / "base.safetensors", family)
    vae = diffusers_folders.write(tmp_path / "other", family)["vae"]
    options = dict(verb="finetune", steps=1, vae=tmp_path / "other" / "vae")
    main(runs.arguments(tmp_path, tmp_path / "base.safetensors", **options))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "test", local_files_only=True)
    for name in ("text_encoder", "text_encoder_2"):
        if name in modules:
            kept = {key.removeprefix("text_model."): weight for key, weight in modules[name].state_dict().items()}
            found = getattr(pipeline, name).state_dict()
            found = {key.removeprefix("text_model."): weight for key, weight in found.items()}
            assert found.keys() == kept.keys()
            assert all(torch.equal(found[key], kept[key].half().float()) for key in kept), name
    assert all(torch.equal(a, b.half().float()) for a, b in zip(pipeline.vae.parameters(), vae.parameters(), strict=True))
    assert len(pipeline("a lake", height=64, width=64, num_inference_steps=1).images) == 1
    assert checkpoint.load(tmp_path / "test", "tiny", [])[1].encode("a lake").isfinite().all()


@pytest.mark.soak
def test_a_finetune_goes_on(tmp_path):
    for name, steps in (("whole", [4]), ("broken", [2, 4])):
        runs.pictures(tmp_path / name / "pictures")
        for each in steps:
            main(runs.arguments(tmp_path / name, verb="finetune", steps=each, optimizer="adafactor"))
    assert runs.largest_difference(runs.weights(tmp_path / "broken"), runs.weights(tmp_path / "whole")) == 0
    assert "snr_gamma was 5.0 and is 0.0" in runs.refused(
        tmp_path / "whole", {"verb": "finetune", "optimizer": "adafactor", "snr_gamma": 0}
    )
    assert not list((tmp_path / "whole" / "test").glob("*.safetensors")), "vega-nano's autoencoder is a tiny one"


def test_where_moments_have_room():
    """SDXL whole on 80 and on 24 GB, and a student of Vega's size beside SDXL in half precision on 24 GB."""
    assert optimizer_state_fits(2_567_000_000, True, 0, 80 * 2**30)
    assert not optimizer_state_fits(2_567_000_000, True, 0, 24 * 2**30)
    assert optimizer_state_fits(745_000_000, True, 2 * 2_567_000_000, 24 * 2**30)
    assert not optimizer_state_fits(745_000_000, True, 4 * 2_567_000_000, 24 * 2**30)


def test_what_would_be_overwritten(tmp_path):
    runs.pictures(tmp_path / "pictures")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "letters.txt").write_text("mine")
    finetune = {"verb": "finetune"}
    assert "exists and is no model's folder" in runs.refused(tmp_path, finetune)
    assert "exists and is no model's folder" in runs.refused(tmp_path, "vega-nano", "--overwrite", finetune)
    assert (tmp_path / "test" / "letters.txt").read_text() == "mine"
    for name in ("pictures", "work"):
        assert "is what the run reads from" in runs.refused(tmp_path, "vega-nano", "--overwrite", finetune | {"name": name})
    own = tmp_path / "own"
    diffusers_folders.write(own, "tiny-sd")
    assert "is what the run reads from" in runs.refused(tmp_path, own, "--overwrite", finetune | {"name": "own"})
    assert "exists, and" in runs.refused(tmp_path, "vega-nano", finetune | {"name": "own"})
    assert (own / "unet" / "config.json").is_file()


@pytest.mark.parametrize("verb", ["finetune", "distill"])
def test_a_base_without_a_part_is_refused_at_once(tmp_path, verb):
    """With --overwrite the run that was there stays."""
    runs.pictures(tmp_path / "pictures", 2)
    diffusers_folders.write(tmp_path / "whole", "SD 1.5")
    lacking = {"vae": "autoencoder", "text_encoder": "lacks a text encoder"}
    options = {"verb": verb, "steps": 1} | ({"to": "tiny-sd"} if verb == "distill" else {})
    main(runs.arguments(tmp_path, tmp_path / "whole", **options))
    kept = runs.weights(tmp_path)
    for part, words in lacking.items():
        shutil.copytree(tmp_path / "whole", tmp_path / part)
        shutil.rmtree(tmp_path / part / part)
        said = runs.refused(tmp_path, tmp_path / part, "--overwrite", options)
        assert words in said or f"{tmp_path / part / part}" in said
    assert runs.largest_difference(runs.weights(tmp_path), kept) == 0
    assert runs.saved(tmp_path / "work", "test") == 1


def test_bad_calls_get_one_sentence(tmp_path):
    assert "two optimizers" in runs.refused(
        tmp_path, "vega-nano", "--use-8bit-adam", {"verb": "finetune", "optimizer": "adafactor"}
    )
    files.write(tmp_path / "pictures", {"a.png": files.png()})
    for verb in ("finetune", "distill"):
        assert "no picture to train on" in runs.refused(tmp_path, {"verb": verb})
    assert "does not exist" in runs.refused(tmp_path, "nowhere", {"verb": "finetune"})
