"""Few-step sampling inside the host's sampling stack: by the recipe that the model carries, LCM's or another's."""

import copy
import itertools
from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper

from . import accelerate, progress, recipes, sd15_blocks, single_cond, step_functions
from .latent_formats import CPU_DTYPE_KEY, LATENT_FORMAT_KEY, PIXELS_PER_LATENT
from .model_sampling import carried_recipe

CLIP_CHUNK_TOKENS = 77  # tokens of a prompt that CLIP reads at once
MAX_TOKEN_SPREAD = 200  # that an emphasis of about 300 gives; nobody means one above 2


def make_generators(seed: int, indices: list[int]) -> list[torch.Generator]:
    """One CPU generator per picture, seeded seed + its batch index: the same noise on every machine and in every batch."""
    return [torch.Generator("cpu").manual_seed((seed + i) % 2**64) for i in indices]


def batch_noise(shape: tuple[int, ...], generators: list[torch.Generator]) -> torch.Tensor:
    """fp32 noise [B, C, h, w] on the CPU; item i comes from generator i alone."""
    return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators])


def make_sampler(
    guider: comfy.samplers.CFGGuider,
    generators: list[torch.Generator],
    step_function: step_functions.StepFunction,
    plan: list[step_functions.StepSigmas],
) -> Callable:
    """The sampler function for comfy.samplers.KSAMPLER: predict the clean latent, step to the next level, repeat.

    plan has the sigmas as numbers: the loop never waits for the device.
    """

    def sample_vega_lcm(model, x, sigmas, extra_args, callback, disable):
        move_conditioning(guider.conds, x.device)
        add_wrapper(
            WrappersMP.CALC_COND_BATCH, single_cond.calc_cond_batch, extra_args["model_options"], is_model_options=True
        )
        ones = x.new_ones(len(x))
        for i in progress.step_range(len(plan), disable):
            denoised = model(x, sigmas[i] * ones, **extra_args)
            if callback is not None:
                callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
            x = step_function(x, denoised, plan[i], lambda: to_device_async(batch_noise(x.shape, generators), x.device))  # noqa: B023
        return reapply_mask(x, model, sigmas[-2] * ones, **extra_args) if plan[-1].target > 0 else x

    return sample_vega_lcm


def reapply_mask(x: torch.Tensor, model, sigma: torch.Tensor, denoise_mask, model_options: dict, **others) -> torch.Tensor:
    """x with the latent that came in where a mask hides it: DDIM's and TCD's last step leaves a little noise there.

    The mask is the one of the last step, which the host has just used (comfy/samplers.py, KSamplerX0Inpaint).
    """
    if denoise_mask is None:
        return x
    if function := model_options.get("denoise_mask_function"):
        options = {"model": model.inner_model, "sigmas": model.sigmas}
        denoise_mask = function(sigma, denoise_mask, extra_options=options)
    return x * denoise_mask + model.latent_image * (1 - denoise_mask)


def to_device_async(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device, without waiting for what the device still has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # only from pinned memory is a copy to the GPU asynchronous
    return tensor.to(device, non_blocking=True)


def move_conditioning(conds: dict[str, list[dict]], device: torch.device) -> None:
    """The tensors that the host made of the conditioning (model_conds), to the device: it would copy them at every step."""
    for entry in itertools.chain.from_iterable(conds.values()):
        for name, cond in entry["model_conds"].items():
            if isinstance(cond.cond, torch.Tensor):
                entry["model_conds"][name] = moved = copy.copy(cond)
                moved.cond = to_device_async(cond.cond, device)


def sample(
    model: comfy.model_patcher.ModelPatcher,
    seed: int,
    steps: int,
    positive: list,
    latent: dict,
    denoise: float,
    callback: Callable | None = None,
    disable_progress: bool = False,
    negative: list | None = None,
    cfg: float = recipes.UNSET_CFG,
) -> dict:
    """The latent dict with "samples" [B, C, h, w] drawn anew; its other keys are kept, its own tensors untouched.

    seed + batch index seeds each picture. denoise 0 returns the latent as it came. cfg 1 is the recipe's own guidance: none,
    or where it needs some, what its makers start with.
    Raises ValueError for a model, conditioning or latent that cannot give a right picture.
    """
    out = latent.copy()
    ratio = out.pop("downscale_ratio_spacial", None)
    out.pop("downscale_ratio_temporal", None)
    if denoise == 0:
        return out
    recipe = carried_recipe(model)
    if recipe is None:
        raise ValueError(
            "This model has no recipe for a few steps. Put `Apply LCM-LoRA (Vega)` before this sampler. If the checkpoint "
            f"has its few-step LoRA fused in, set lora_name there to {recipes.FUSED_LORA!r} and choose the recipe; for an "
            "LCM-LoRA `ModelSamplingDiscrete` set to lcm does it, too. If it stands there, raise strength_model from 0."
        )
    table = model.get_model_object("model_sampling").sigmas.tolist()
    plan = step_functions.plan_steps(recipe.step_function, recipe.eta, table, recipe.timesteps(steps, denoise), steps)
    cfg = recipes.guidance_scale(recipe, cfg)
    check_guidance(model, recipe, cfg, negative)
    conds = {"positive": positive} if negative is None else {"positive": positive, "negative": negative}
    sd15_blocks.check_patches(model)
    for name, entries in conds.items():
        check_conditioning(model, entries, name)
        sd15_blocks.check_conditioning(model, entries)
    start = check_latent(model, latent["samples"], ratio)
    indices = latent.get("batch_index") or range(len(start))
    if len(indices) != len(start):
        raise ValueError(
            f"The latent has {len(start)} pictures but a batch_index of {len(indices)}: make the batch with "
            "one node, Empty Latent Image or Repeat Latent Batch."
        )
    streams = make_generators(seed, list(indices))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds(conds)
    guider.set_cfg(cfg)
    samples = guider.sample(
        batch_noise(tuple(start.shape), streams),
        start,
        comfy.samplers.KSAMPLER(make_sampler(guider, streams, recipe.step_function, plan)),
        torch.tensor([*(levels.current for levels in plan), 0.0]),
        denoise_mask=latent.get("noise_mask"),
        callback=callback,
        disable_pbar=disable_progress,
        seed=seed,
    )
    samples = samples.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())
    if not samples.isfinite().all():
        raise ValueError(
            "The UNet gave NaN or infinite values. An emphasis in the prompt, (word:1.2), is far too large, its weights or "
            "those of a LoRA are damaged, or they don't fit fp16: change the prompt, download them again, or start ComfyUI "
            "with --force-fp32."
        )
    out["samples"] = samples
    # For the tiny decoder, which would make a psychedelic picture of another family's latents.
    out[LATENT_FORMAT_KEY] = type(model.get_model_object("latent_format")).__name__
    out.pop(CPU_DTYPE_KEY, None)  # of the pass before
    if dtype := accelerate.cpu_dtype(model):
        out[CPU_DTYPE_KEY] = dtype
    return out


