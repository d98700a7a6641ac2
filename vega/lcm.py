"""Latent consistency sampling (Luo et al. 2023, arXiv 2310.04378) inside the host's sampling stack."""

import copy
from collections.abc import Callable

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy_extras.nodes_model_advanced as host_lcm
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper

from . import accelerate, progress, sd15_blocks, single_cond
from .latent_formats import CPU_DTYPE_KEY, LATENT_FORMAT_KEY, PIXELS_PER_LATENT

ORIGINAL_STEPS = 50  # the grid that LCM-LoRAs are distilled on: every 20th of 1000 timesteps
TIMESTEP_STRIDE = 1000 // ORIGINAL_STEPS
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
CLIP_CHUNK_TOKENS = 77  # tokens of a prompt that CLIP reads at once
MAX_TOKEN_SPREAD = 200  # that an emphasis of about 300 gives; nobody means one above 2


class LCMSampling(host_lcm.ModelSamplingDiscreteDistilled, host_lcm.LCM):
    """Model sampling of a consistency model: its clean prediction is c_skip x + c_out x0, the identity at t = 0."""

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """The timestep of each noise level, looked up where sigma lies.

        The host's own takes sigma to the table, which it leaves on the CPU: there, every step would wait for the GPU twice.
        """
        if self.log_sigmas.device != sigma.device:
            self.to(sigma.device)
        return super().timestep(sigma)

    def calculate_denoised(self, sigma, model_output, model_input):
        """x0 [B, 4, h, w] from the predicted noise, as diffusers' LCMScheduler.step: c_skip meets the VP latent."""
        t = self.timestep(sigma) * TIMESTEP_SCALING
        c_skip = SIGMA_DATA**2 / (t**2 + SIGMA_DATA**2)
        c_out = t / (t**2 + SIGMA_DATA**2) ** 0.5
        sigma, c_skip, c_out = (v.view(-1, *[1] * (model_input.ndim - 1)) for v in (sigma, c_skip, c_out))
        return c_out * (model_input - sigma * model_output) + c_skip * model_input / (1 + sigma**2) ** 0.5


def has_lcm_sampling(model: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether the model samples as a consistency model, through this pack or through the host's ModelSamplingDiscrete."""
    return isinstance(model.get_model_object("model_sampling"), host_lcm.LCM)


def remedy(steps: int, available: int) -> str:
    """What to set instead, with the numbers."""
    if steps < 1:
        return "raise steps to 1"
    if steps > ORIGINAL_STEPS:
        return f"lower steps to {available}"
    # In hundredths, as the widget has them; int(50 * 0.58) is 28.
    enough = next(k / 100 for k in range(1, 101) if int(ORIGINAL_STEPS * (k / 100)) >= steps)
    return f"lower steps to {available}, or raise denoise to {enough:g}"


def timesteps(steps: int, denoise: float) -> list[int]:
    """The descending timesteps of LCMScheduler.set_timesteps(steps, strength=denoise); ValueError where it raises."""
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}; it must be between 0 and 1.")
    available = int(ORIGINAL_STEPS * denoise)
    if available < 1:
        raise ValueError(f"denoise {denoise:g} leaves no step to do: use at least {1 / ORIGINAL_STEPS:g}, or 0 for none.")
    if not 1 <= steps <= available:
        raise ValueError(
            f"steps is {steps}; with denoise {denoise:g} an LCM has at least 1 and at most {available} steps: "
            f"{remedy(steps, available)}."
        )
    # In floating point, as numpy.linspace there: exact integers differ at some steps (33 at denoise 0.9).
    stride = available / steps
    return [(available - int(i * stride)) * TIMESTEP_STRIDE - 1 for i in range(steps)]


