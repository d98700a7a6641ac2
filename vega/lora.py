"""An LCM-LoRA file onto a model: every module, or a clear refusal."""

import logging
import re
from functools import partial
from pathlib import Path

import comfy.lora
import comfy.model_patcher
import torch

from . import lcm, lora_keys, peft_alpha, unet, weights

# What every published LCM-LoRA adapts, in kohya's spelling.
ADAPTED = re.compile(
    r"_(to_q|to_k|to_v|to_out_0|proj_in|proj_out|ff_net_0_proj|ff_net_2|conv1|conv2|conv_shortcut"
    r"|downsamplers_0_conv|upsamplers_0_conv|time_emb_proj)$"
)
# No LoRA for a style has these unless it was trained on convolutions too.
RESIDUAL = ("conv1", "conv2", "time_emb_proj")
# Number of such modules -> the base, and where its LCM-LoRA is.
BASES = {
    788: ("SDXL", "latent-consistency/lcm-lora-sdxl"),
    423: ("SSD-1B", "latent-consistency/lcm-lora-ssd-1b"),
    233: ("Segmind-Vega", "the VegaRT adapter, segmind/Segmind-VegaRT"),
    278: ("Stable Diffusion 1.5", "latent-consistency/lcm-lora-sdv1-5"),
    178: ("small-sd", "latent-consistency/lcm-lora-sdv1-5"),
    147: ("tiny-sd", "latent-consistency/lcm-lora-sdv1-5"),
}
SD15 = 278
NANO = (182, 64)  # modules and channels of vega-nano
CHANNELS = 320  # of every published base
# kohya's training scripts write these about their pictures; what distils a model has none of its own.
STYLE_METADATA = ("ss_dataset_dirs", "ss_tag_frequency", "ss_num_train_images")

USE_CORE = "Put it on with ComfyUI's own Load LoRA, before or after this node, and choose an LCM-LoRA here."


def apply(model: comfy.model_patcher.ModelPatcher, path: Path, strength: float) -> comfy.model_patcher.ModelPatcher:
    """A clone of the model with the LCM-LoRA as a weight patch and LCM sampling set; the model itself at strength 0.

    Raises ValueError unless the file adapts exactly the modules that an LCM-LoRA for this model adapts. One for Stable
    Diffusion 1.5 is mapped onto small-sd and tiny-sd, which were made from it by leaving blocks out.
    """
    if strength == 0:
        return model
    if lcm.has_lcm_sampling(model):
        raise ValueError("This model already samples as an LCM: apply one LCM-LoRA, and only one, to a base model.")
    tensors, metadata = weights.read(path)
    state_dict = model.model.diffusion_model.state_dict()
    config = model.model.model_config.unet_config
    targets = {
        kohya: key
        for name, key in unet.diffusers_names(config, state_dict).items()
        if ADAPTED.search(kohya := name.removesuffix(".weight").replace(".", "_"))
    }
    if not targets:
        raise ValueError(f"{path}: the model has no UNet of the Stable Diffusion family, so no LCM-LoRA fits it.")
    adapter = matched(path, tensors, metadata, targets, config["model_channels"])
    weights.check_end(path)

    renamed, ranks, alphas, dtypes = {}, set(), set(), set()
    for module, sides in adapter.items():
        down, up = sides.get("down"), sides.get("up")
        if down is None or up is None:
            raise ValueError(f"{path}: {module} has only one of its two matrices. Download the file again.")
        check_shapes(path, module, down, up, state_dict[targets[module]], config["model_channels"])
        renamed[f"{module}.lora_down.weight"], renamed[f"{module}.lora_up.weight"] = down, up
        if "alpha" in sides:
            alpha = sides["alpha"].item() if sides["alpha"].numel() == 1 else float("nan")
            if not abs(alpha) < float("inf"):
                raise ValueError(f"{path}: the alpha of {module} is not a number. Download the file again.")
            renamed[f"{module}.alpha"] = torch.tensor(float(alpha))
            alphas.add(alpha)
        ranks.add(down.shape[0])
        dtypes.add(str(down.dtype).removeprefix("torch."))
    key_map = {module: f"diffusion_model.{targets[module]}" for module in adapter}
    patches = comfy.lora.load_lora(renamed, key_map, log_missing=False)

    patched = model.clone()
    applied = patched.add_patches(patches, strength)
    if len(applied) != len(targets):
        raise ValueError(f"{path}: the host took {len(applied)} of {len(targets)} modules.")
    patched.add_object_patch("model_sampling", lcm.LCMSampling(model.model.model_config))
    logging.info(
        "LCM-LoRA %s: %d of %d modules, rank %s, alpha %s, %s, base %s",
        path.name,
        len(applied),
        len(targets),
        span(ranks),
        span(alphas) if alphas else "not in the file, so the rank",
        " and ".join(sorted(dtypes)),
        base(len(targets), config["model_channels"]),
    )
    return patched


