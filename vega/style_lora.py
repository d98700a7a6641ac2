"""A LoRA for a style or a subject onto a model and its text encoders: every module of it, or a clear refusal."""

import contextlib
import logging
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import comfy.lora
import comfy.model_patcher
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import torch

from . import few_step_adapters, lora, lora_keys, model_sampling, peft_alpha, sd15_blocks, unet, weights

AUTO, SD15, THIS_MODEL = "auto", "Stable Diffusion 1.5", "this model"
MADE_FOR_OPTIONS = (AUTO, SD15, THIS_MODEL)
RESIDUAL_MODULES = (*lora.RESIDUAL_MODULES, "in_layers_2", "out_layers_3", "emb_layers_1")  # under Stability's names as well
ATTENTION_KINDS = ("attn", "ff_", "proj_")  # begin the kinds of modules that are in an attention


class AppliedLora(NamedTuple):
    """What was done: in a sentence, and in numbers of modules."""

    summary: str
    modules: int  # of the UNet's, patched
    modules_in_file: int
    text_modules: int  # of the text encoders', patched
    lacks_clip: bool  # the file has some, and no CLIP is connected


def apply(
    model: comfy.model_patcher.ModelPatcher,
    clip: comfy.sd.CLIP | None,
    path: Path,
    strength_model: float,
    strength_clip: float,
    made_for: str = AUTO,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP | None, AppliedLora]:
    """Clones of the model and its text encoders with the LoRA as weight patches, and what was done.

    A LoRA of any key style, whole: ValueError names what does not fit. One for Stable Diffusion 1.5 is mapped onto
    small-sd and tiny-sd; modules of the blocks that were left out there are left out, and the summary counts them.
    made_for: one of MADE_FOR_OPTIONS, for a file that both read differently; other models take their own only.
    """
    tensors, metadata = weights.read(path)
    for_text = {normalize_text_key(key): tensor for key, tensor in tensors.items() if lora_keys.is_text_encoder_key(key)}
    adapter = lora_keys.group_by_module(path, tensors, partial(peft_alpha.read, path, metadata))
    if not tensors:
        raise ValueError(f"{path} is empty: it holds no LoRA. Download it again.")
    report, modules, text_modules = [], 0, 0
    if adapter and strength_model:
        sd15_blocks.check_patches(model)
        few_step = not for_text and is_few_step(path, metadata, adapter)
        if few_step and model_sampling.carried_recipe(model):
            raise ValueError(f"{path} is a few-step LoRA by its name, and the model has one already: apply one of the two.")
        check_matrices(path, adapter)
        targets, note = map_modules(path, adapter, model, made_for)
        kept = {module: sides for module, sides in adapter.items() if module in targets}
        prefix = lora.FEW_STEP_PREFIX if few_step else sd15_blocks.PATCH_PREFIX
        patches = lora.make_patches(path, kept, targets, model, prefix)
        if len(patches) != len(kept):
            raise ValueError(f"{path} names some modules twice, in two spellings. Save or download it again.")
        model = model.clone()
        model.add_patches(patches, strength_model)
        modules = len(kept)
        report.append(f"{modules} of {len(adapter)} UNet modules ({lora.summarize(kept)}){note}")
    if for_text and clip is not None and strength_clip:
        clip, text_modules = patch_text_encoders(path, for_text | text_alphas(path, metadata, for_text), clip, strength_clip)
        report.append(f"{text_modules} modules of text encoders")
    lacks_clip = bool(for_text) and clip is None
    if lacks_clip:
        report.append("its modules of text encoders not: no clip is connected")
    weights.check_end(path)
    summary = f"{path.name}: {'; '.join(report) or 'nothing at strength 0'}"
    logging.info("Load LoRA (Vega): %s", summary)
    return model, clip, AppliedLora(summary, modules, len(adapter), text_modules, lacks_clip)


def is_few_step(path: Path, metadata: dict[str, str], adapter: dict[str, dict[str, torch.Tensor]]) -> bool:
    """Whether a file is a few-step LoRA by its name, and adapts residual blocks, as those do and hardly a style does."""
    named = few_step_adapters.identify(path, metadata) or few_step_adapters.says_lcm(few_step_adapters.file_title(path))
    return bool(named) and any(module.endswith(RESIDUAL_MODULES) for module in adapter)


def check_matrices(path: Path, adapter: dict[str, dict[str, torch.Tensor]]) -> None:
    """ValueError unless each module has two matrices."""
    for module, sides in adapter.items():
        if not {"down", "up"} <= sides.keys() or min(sides["down"].ndim, sides["up"].ndim) < 2 or not len(sides["down"]):
            raise ValueError(f"{path}: {module} has not two matrices. Download the file again.")