def sigmas(model_sampling, steps: int, denoise: float) -> torch.Tensor:
    """[steps + 1] noise levels of the timesteps, from the model's own table, and a final zero."""
    table = model_sampling.sigmas.tolist()
    return torch.tensor([table[(t + 1) // TIMESTEP_STRIDE - 1] for t in timesteps(steps, denoise)] + [0.0])


def generators(seed: int, indices: list[int]) -> list[torch.Generator]:
    """One CPU generator per picture, seeded seed + its batch index: the same noise on every machine and in every batch."""
    return [torch.Generator("cpu").manual_seed((seed + i) % 2**64) for i in indices]


def noise(shape: tuple[int, ...], generators: list[torch.Generator]) -> torch.Tensor:
    """fp32 noise [B, C, h, w] on the CPU; item i comes from generator i alone."""
    return torch.cat([torch.randn((1, *shape[1:]), generator=g) for g in generators])


def make_sampler(guider: comfy.samplers.CFGGuider, generators: list[torch.Generator], levels: list[float]) -> Callable:
    """The sampler function for comfy.samplers.KSAMPLER: predict the clean latent, noise it to the next level, repeat.

    levels are the sigmas as numbers: the loop never waits for the device.
    """

    def sample_vega_lcm(model, x, sigmas, extra_args, callback, disable):
        move_conditioning(guider.conds, x.device)
        add_wrapper(
            WrappersMP.CALC_COND_BATCH, single_cond.calc_cond_batch, extra_args["model_options"], is_model_options=True
        )
        ones = x.new_ones(len(x))
        for i in progress.step_range(len(levels) - 1, disable):
            clean = model(x, sigmas[i] * ones, **extra_args)
            if callback is not None:
                callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": clean})
            x = clean
            if levels[i + 1] > 0:
                x = clean + levels[i + 1] * to_device_async(noise(x.shape, generators), x.device)
        return x

    return sample_vega_lcm


def to_device_async(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device, without waiting for what the device still has to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # only from pinned memory is a copy to the GPU asynchronous
    return tensor.to(device, non_blocking=True)


def move_conditioning(conds: dict[str, list[dict]], device: torch.device) -> None:
    """The tensors that the host made of the conditioning (model_conds), to the device: it would copy them at every step."""
    for entry in conds["positive"]:
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
) -> dict:
    """The latent dict with "samples" [B, C, h, w] drawn anew; its other keys are kept, its own tensors untouched.

    seed + batch index seeds each picture. denoise 0 returns the latent as it came.
    Raises ValueError for a model, conditioning or latent that cannot give a right picture.
    """
    out = latent.copy()
    ratio = out.pop("downscale_ratio_spacial", None)
    out.pop("downscale_ratio_temporal", None)
    if denoise == 0:
        return out
    if not has_lcm_sampling(model):
        raise ValueError(
            "This model doesn't sample as an LCM. Put `Apply LCM-LoRA (Vega)` before this sampler, "
            "or `ModelSamplingDiscrete` set to lcm if the checkpoint has its LCM-LoRA fused in. A checkpoint with another "
            "few-step adapter in it (DMD2, Lightning, Hyper-SD, Turbo) is for ComfyUI's own KSampler."
        )
    levels = sigmas(model.get_model_object("model_sampling"), steps, denoise)
    check_conditioning(model, positive)
    sd15_blocks.check_patches(model)
    sd15_blocks.check_conditioning(model, positive)
    start = check_latent(model, latent["samples"], ratio)
    indices = latent.get("batch_index") or range(len(start))
    if len(indices) != len(start):
        raise ValueError(
            f"The latent has {len(start)} pictures but a batch_index of {len(indices)}: make the batch with "
            "one node, Empty Latent Image or Repeat Latent Batch."
        )
    streams = generators(seed, list(indices))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    samples = guider.sample(
        noise(tuple(start.shape), streams),
        start,
        comfy.samplers.KSAMPLER(make_sampler(guider, streams, levels.tolist())),
        levels,
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


def check_conditioning(model: comfy.model_patcher.ModelPatcher, positive: list) -> None:
    """ValueError unless every entry of the conditioning can enter this model's UNet."""
    if not positive:
        raise ValueError("positive has no entries: connect the output of a CLIP Text Encode.")
    width = model.model.model_config.unet_config.get("context_dim")
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()  # what the UNet computes in
    for context, _ in positive:
        if isinstance(width, int) and context.shape[-1] != width:
            raise ValueError(
                f"positive has {context.shape[-1]} features a token, this model needs {width}: "
                "encode the prompt with the CLIP that comes from the same loader as the model."
            )
        if not context.to(dtype).isfinite().all():
            raise ValueError(
                "positive contains NaN or infinite values: an emphasis in the prompt is no number or far too large, as in "
                "(word:inf) or (word:1e30), or its text encoder or a LoRA on it is damaged. Emphasise by 0.5 to "
                "2, or download those again."
            )
        if (spread := token_spread(context)) > MAX_TOKEN_SPREAD:
            raise ValueError(
                f"positive has tokens {spread:.0f} times as large as others: an emphasis in the prompt is far too large, as "
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
