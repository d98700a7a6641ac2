"""diffusers' schedulers as the makers of each kind of few-step adapter set them up, and the timesteps that they ask for."""

from types import SimpleNamespace

from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLImg2ImgPipeline,
    TCDScheduler,
)
from diffusers.utils import logging

# What scheduler_config.json of SDXL and of Stable Diffusion 1.5 says, from which the makers take the rest.
BASE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
BASE |= dict(
    steps_offset=1, clip_sample=False, set_alpha_to_one=False, prediction_type="epsilon", timestep_spacing="leading"
)
TRAILING = {"timestep_spacing": "trailing"}
MAKERS = {
    "LCM": (LCMScheduler, {}),
    "DMD2": (LCMScheduler, {}),
    "TCD": (TCDScheduler, {}),
    "Hyper-SD": (DDIMScheduler, TRAILING),
    "Hyper-SD CFG": (DDIMScheduler, TRAILING),
    "Hyper-SD 1-step": (TCDScheduler, {}),
    "SDXL-Lightning": (EulerDiscreteScheduler, TRAILING),
    "PCM": (DDIMScheduler, {**TRAILING, "clip_sample": False, "set_alpha_to_one": False}),
    "PCM normal CFG": (DDIMScheduler, {**TRAILING, "clip_sample": False, "set_alpha_to_one": False}),
    "Flash Diffusion": (LCMScheduler, TRAILING),
}
logging.set_verbosity_error()  # LCMScheduler warns of timesteps that are not its own
DMD2_TIMESTEPS = [999, 749, 499, 249]


def scheduler(name: str):
    kind, settings = MAKERS[name]
    return kind.from_config({**BASE, **settings})


def custom_timesteps(name: str, steps: int) -> list[int] | None:
    """What DMD2's makers pass to the pipeline; other numbers of steps than theirs are spaced likewise."""
    if name != "DMD2":
        return None
    if steps == 4:
        return DMD2_TIMESTEPS
    spaced = scheduler("Hyper-SD")
    spaced.set_timesteps(steps)
    return spaced.timesteps.tolist()


def timesteps(name: str, steps: int, denoise: float) -> list[int]:
    """Those of the scheduler, or of diffusers' img2img pipeline where the scheduler has no strength; ValueError for none."""
    found = scheduler(name)
    if custom := custom_timesteps(name, steps):
        found.set_timesteps(timesteps=custom, strength=denoise)
    elif isinstance(found, LCMScheduler | TCDScheduler):
        found.set_timesteps(steps, strength=denoise)
    else:
        found.set_timesteps(steps)
        pipeline = SimpleNamespace(scheduler=found)
        kept, _ = StableDiffusionXLImg2ImgPipeline.get_timesteps(pipeline, steps, denoise, "cpu")
        return check([int(t) for t in kept])
    return check(found.timesteps.tolist())


def check(timesteps: list[int]) -> list[int]:
    if not timesteps:
        raise ValueError("no timesteps: the pipelines raise this")
    return timesteps
