"""Single files as the field has them, made from diffusers' modules by the rules of diffusers' conversion scripts.

scripts/convert_diffusers_to_original_stable_diffusion.py and ..._sdxl.py number blocks as if each level had two residual
blocks going down and three going up, whatever it has; the first leaves attention in the first block going up as it is.
"""

import re
from pathlib import Path

import comfy.diffusers_convert
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from . import diffusers_folders as folders

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE_BLOCKS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_key(name: str, xl: bool) -> str:
    """diffusers' name of a UNet weight -> its name in the single file."""
    module, leaf = name.rsplit(".", 1)
    if module in OUTSIDE_BLOCKS:
        return f"{OUTSIDE_BLOCKS[module]}.{leaf}"
    side, level, kind, number, rest = re.fullmatch(r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)", name).groups()
    number, level = int(number), int(level or 0)
    if kind == "resnets":
        module, leaf = rest.rsplit(".", 1)
        rest = f"{RESNET[module]}.{leaf}"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{rest}"
    blocks = "input_blocks" if side == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{3 * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"{blocks}.{3 * level + 2}.{1 if level == 0 and not xl else 2}.{rest}"
    if kind == "attentions" and side == "up" and level == 0 and not xl:
        return name
    return f"{blocks}.{3 * level + number + (side == 'down')}.{int(kind == 'attentions')}.{rest}"


def to_open_clip(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CLIPTextModelWithProjection's weights under open_clip's names."""
    out = {"logit_scale": torch.tensor(1.0)}
    for name, tensor in state_dict.items():
        name = name.removeprefix("text_model.")
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name):
            rest = match[2]
            if re.match(r"self_attn\.[kv]_proj", rest):
                continue
            if part := re.fullmatch(r"self_attn\.q_proj\.(weight|bias)", rest):
                siblings = [f"text_model.encoder.layers.{match[1]}.self_attn.{x}_proj.{part[1]}" for x in "qkv"]
                rest, tensor = f"attn.in_proj_{part[1]}", torch.cat([state_dict[s] for s in siblings])
            for ours, theirs in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm", "ln_"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                rest = rest.replace(ours, theirs)
            out[f"transformer.resblocks.{match[1]}.{rest}"] = tensor
        elif name == "text_projection.weight":
            out["text_projection"] = tensor.T.contiguous()
        else:
            name = name.replace("embeddings.token_embedding", "token_embedding").replace("final_layer_norm", "ln_final")
            out[name.replace("embeddings.position_embedding.weight", "positional_embedding")] = tensor
    return out


def add_prefix(prefix: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state_dict.items()}


def to_single_file(modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """What the single file of these modules holds."""
    xl = "text_encoder_2" in modules
    unet = {unet_key(name, xl): tensor for name, tensor in modules["unet"].state_dict().items()}
    first = {
        k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in modules["text_encoder"].state_dict().items()
    }
    found = add_prefix("model.diffusion_model.", unet)
    if xl:
        found |= add_prefix("conditioner.embedders.0.transformer.", first)
        found |= add_prefix("conditioner.embedders.1.model.", to_open_clip(modules["text_encoder_2"].state_dict()))
    else:
        found |= add_prefix("cond_stage_model.transformer.", first)
    ids = next(key for key in found if key.endswith("position_embedding.weight")).replace("position_embedding.weight", "")
    found[f"{ids}position_ids"] = torch.arange(77)[None]
    found["alphas_cumprod"] = torch.zeros(1000)
    if isinstance(modules["vae"], AutoencoderTiny):
        return found  # no single file in the field has one
    return found | add_prefix(
        "first_stage_model.", comfy.diffusers_convert.convert_vae_state_dict(modules["vae"].state_dict())
    )


def write(path: Path, family: str, dtype: torch.dtype = torch.float32, vae: str = "tiny") -> dict[str, torch.nn.Module]:
    """A single file of the family, without autoencoder unless it is full; returns its diffusers modules for comparison."""
    modules = {k: module.to(dtype) for k, module in folders.modules(family, vae).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().clone().contiguous() for k, v in to_single_file(modules).items()}, path)
    return modules
