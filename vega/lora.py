"""A few-step LoRA onto a model: every module of it, and the recipe that draws it, or a clear refusal."""

import logging
import re
from functools import partial
from pathlib import Path

import comfy.lora
import comfy.model_patcher
import comfy.weight_adapter
import torch

from . import few_step_adapters, lora_keys, model_sampling, peft_alpha, recipes, sd15_blocks, unet, weights
from .few_step_adapters import RecipeChoice

# What every published LCM-LoRA adapts, in kohya's spelling.
ADAPTED_MODULES = re.compile(
    r"_(to_q|to_k|to_v|to_out_0|proj_in|proj_out|ff_net_0_proj|ff_net_2|conv1|conv2|conv_shortcut"
    r"|downsamplers_0_conv|upsamplers_0_conv|time_emb_proj)$"
)
ATTENTION_MODULES = re.compile(r"_(to_q|to_k|to_v|to_out_0)$")  # all that Flash Diffusion's LoRAs adapt
# No LoRA for a style has these unless it was trained on convolutions too.
RESIDUAL_MODULES = ("conv1", "conv2", "time_emb_proj")
# Number of such modules -> the base, and where its LCM-LoRA is.
BASES = {
    788: ("SDXL", "latent-consistency/lcm-lora-sdxl"),
    423: ("SSD-1B", "latent-consistency/lcm-lora-ssd-1b"),
    233: ("Segmind-Vega", "the VegaRT adapter, segmind/Segmind-VegaRT"),
    278: ("Stable Diffusion 1.5", "latent-consistency/lcm-lora-sdv1-5"),
    178: ("small-sd", "latent-consistency/lcm-lora-sdv1-5"),
    147: ("tiny-sd", "latent-consistency/lcm-lora-sdv1-5"),
}
SD15_MODULE_COUNT = 278
SD15_ATTENTION_MODULE_COUNT = 128  # such modules of SD 1.5 alone
# Begins the keys of a few-step LoRA's adapters that Load LoRA (Vega) puts on.
FEW_STEP_PREFIX = f"{sd15_blocks.PATCH_PREFIX}few-step."
NANO_SIGNATURE = (182, 64)  # modules and channels of vega-nano
BASE_CHANNELS = 320  # of every published base
# kohya's training scripts write these about their pictures; what distils a model has none of its own.
STYLE_METADATA = ("ss_dataset_dirs", "ss_tag_frequency", "ss_num_train_images")

USE_LOADER_MESSAGE = (
    "Put it on with `Load LoRA (Vega)` (ComfyUI's own Load LoRA leaves out the attention of PEFT's files), before or after "
    "this node, and choose an LCM-LoRA here."
)
# The host's own counts the blocks of these models as if none had been left out.
USE_PACK_LOADER_MESSAGE = "Put it on with `Load LoRA (Vega)`, before or after this node, and choose an LCM-LoRA here."


