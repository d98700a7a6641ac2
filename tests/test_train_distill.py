"""Distillation: a step against the same arithmetic from public classes, and what a run leaves."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import training_runs as runs
from diffusers import DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers.optimization import Adafactor
from unet_steps import SCHEDULE, batches, trained
from vega_pack.vega import checkpoint, lora

from dev import diffusers_folders
from train import block_plan, distill_run, optimization, student_unet
from train.__main__ import main
from train.base import open_base
from train.distillation import distillation_loss
from train.optimization import make_optimizer

pytestmark = pytest.mark.model
RATE, OUTPUT, FEATURE = 1e-4, 0.5, 0.3


def alike(levels: int) -> dict[str, str]:
    """Every level and the middle, with the block of the same name."""
    names = ["mid_block", *(f"{side}_blocks.{k}" for side in ("down", "up") for k in range(levels))]
    return dict(zip(names, names, strict=True))


# Module of the student -> of the base, as segmind/distill-sd compares them.
PAIRS = {"small-sd": alike(4), "vega": alike(3), "ssd-1b": alike(3)}
PAIRS["tiny-sd"] = {
    "down_blocks.0": "down_blocks.0",
    "down_blocks.1": "down_blocks.1",
    "down_blocks.2": "up_blocks.0",
    "up_blocks.0": "up_blocks.1",
    "up_blocks.1": "up_blocks.2",
    "up_blocks.2": "up_blocks.3",
}
FAMILY = {"small-sd": "SD 1.5", "tiny-sd": "SD 1.5", "vega": "SDXL", "ssd-1b": "SDXL"}


def hooked(unet: UNet2DConditionModel, name: str, kept: dict) -> None:
    def hook(module, inputs, output):
        kept[name] = output[0] if isinstance(output, tuple) else output

    unet.get_submodule(name).register_forward_hook(hook)


def oracle(student, teacher, pairs: dict[str, str], batch) -> float:
    """One step of AdamW on task + OUTPUT x output + FEATURE x the sum over features; the loss."""
    of_student, of_teacher = {}, {}
    for ours, theirs in pairs.items():
        hooked(student, ours, of_student)
        hooked(teacher, theirs, of_teacher)
    optimizer = torch.optim.AdamW(student.requires_grad_(True).parameters(), lr=RATE)
    noisy = DDPMScheduler(**SCHEDULE).add_noise(batch.latents, batch.noise, batch.timesteps)
    context, pooled = batch.text
    added = None if pooled is None else {"text_embeds": pooled, "time_ids": batch.time_ids}
    out, target = (unet(noisy, batch.timesteps, context, added_cond_kwargs=added).sample for unet in (student, teacher))
    features = sum(F.mse_loss(of_student[ours], of_teacher[theirs].detach()) for ours, theirs in pairs.items())
    loss = F.mse_loss(out, batch.noise) + OUTPUT * F.mse_loss(out, target.detach()) + FEATURE * features
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize(
    "plan", ["tiny-sd", *(pytest.param(name, marks=pytest.mark.soak) for name in ("small-sd", "ssd-1b", "vega"))]
)
def test_a_step_is_the_published_one(tmp_path, plan):
    """In fp64, with features hooked here and by their literal names."""
    diffusers_folders.write(tmp_path / "base", FAMILY[plan])
    base = open_base(str(tmp_path / "base"))
    made, teacher = student_unet.make_student(block_plan.read(plan), base), base.unet(torch.float64)
    student = student_unet.load(made, base, torch.float64)
    expected, batch = copy.deepcopy(student), batches(student.config, 1, 1)[0]
    loss = oracle(expected, copy.deepcopy(teacher), PAIRS[plan], batch)
    scheduler = DDPMScheduler(**SCHEDULE)

    def compute_loss(number: int) -> torch.Tensor:
        return distillation_loss(student, teacher, made.features, scheduler, batch, OUTPUT, FEATURE)

    assert trained(student, compute_loss, RATE, tmp_path) == pytest.approx([loss], rel=1e-9)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    given, theirs = teacher.state_dict(), expected.state_dict()
    for name, weight in student.state_dict().items():
        assert (weight - theirs[name]).abs().max() < 1e-9, name
        assert not torch.equal(weight, given[made.names[name]]), name


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A folder with pictures and a student of vega-nano, after four steps."""
    folder = tmp_path_factory.mktemp("run")
    runs.pictures(folder / "pictures")
    main(runs.arguments(folder, verb="distill", sample_prompts="a lake", sample_every=4))
    return folder


@torch.inference_mode()
def test_load_vega_draws_what_diffusers_does(run):
    model = checkpoint.load(run / "test", "tiny", [])[0]
    pipeline, base = (
        StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
        for folder in (run / "test", checkpoint.NANO_DIR)
    )
    assert pipeline.unet.config.layers_per_block == 1
    assert pipeline.unet.config.sample_size == 8
    assert not pipeline.config.force_zeros_for_empty_prompt
    x, context, pooled = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 128), torch.randn(1, 64)
    sizes = torch.tensor([[64, 64, 0, 0, 64, 64]])
    expected = pipeline.unet(x, torch.tensor([500]), context, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes})
    y = model.model.encode_adm(pooled_output=pooled, width=64, height=64)
    model.model.manual_cast_dtype = None
    ours = model.model.diffusion_model.float()(x, torch.tensor([500]), context=context, y=y)
    assert (ours - expected.sample).abs().max() < 1e-4
    assert all(
        torch.equal(a, b) for a, b in zip(pipeline.encode_prompt("a lake"), base.encode_prompt("a lake"), strict=True)
    )
    assert len(pipeline("a lake", height=64, width=64, num_inference_steps=2).images) == 1