def matched(
    path: Path,
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    targets: dict[str, str],
    channels: int,
) -> dict[str, dict[str, torch.Tensor]]:
    """Each of the model's modules -> its matrices in the file; ValueError unless the file has just these.

    Names and shapes alone would let an SDXL LCM-LoRA onto Vega: the smaller model's modules are a subset.
    """
    if not tensors:
        raise ValueError(f"{path} is empty: it holds no LoRA. Download it again.")
    for_text = [key for key in tensors if lora_keys.is_text_encoders(key)]
    if len(for_text) == len(tensors):
        raise ValueError(f"{path} adapts text encoders only, so it is no LCM-LoRA. {USE_CORE}")
    adapter = lora_keys.grouped(path, tensors, partial(peft_alpha.read, path, metadata))
    found = adapter.keys()
    residual = any(module.endswith(RESIDUAL) for module in found)
    if for_text or not residual or any(key in metadata for key in STYLE_METADATA):
        why = "text encoders too" if for_text else "attention alone" if not residual else "a model to pictures"
        raise ValueError(
            f"{path} looks like a LoRA for a style or a subject (it adapts {why}), not like an LCM-LoRA. {USE_CORE}"
        )
    if found == targets.keys():
        return adapter
    if len(found) == SD15 and len(targets) in (178, 147):
        sources = {module: in_sd15(module, tiny=len(targets) == 147) for module in targets}
        if all(source in found for source in sources.values()):
            return {module: adapter[source] for module, source in sources.items()}
    strangers, missing = sorted(found - targets.keys()), sorted(targets.keys() - found)
    ours = f"the model is {base(len(targets), channels)}, which has {len(targets)}"
    where = "the embedded LCM-LoRA" if is_nano(len(targets), channels) else BASES.get(len(targets), (0, "its own"))[1]
    if len(found) in BASES and len(found) != len(targets):
        raise ValueError(
            f"{path}: this LCM-LoRA has {len(found)} modules and matches {BASES[len(found)][0]}; {ours}: use {where}."
        )
    parts = [f"not in the model: {weights.listing(strangers)}"] if strangers else []
    parts += [f"{len(missing)} of the model's are not in the file: {weights.listing(missing)}"] if missing else []
    advice = f"use {where}" if strangers else f"If it should be whole, download it again; else use {where}"
    raise ValueError(
        f"{path}: this LoRA has {len(found)} modules, which match no base that is known; {ours} ({'; '.join(parts)}). "
        f"{advice[0].upper()}{advice[1:]}."
    )


def is_nano(modules: int, channels: int) -> bool:
    return (modules, channels) == NANO


def base(modules: int, channels: int) -> str:
    """What a model with so many modules and channels is called."""
    if is_nano(modules, channels):
        return "vega-nano"
    name = BASES[modules][0] if modules in BASES else "another one"
    return name if channels == CHANNELS else f"{name} with {channels} channels"


def in_sd15(module: str, tiny: bool) -> str:
    """The module of Stable Diffusion 1.5 that one of small-sd or tiny-sd was made from.

    segmind/distill-sd (distill_training.py, prepare_unet) keeps the first and the last block of each level going up;
    tiny-sd's three levels are the outer three.
    """
    module = re.sub(r"^(up_blocks_\d+_(?:resnets|attentions))_1_", r"\1_2_", module)
    return re.sub(r"^up_blocks_(\d+)", lambda match: f"up_blocks_{int(match[1]) + 1}", module) if tiny else module


def check_shapes(path: Path, module: str, down, up, weight, channels: int) -> None:
    """ValueError unless up @ down, flattened, is an update of the weight."""
    if down.ndim < 2 or up.ndim < 2 or not len(down) or not {down.dtype, up.dtype} <= set(weights.DTYPES):
        raise ValueError(f"{path}: {module} is not two matrices of fp32, fp16 or bf16. Download the file again.")
    if up.flatten(1).shape[1] != len(down):
        raise ValueError(
            f"{path}: the two matrices of {module} have ranks {len(down)} and {up.flatten(1).shape[1]}. Download it again."
        )
    if (up.flatten(1).shape[0], down.flatten(1).shape[1]) != (weight.shape[0], weight.flatten(1).shape[1]):
        raise ValueError(
            f"{path}: {module} is for a weight of {[up.shape[0], *down.shape[1:]]}, this model's is {list(weight.shape)} "
            f"({channels} channels): the file was made for another base."
        )


def span(values: set) -> str:
    """One number, or the least and the most."""
    least, most = min(values), max(values)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"