def check_guidance(
    model: comfy.model_patcher.ModelPatcher, recipe: recipes.Recipe, cfg: float, negative: list | None
) -> None:
    """ValueError where something needs a negative prompt and none is connected."""
    if negative is not None:
        return
    connect = "connect one, an empty CLIP Text Encode will do"
    if cfg != 1:
        needs = f"cfg {cfg:g}" if recipe.guidance.min == 1 else f"{recipe.name} draws with guidance (cfg {cfg:g}), which"
        raise ValueError(
            f"{needs} needs a negative prompt: {connect}{'' if recipe.guidance.min > 1 else ', or set cfg to 1'}."
        )
    if model.model_options.get("disable_cfg1_optimization"):
        raise ValueError(
            "A patch on the model compares with the negative prompt (Self-Attention Guidance, NAGuidance and others), and "
            f"negative is not connected: {connect}, or take the patch away."
        )


def check_conditioning(model: comfy.model_patcher.ModelPatcher, entries: list, name: str = "positive") -> None:
    """ValueError unless every entry of the conditioning can enter this model's UNet. name: of the input."""
    if not entries:
        raise ValueError(f"{name} has no entries: connect the output of a CLIP Text Encode.")
    width = model.model.model_config.unet_config.get("context_dim")
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()  # what the UNet computes in
    for context, _ in entries:
        if isinstance(width, int) and context.shape[-1] != width:
            raise ValueError(
                f"{name} has {context.shape[-1]} features a token, this model needs {width}: "
                "encode the prompt with the CLIP that comes from the same loader as the model."
            )
        if not context.to(dtype).isfinite().all():
            raise ValueError(
                f"{name} contains NaN or infinite values: an emphasis in the prompt is no number or far too large, as in "
                "(word:inf) or (word:1e30), or its text encoder or a LoRA on it is damaged. Emphasise by 0.5 to "
                "2, or download those again."
            )
        if (spread := token_spread(context)) > MAX_TOKEN_SPREAD:
            raise ValueError(
                f"{name} has tokens {spread:.0f} times as large as others: an emphasis in the prompt is far too large, as "
                "in (Blade Runner: 2049). Write \\( and \\) for parentheses that are only text, and emphasise by 0.5 to 2."
            )


def token_spread(context: torch.Tensor) -> float:
    """The norm of the largest token of [B, tokens, features] by that of the smallest, without empty and first ones.

    CLIP's tokens are all about as large, and an emphasis multiplies them (comfy/sd1_clip.py); the first of each chunk it
    leaves alone, and a trained CLIP makes that one large itself.
    """
    norms = context.float().norm(dim=-1)
    norms = norms[:, [k for k in range(norms.shape[1]) if k % CLIP_CHUNK_TOKENS]]
    norms = norms[norms > 0]
    return (norms.max() / norms.min()).item() if norms.numel() else 1.0


def check_latent(model: comfy.model_patcher.ModelPatcher, samples: torch.Tensor, ratio: int | None) -> torch.Tensor:
    """The latent as the model takes it (an empty one adapted as the host does); ValueError if the model can't."""
    samples = comfy.sample.fix_empty_latent_channels(model, samples, ratio)
    channels = model.get_model_object("latent_format").latent_channels
    if samples.is_nested or samples.ndim != 4 or samples.shape[1] != channels:
        raise ValueError(
            f"latent_image has the shape {list(samples.shape)}; this model needs {channels} channels: "
            "encode the picture with the VAE that comes from the same loader as the model."
        )
    levels = model.model.model_config.unet_config.get("channel_mult", (1,))
    least = 2 ** (len(levels) - 1)
    height, width = samples.shape[-2:]
    if min(height, width) < least:
        raise ValueError(
            f"latent_image is {width * PIXELS_PER_LATENT} x {height * PIXELS_PER_LATENT} pixels; this model needs at least "
            f"{least * PIXELS_PER_LATENT} on each side."
        )
    if not samples.isfinite().all():
        raise ValueError("latent_image contains NaN or infinite values: look at the node that made it.")
    return samples