@pytest.mark.parametrize(
    "plan", ["tiny-sd", *(pytest.param(name, marks=pytest.mark.soak) for name in ("small-sd", "ssd-1b", "vega"))]
)
@torch.inference_mode()
def test_load_vega_opens_what_each_plan_makes(tmp_path, plan):
    """And gives what diffusers does, of a narrow base of the plan's family."""
    with torch.inference_mode(False):
        runs.pictures(tmp_path / "pictures", 2)
        diffusers_folders.write(tmp_path / "base", FAMILY[plan])
        main(runs.arguments(tmp_path, tmp_path / "base", verb="distill", to=plan, steps=1))
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "test" / "unet", torch_dtype=torch.float32)
    model = checkpoint.load(tmp_path / "test", "tiny", [])[0]
    model.model.manual_cast_dtype = None
    batch = batches(unet.config, 1, 1, torch.float32)[0]
    (context, pooled), y, added = batch.text, None, None
    if pooled is not None:
        sizes = torch.tensor([[64, 64, 0, 0, 64, 64]] * len(pooled))
        y, added = (
            model.model.encode_adm(pooled_output=pooled, width=64, height=64),
            dict(text_embeds=pooled, time_ids=sizes),
        )
    expected = unet(batch.noise, batch.timesteps, context, added_cond_kwargs=added).sample
    found = model.model.diffusion_model.float()(batch.noise, batch.timesteps, context=context, y=y)
    assert (found - expected).abs().max() < 1e-4


def test_it_was_drawn_and_plotted(run):
    work = run / "work" / "test"
    assert [file.name for file in (work / "samples").iterdir()] == ["000004.png"]
    assert (work / "loss.png").is_file()


def test_an_lcm_lora_of_it(run):
    main(runs.arguments(run, run / "test", verb="lcm-lora", name="lcm", steps=1))
    unet = UNet2DConditionModel.from_pretrained(run / "test" / "unet")
    names = {name.rsplit(".lora_", 1)[0] for name in runs.weights(run, "lcm") if ".lora_" in name}
    assert 50 < len(names) < len(list(unet.modules()))
    assert lora.apply(checkpoint.load(run / "test", "tiny", [])[0], run / "lcm.safetensors", 1.0).patches


def test_a_distillation_goes_on(run, tmp_path):
    runs.pictures(tmp_path / "pictures")
    main(runs.arguments(tmp_path, verb="distill", steps=2))
    main(runs.arguments(tmp_path, verb="distill"))
    assert runs.largest_difference(runs.weights(tmp_path), runs.weights(run)) == 0
    other = {"verb": "distill", "feature_weight": 1}
    assert "feature_weight was 0.5 and is 1.0" in runs.refused(tmp_path, other)
    plan = tmp_path / "half.json"
    plan.write_text(plan.read_text().replace('"mid_block": []', '"mid_block": null'))
    assert "to was half" in runs.refused(tmp_path, {"verb": "distill", "to": plan})


def test_its_options_reach_the_loss(tmp_path, monkeypatch):
    """And the teacher is in half precision, beside a student that learns in fp32 by the optimizer that was asked for."""
    calls, optimizers = [], []

    def compute(student, teacher, *given, **weights):
        calls.append((weights, *(next(unet.parameters()).dtype for unet in (student, teacher))))
        return distillation_loss(student, teacher, *given, **weights)

    def make(*given):
        optimizers.append(make_optimizer(*given))
        return optimizers[-1]

    monkeypatch.setattr(distill_run, "distillation_loss", compute)
    monkeypatch.setattr(optimization, "make_optimizer", make)
    runs.pictures(tmp_path / "pictures")
    with runs.fresh_accelerator_state():
        options = dict(output_weight=0.7, feature_weight=0.2, optimizer="adafactor", mixed_precision="bf16", steps=1)
        main(runs.arguments(tmp_path, verb="distill", **options))
    assert calls == [({"output_weight": 0.7, "feature_weight": 0.2}, torch.float32, torch.bfloat16)]
    assert [type(optimizer) for optimizer in optimizers] == [Adafactor]


@pytest.mark.soak
def test_a_student_with_checkpointing(run, tmp_path):
    runs.pictures(tmp_path / "pictures")
    main(runs.arguments(tmp_path, "vega-nano", "--gradient-checkpointing", verb="distill"))
    assert runs.largest_difference(runs.weights(tmp_path), runs.weights(run)) < 2e-3


@pytest.mark.soak
def test_a_student_in_bf16(run, tmp_path):
    """The student learns in fp32 all the same, and comes close to what it learns without."""
    runs.pictures(tmp_path / "pictures")
    with runs.fresh_accelerator_state():
        main(runs.arguments(tmp_path, verb="distill", mixed_precision="bf16"))
    state = load_file(tmp_path / "work" / "test" / "training" / "4" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    found, expected = runs.weights(tmp_path), runs.weights(run)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert runs.largest_difference(found, expected) < 2e-3