def apply(
    model: comfy.model_patcher.ModelPatcher,
    path: Path,
    strength: float,
    choice: RecipeChoice | None = None,
    eta: float | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """A clone of the model with the few-step LoRA as a weight patch, and its recipe; the model itself at strength 0.

    choice: what the file is drawn as, by default what few_step_adapters.choose() tells. eta: another than the recipe's.
    Raises ValueError unless the file adapts exactly the modules that such a LoRA for this model adapts. One for Stable
    Diffusion 1.5 is mapped onto small-sd and tiny-sd, which were made from it by leaving blocks out.
    """
    if strength == 0:
        return model
    check_base(model)
    tensors, metadata = weights.read(path)
    config = model.model.model_config.unet_config
    if not lcm_targets(model):
        raise ValueError(
            f"{path}: the model has no UNet of the Stable Diffusion family, so no LCM-LoRA fits it: take a "
            "model from `Load Vega`."
        )
    sd15_blocks.check_patches(model)
    if has_few_step(model):
        raise ValueError(
            "A few-step LoRA is on this model already, from Load LoRA (Vega): take it away there, or keep it there and set "
            f"lora_name here to {recipes.FUSED_LORA!r} and recipe to its own."
        )
    choice = choice or few_step_adapters.choose(path, metadata)
    adapter = match_modules(path, tensors, metadata, model, choice)
    weights.check_end(path)

    patched = with_recipe(model, choice.recipe, eta)
    targets = recipe_targets(model, choice.recipe)
    applied = patched.add_patches(make_patches(path, adapter, targets, model), strength)
    if len(applied) != len(targets):
        raise ValueError(
            f"{path}: ComfyUI took {len(applied)} of {len(targets)} modules: connect `Load Vega` straight to this node."
        )
    logging.info(
        "%s LoRA %s: %d of %d modules, %s, base %s; recipe from %s",
        choice.name,
        path.name,
        len(applied),
        len(targets),
        summarize(adapter),
        base_name(len(lcm_targets(model)), config["model_channels"]),
        choice.source,
    )
    return patched


def with_recipe(
    model: comfy.model_patcher.ModelPatcher, recipe: recipes.Recipe, eta: float | None = None
) -> comfy.model_patcher.ModelPatcher:
    """A clone of the model that is drawn by the recipe; ValueError where the recipe is not for such a model."""
    check_base(model)
    recipe = recipes.with_eta(recipe, eta)
    config = model.model.model_config
    sampling = model.get_model_object("model_sampling")
    if not lcm_targets(model) or not model_sampling.predicts_noise(sampling):
        raise ValueError(
            "Few-step recipes are for models of the Stable Diffusion family that predict the noise, and this one is of "
            "another family or predicts something else (v-prediction): take a model from `Load Vega`."
        )
    if recipe.is_for_sdxl and config.unet_config.get("adm_in_channels") is None:
        name = base_name(len(lcm_targets(model)), config.unet_config["model_channels"])
        raise ValueError(f"{recipe.name} is for SDXL alone, and the model is {name}: choose another recipe or model.")
    patched = model.clone()
    patched.add_object_patch("model_sampling", model_sampling.from_recipe(recipe, config))
    return patched


def check_base(model: comfy.model_patcher.ModelPatcher) -> None:
    """ValueError for a model that is drawn by a recipe already."""
    if recipe := model_sampling.carried_recipe(model):
        kind = "an LCM" if recipe == recipes.LCM else f"{recipe.name} does"
        raise ValueError(
            f"This model already samples as {kind}: apply one LCM-LoRA or other few-step LoRA, and only one, to a base "
            "model."
        )


def has_few_step(model: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether Load LoRA (Vega) put a LoRA on the model that is a few-step one by its name."""
    adapters = [patch for of_weight in model.patches.values() for _, patch, *_ in of_weight]
    adapters = [patch for patch in adapters if isinstance(patch, comfy.weight_adapter.WeightAdapterBase)]
    return any(next(iter(adapter.loaded_keys)).startswith(FEW_STEP_PREFIX) for adapter in adapters)


def lcm_targets(model: comfy.model_patcher.ModelPatcher) -> dict[str, str]:
    """Each module that an LCM-LoRA for this model adapts, in kohya's spelling -> the UNet's weight; none of other models."""
    state_dict = model.model.diffusion_model.state_dict()
    names = unet.diffusers_to_native(model.model.model_config.unet_config, state_dict)
    return {kohya: key for name, key in names.items() if ADAPTED_MODULES.search(kohya := lora_keys.to_kohya(name))}


def recipe_targets(model: comfy.model_patcher.ModelPatcher, recipe: recipes.Recipe) -> dict[str, str]:
    """As lcm_targets(), of a LoRA for this recipe."""
    targets = lcm_targets(model)
    return {m: key for m, key in targets.items() if ATTENTION_MODULES.search(m)} if recipe.is_attention_only else targets


def make_patches(
    path: Path,
    adapter: dict[str, dict[str, torch.Tensor]],
    targets: dict[str, str],
    model: comfy.model_patcher.ModelPatcher,
    prefix: str = sd15_blocks.PATCH_PREFIX,
) -> dict[str, comfy.weight_adapter.WeightAdapterBase]:
    """The host's patches for the weights (targets) of an adapter's modules; ValueError for a module that does not fit."""
    state_dict = model.model.diffusion_model.state_dict()
    renamed, key_map = {}, {}
    for module, sides in adapter.items():
        down, up = sides.get("down"), sides.get("up")
        if down is None or up is None:
            raise ValueError(f"{path}: {module} has only one of its two matrices. Download the file again.")
        check_shapes(path, module, down, up, state_dict[targets[module]], model.model.model_config.unet_config)
        ours = f"{prefix}{module}"
        key_map[ours] = f"diffusion_model.{targets[module]}"
        renamed[f"{ours}.lora_down.weight"], renamed[f"{ours}.lora_up.weight"] = down, up
        if "alpha" in sides:
            alpha = read_alpha(sides)
            if not abs(alpha) < float("inf"):
                raise ValueError(f"{path}: the alpha of {module} is not a number. Download the file again.")
            renamed[f"{ours}.alpha"] = torch.tensor(alpha)
    return comfy.lora.load_lora(renamed, key_map, log_missing=False)


def read_alpha(sides: dict[str, torch.Tensor]) -> float:
    return float(sides["alpha"].item()) if sides["alpha"].numel() == 1 else float("nan")


def summarize(adapter: dict[str, dict[str, torch.Tensor]]) -> str:
    """What a file holds, in words: "rank 64, alpha 8, float16"."""
    alphas = {read_alpha(sides) for sides in adapter.values() if "alpha" in sides}
    dtypes = sorted({str(sides["down"].dtype).removeprefix("torch.") for sides in adapter.values()})
    rank = format_range({sides["down"].shape[0] for sides in adapter.values()})
    return f"rank {rank}, alpha {format_range(alphas) if alphas else 'not in the file, so the rank'}, {' and '.join(dtypes)}"


def match_modules(
    path: Path,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    model: comfy.model_patcher.ModelPatcher,
    choice: RecipeChoice,
) -> dict[str, dict[str, torch.Tensor]]:
    """Each of the model's modules -> its matrices in the file; ValueError unless the file has just these.

    Names and shapes alone would let an SDXL LCM-LoRA onto Vega: the smaller model's modules are a subset.
    """
    config = model.model.model_config.unet_config
    channels = config["model_channels"]
    if not tensors:
        raise ValueError(f"{path} is empty: it holds no LoRA. Download it again.")
    levels = sd15_blocks.count_kept_levels(config)
    remedy = USE_PACK_LOADER_MESSAGE if levels else USE_LOADER_MESSAGE
    for_text = [key for key in tensors if lora_keys.is_text_encoder_key(key)]
    if len(for_text) == len(tensors):
        raise ValueError(f"{path} adapts text encoders only, so it is no LCM-LoRA. {remedy}")
    of_pictures = any(key in metadata for key in STYLE_METADATA)
    if for_text or of_pictures:
        why = "text encoders too" if for_text else "a model to pictures"
        raise ValueError(
            f"{path} looks like a LoRA for a style or a subject (it adapts {why}), not like an LCM-LoRA. {remedy}"
        )
    adapter = lora_keys.group_whole_file(path, tensors, partial(peft_alpha.read, path, metadata))
    modules = adapter.keys()
    residual = any(module.endswith(RESIDUAL_MODULES) for module in modules)
    if choice.recipe is None and residual:
        raise ValueError(
            f"{path} is {choice.name} by {choice.source}, and there is no recipe for it here. Draw with it "
            f"{choice.alternative}. If it is an LCM-LoRA all the same, set recipe to LCM."
        )
    attention_only = choice.recipe is not None and choice.recipe.is_attention_only
    if attention_only and residual:
        remedy = "set recipe to auto" if choice.evidence == "user" else "set recipe to LCM or to its own"
        raise ValueError(f"{path} changes residual blocks too, as no LoRA of {choice.name} does: {remedy}.")
    if not residual and not attention_only:
        raise ValueError(
            f"{path} is no LCM-LoRA: it changes attention layers alone, as most LoRAs for a style or a subject do, and "
            f"so does Flash Diffusion's. {remedy} If it is Flash Diffusion's, set recipe to that."
        )
    targets = recipe_targets(model, choice.recipe)
    if modules == targets.keys():
        return adapter
    if len(modules) in (SD15_MODULE_COUNT, SD15_ATTENTION_MODULE_COUNT) and levels:
        sources = {module: sd15_blocks.to_sd15_module(module, levels) for module in targets}
        if all(source in modules for source in sources.values()):
            return {module: adapter[source] for module, source in sources.items()}
    strangers, missing = sorted(modules - targets.keys()), sorted(targets.keys() - modules)
    base = len(lcm_targets(model))
    ours = f"the model is {base_name(base, channels)}, which has {len(targets)}"
    where = "the embedded LCM-LoRA" if is_nano(base, channels) else BASES.get(base, (0, "its own"))[1]
    if choice.name != recipes.LCM.name:
        where = f"the file of {choice.name} for that, if there is one"
    made_for = SD15_MODULE_COUNT if len(modules) == SD15_ATTENTION_MODULE_COUNT else len(modules)
    if made_for in BASES and len(modules) != len(targets):
        raise ValueError(
            f"{path}: this {choice.name} LoRA has {len(modules)} modules and matches {BASES[made_for][0]}; {ours}: use "
            f"{where}."
        )
    parts = [f"not in the model: {weights.list_names(strangers)}"] if strangers else []
    parts += [f"{len(missing)} of the model's are not in the file: {weights.list_names(missing)}"] if missing else []
    advice = f"use {where}" if strangers else f"If it should be whole, download it again; else use {where}"
    raise ValueError(
        f"{path}: this LoRA has {len(modules)} modules, which match no base that is known; {ours} ({'; '.join(parts)}). "
        f"{advice[0].upper()}{advice[1:]}."
    )


def is_nano(modules: int, channels: int) -> bool:
    return (modules, channels) == NANO_SIGNATURE


def base_name(modules: int, channels: int) -> str:
    """What a model of this number of modules and channels is called."""
    if is_nano(modules, channels):
        return "vega-nano"
    name = BASES[modules][0] if modules in BASES else "another one"
    return name if channels == BASE_CHANNELS else f"{name} with {channels} channels"


def shapes_fit(down: torch.Tensor, up: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether up @ down, flattened, is an update of the weight."""
    up, down = up.flatten(1), down.flatten(1)
    return (up.shape[0], up.shape[1], down.shape[1]) == (weight.shape[0], down.shape[0], weight.flatten(1).shape[1])


def check_shapes(path: Path, module: str, down, up, weight, config: dict) -> None:
    """ValueError unless the two matrices fit the weight."""
    if down.ndim < 2 or up.ndim < 2 or not len(down) or not {down.dtype, up.dtype} <= set(weights.DTYPES):
        raise ValueError(f"{path}: {module} is not two matrices of fp32, fp16 or bf16. Download the file again.")
    if up.flatten(1).shape[1] != len(down):
        raise ValueError(
            f"{path}: the two matrices of {module} have ranks {len(down)} and {up.flatten(1).shape[1]}. Download it again."
        )
    if not shapes_fit(down, up, weight):
        raise ValueError(
            f"{path}: {module} is for a weight of {[up.shape[0], *down.shape[1:]]}, this model's is {list(weight.shape)} "
            f"({config['model_channels']} channels): the file was made for another base. Choose one for this model."
        )


def format_range(values: set) -> str:
    """One number, or the least and the most."""
    least, most = min(values), max(values)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"
