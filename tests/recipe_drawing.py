"""vega-nano with its LCM-LoRA, drawn by any recipe: by the pack, and by diffusers' pipelines as the makers set them up."""

import makers_schedulers
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from vega_pack.vega import checkpoint, lcm, model_sampling, recipes

SCALE = 0.13025  # of SDXL's latents in the UNet
PROMPT, NEGATIVE = "a red sunset over snowy mountains with a lake", "night, desert"


def with_recipe(few_step, name, eta=None):
    """The few-step model with a recipe in place of its own."""
    model = few_step.clone()
    recipe = recipes.with_eta(recipes.BY_NAME[name], eta)
    model.add_object_patch("model_sampling", model_sampling.from_recipe(recipe, model.model.model_config))
    return model


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def draw(model, clip, latent, steps=4, seed=5, denoise=1.0, cfg=1.0):
    """The latents [B, 4, h, w] as the UNet has them."""
    positive, negative = encode(clip, PROMPT), encode(clip, NEGATIVE) if cfg != 1 else None
    drawn = lcm.sample(model, seed, steps, positive, latent, denoise, disable_progress=True, negative=negative, cfg=cfg)
    return drawn["samples"] * SCALE


def pipeline(kind=StableDiffusionXLPipeline):
    pipe = kind.from_pretrained(checkpoint.NANO_DIR, torch_dtype=torch.float32)
    pipe.load_lora_weights(checkpoint.NANO_LORA.parent, weight_name=checkpoint.NANO_LORA.name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def img2img(pipe):
    """The same parts in the pipeline for pictures, which takes latents as the start picture."""
    return StableDiffusionXLImg2ImgPipeline(**pipe.components, add_watermarker=False)


def expected(pipe, name, batch=1, steps=4, seed=5, cfg=0.0, **given):
    """The pipeline's latents; given: height and width, or image and strength."""
    pipe.scheduler = makers_schedulers.scheduler(name)
    recipe = recipes.BY_NAME[name]
    return pipe(
        PROMPT,
        negative_prompt=NEGATIVE if cfg else None,
        num_inference_steps=steps,
        timesteps=makers_schedulers.custom_timesteps(name, steps),
        guidance_scale=cfg,
        num_images_per_prompt=batch,
        generator=[torch.Generator("cpu").manual_seed((seed + i) % 2**64) for i in range(batch)],
        eta=recipe.eta or 0.0,
        output_type="latent",
        **given,
    ).images