def map_modules(
    path: Path, adapter: dict, model: comfy.model_patcher.ModelPatcher, made_for: str
) -> tuple[dict[str, str], str]:
    """The UNet's weight for each module of the file that is for one, and a note on what is left out."""
    config = model.model.model_config.unet_config
    state_dict = model.model.diffusion_model.state_dict()
    own = unet.diffusers_to_native(config, state_dict)
    if not own:
        raise ValueError(f"{path}: the model has no UNet of the Stable Diffusion family: use ComfyUI's own Load LoRA.")
    as_own = weights_by_module(own)
    if other := other_sd15_derivative(adapter, config):
        raise ValueError(
            f"{path} was made for {other}, by its modules; the model is {base_name(model)}, with other blocks. "
            f"Put it on {other}."
        )
    if not sd15_blocks.count_kept_levels(config):
        strangers = sorted(adapter.keys() - as_own.keys())
        if strangers:
            raise ValueError(
                f"{path} was made for another base: {len(strangers)} of its {len(adapter)} modules are not in the model, "
                f"which is {base_name(model)}: {weights.list_names(strangers)}. Choose one for this model."
            )
        return as_own, ""
    as_sd15 = sd15_modules(config, own)
    possible = {
        SD15: shapes_match(adapter, as_sd15, state_dict),
        THIS_MODEL: shapes_match(adapter, as_own, state_dict),
    }
    if made_for == AUTO:
        made_for = infer_made_for(path, adapter, as_own, as_sd15, possible, model)
    elif not possible[made_for]:
        raise ValueError(f"{path} was not made for {made_for}, by its modules and their shapes: set made_for to auto.")
    if made_for == THIS_MODEL:
        return as_own, ""
    targets = {module: key for module, key in as_sd15.items() if key}
    left_out = sum(module not in targets for module in adapter)
    if left_out == len(adapter):
        raise ValueError(
            f"{path} adapts only blocks of Stable Diffusion 1.5 that {base_name(model)} leaves out. Put it on SD 1.5."
        )
    note = f", made for Stable Diffusion 1.5; the other {left_out} are for blocks that {base_name(model)} leaves out"
    return targets, note


def base_name(model: comfy.model_patcher.ModelPatcher) -> str:
    config, modules = model.model.model_config.unet_config, len(lora.lcm_targets(model))
    if sd15_blocks.count_kept_levels(config) and modules not in lora.BASES:
        return "this model"
    return lora.base_name(modules, config["model_channels"])


def other_sd15_derivative(adapter: dict[str, dict[str, torch.Tensor]], config: dict) -> str | None:
    """The other model made from Stable Diffusion 1.5 of whose attention the file has every module of its kinds, if any."""
    if config.get("adm_in_channels") is not None or list(config["channel_mult"]) not in sd15_blocks.CHANNEL_MULTS:
        return None
    attention = {module for module in adapter if module_kind(module).startswith(ATTENTION_KINDS)}
    kinds = {module_kind(module) for module in attention}
    for called, levels in (("small-sd", sd15_blocks.LEVELS), ("tiny-sd", sd15_blocks.LEVELS - 1)):
        small = sd15_blocks.reduced_config(config, levels)
        has_middle = bool(sd15_blocks.kept_block_numbers(small)["middle"])
        names = weights_by_module(comfy.utils.unet_to_diffusers(small))
        names = {module: key for module, key in names.items() if has_middle or not key.startswith("middle_block")}
        every = {key for module, key in names.items() if module_kind(module) in kinds}
        if attention and attention <= names.keys() and {names[module] for module in attention} == every:
            return None if sd15_blocks.count_kept_levels(config) == levels else called
    return None


def weights_by_module(names: dict[str, str]) -> dict[str, str]:
    """Each module, under diffusers' and under Stability's name in kohya's spelling -> its weight, of a map of weights."""
    weight_of = {name: key for name, key in names.items() if name.endswith(".weight")}
    return {lora_keys.to_kohya(spelling): key for name, key in weight_of.items() for spelling in (name, key)}


def sd15_modules(config: dict, own: dict[str, str]) -> dict[str, str | None]:
    """Each module of the Stable Diffusion 1.5 a model was made from, in both spellings -> the model's weight or None."""
    levels = sd15_blocks.count_kept_levels(config)
    own_weights = {name: key for name, key in own.items() if name.endswith(".weight")}
    weight_of = {sd15_blocks.to_sd15_module(lora_keys.to_kohya(name), levels): key for name, key in own_weights.items()}
    modules = {}
    for name, native in comfy.utils.unet_to_diffusers(sd15_blocks.sd15_config(config)).items():
        if name.endswith(".weight"):
            module = lora_keys.to_kohya(name)
            modules |= {spelling: weight_of.get(module) for spelling in (module, lora_keys.to_kohya(native))}
    return modules


