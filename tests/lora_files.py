"""LoRA files with random weights in every key style, and what the merge of one must be."""

import functools
import json
import re

import pytest
import torch
from safetensors.torch import save_file
from vega_pack.vega import diffusers_config, lora, unet

from dev import diffusers_folders as folders

TARGETS = re.compile(
    r"(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|conv_shortcut"
    r"|(down|up)samplers\.0\.conv|time_emb_proj)$"
)
RANK, ALPHA = 4, 2.0


def matrices(reference, dtype=torch.float32) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A random LoRA for every module that the published LCM-LoRAs adapt: diffusers' module name -> (down, up)."""
    generator = torch.Generator().manual_seed(1)
    pairs = {}
    for name, module in reference.named_modules():
        if TARGETS.search(name) and hasattr(module, "weight"):
            out, *rest = module.weight.shape
            down = torch.randn(RANK, *rest, generator=generator) * 0.05
            up = torch.randn(out, RANK, *[1] * (len(rest) - 1), generator=generator) * 0.05
            pairs[name] = down.to(dtype), up.to(dtype)
    return pairs


@functools.cache
def matrices_of(family: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Those for a family's UNet, made once: for the tests to read, not to change."""
    return matrices(folders.unet(family))


def kohya(pairs, native=None):
    tensors = {}
    for name, (down, up) in pairs.items():
        key = "lora_unet_" + (native(name) if native else name).replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors, None


def peft(pairs, prefix="unet.", metadata=True, adapter=""):
    tensors = {}
    for name, (down, up) in pairs.items():
        tensors |= {f"{prefix}{name}.lora_A{adapter}.weight": down, f"{prefix}{name}.lora_B{adapter}.weight": up}
    config = {"unet.r": RANK, "unet.lora_alpha": ALPHA}
    return tensors, {"lora_adapter_metadata": json.dumps(config)} if metadata else None


def legacy(pairs):
    """diffusers before PEFT: processors for attention, `.lora.` elsewhere."""
    tensors = {}
    for name, (down, up) in pairs.items():
        if match := re.fullmatch(r"(.+)\.(to_[qkv]|to_out)(\.0)?", name):
            key = f"unet.{match[1]}.processor.{match[2]}_lora"
        else:
            key = f"unet.{name}.lora"
        tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return tensors, None


def dotted(pairs):
    """diffusers between the two: `.lora.` everywhere, with alphas."""
    tensors = {}
    for name, (down, up) in pairs.items():
        key = f"unet.{name}"
        tensors |= {f"{key}.lora.down.weight": down, f"{key}.lora.up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors, None


def native_names(family):
    """diffusers' module name -> Stability's, as the host names this family's modules."""
    config = diffusers_config.host_config(json.loads(folders.unet(family).to_json_string()), "config.json")
    keys = unet.comfy.utils.unet_to_diffusers(config)
    return lambda name: keys[f"{name}.weight"].removesuffix(".weight")


def host_native(pairs, family):
    tensors, _ = kohya(pairs)
    name_of = native_names(family)
    out = {}
    for name in pairs:
        key, old = f"diffusion_model.{name_of(name)}", "lora_unet_" + name.replace(".", "_")
        out |= {f"{key}.{end}": tensors[f"{old}.{end}"] for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    return out, None


STYLES = {
    "kohya": (lambda p, f: kohya(p), ALPHA / RANK),
    "kohya, Stability's names": (lambda p, f: kohya(p, native_names(f)), ALPHA / RANK),
    "PEFT, `unet.`": (lambda p, f: peft(p), ALPHA / RANK),
    "PEFT, no prefix": (lambda p, f: peft(p, prefix=""), ALPHA / RANK),
    "PEFT, `base_model.model.`": (lambda p, f: peft(p, prefix="base_model.model."), ALPHA / RANK),
    "PEFT, `.default`": (lambda p, f: peft(p, adapter=".default"), ALPHA / RANK),
    "PEFT, no alpha": (lambda p, f: peft(p, metadata=False), 1.0),
    "diffusers, `.processor.`": (lambda p, f: legacy(p), 1.0),
    "diffusers, `.lora.`": (lambda p, f: dotted(p), ALPHA / RANK),
    "ComfyUI, `diffusion_model.`": (host_native, ALPHA / RANK),
}


def written(path, tensors, metadata=None):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    return path


def weights_of(model):
    """The model's weights as they are while it runs."""
    model.patch_model()
    try:
        return {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    finally:
        model.unpatch_model()


def check_merge(model, patched, reference, pairs, scale):
    """The patched weights are the merge by hand, in float64; every other weight is untouched."""
    before, after = weights_of(model), weights_of(patched)
    names = unet.diffusers_to_native(model.model.model_config.unet_config, model.model.diffusion_model.state_dict())
    modules = dict(reference.named_modules())
    for name, (down, up) in pairs.items():
        weight = modules[name].weight.double()
        update = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        got = after[names[f"{name}.weight"]].double()
        assert torch.allclose(got, weight + scale(name) * update, rtol=1e-6, atol=1e-7), name
    touched = {names[f"{name}.weight"] for name in pairs}
    assert all(torch.equal(before[k], after[k]) for k in before.keys() - touched)


# By how segmind/distill-sd's prepare_unet made them: the first block of each level down, the first and the last of each
# level up; tiny-sd without the innermost level. Module of the small model -> that of Stable Diffusion 1.5.
def made_from(name, family):
    if match := re.match(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)", name):
        level, kind, number, rest = match.groups()
        level = int(level) + (family == "tiny-sd")
        return f"up_blocks.{level}.{kind}.{'02'[int(number)]}.{rest}"
    if match := re.match(r"up_blocks\.(\d)\.(.+)", name):
        return f"up_blocks.{int(match[1]) + (family == 'tiny-sd')}.{match[2]}"
    return name


def refused(model, path, *words):
    with torch.inference_mode(), pytest.raises(ValueError) as error:
        lora.apply(model, path, 1.0)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message, message