def shapes_match(adapter: dict, names: dict[str, str | None], state_dict: dict[str, torch.Tensor]) -> bool:
    """Whether every module of the file has a place by these names, in the shape of that place."""
    if not adapter.keys() <= names.keys():
        return False
    sided = [(sides["down"], sides["up"], names[module]) for module, sides in adapter.items()]
    return all(key is None or lora.shapes_fit(down, up, state_dict[key]) for down, up, key in sided)


def infer_made_for(
    path: Path,
    adapter: dict,
    as_own: dict[str, str],
    as_sd15: dict[str, str | None],
    possible: dict[str, bool],
    model: comfy.model_patcher.ModelPatcher,
) -> str:
    """Which of the two a file was made for; ValueError where that can't be told, and matters."""
    if not any(possible.values()):
        raise ValueError(
            f"{path} was made for another base: its {len(adapter)} modules fit neither {base_name(model)} nor Stable "
            "Diffusion 1.5, which that was made from. Choose one for either."
        )
    if not all(possible.values()):
        return next(name for name, can in possible.items() if can)
    if all(as_own[module] == as_sd15[module] for module in adapter):
        return THIS_MODEL
    # A trainer adapts a kind of module in every block: one made for this model has them all, one for SD 1.5 has more.
    kinds = {module_kind(module) for module in adapter}
    weights_adapted = {as_own[module] for module in adapter}
    if {key for module, key in as_own.items() if module_kind(module) in kinds} == weights_adapted:
        return THIS_MODEL
    raise ValueError(
        f"{path}: it can't be told whether it was made for Stable Diffusion 1.5 or for {base_name(model)}, made from that: "
        "set made_for to the one that it was made for."
    )


def module_kind(module: str) -> str:
    """What a module is in its block: its name without the block's."""
    return re.sub(r".*(?:block|blocks|attentions|resnets|samplers)_\d+_", "", module)


def normalize_text_key(key: str) -> str:
    """The key as the host knows it: since transformers 5 diffusers saves a CLIPTextModel's without text_model."""
    return re.sub(r"^(?:base_model\.model\.)?(text_encoder(?:_2)?)\.(?=encoder\.)", r"\1.text_model.", key)


def text_alphas(path: Path, metadata: dict[str, str], for_text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The alphas that the file states elsewhere for modules of text encoders, as weights beside their matrices."""
    ranks = {}
    for key, tensor in for_text.items():
        module = re.sub(r"\.?_?(lora_A(\.default)?|lora_down|lora\.down|lora_linear_layer\.down)\.weight$", "", key)
        if module != key and f"{module}.alpha" not in for_text and tensor.ndim:
            ranks.setdefault(key.partition(".")[0], {})[module] = tensor.shape[0]
    alphas = {}
    for encoder, of_encoder in ranks.items():
        alphas |= peft_alpha.read(path, metadata, of_encoder, f"{encoder}.")
    return {f"{module}.alpha": torch.tensor(alpha) for module, alpha in alphas.items()}


def patch_text_encoders(
    path: Path, for_text: dict[str, torch.Tensor], clip: comfy.sd.CLIP, strength: float
) -> tuple[comfy.sd.CLIP, int]:
    """A clone of the text encoders with the LoRA on them, and on how many modules; ValueError unless it is on all."""
    loaded = {}
    key_map = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    with contextlib.suppress(KeyError, RuntimeError):  # one matrix of two, or an alpha of several numbers
        loaded = comfy.lora.load_lora(for_text, key_map, log_missing=False)
    weight_of = clip.cond_stage_model.state_dict()
    pairs = {key: patch for key, patch in loaded.items() if isinstance(patch, comfy.weight_adapter.LoRAAdapter)}
    fitting = [key for key, patch in pairs.items() if lora.shapes_fit(patch.weights[1], patch.weights[0], weight_of[key])]
    taken = set().union(*(patch.loaded_keys for patch in pairs.values()))
    left = sorted(for_text.keys() - taken) or sorted(loaded.keys() - fitting)
    if left:
        raise ValueError(
            f"{path}: its weights for text encoders are not for this model's, or no LoRA of two matrices "
            f"({len(left)} of {len(for_text)}: {weights.list_names(left)}). It may be made for another base; without clip "
            "its UNet part can be tried."
        )
    patched = clip.clone()
    applied = patched.add_patches(loaded, strength)
    if len(applied) != len(loaded):
        raise ValueError(f"{path}: ComfyUI took {len(applied)} of {len(loaded)} modules: connect clip from `Load Vega`.")
    return patched, len(loaded)
