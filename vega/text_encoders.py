"""CLIP text encoders as the host's CLIP, with the host's own tokenizer and prompt syntax."""

import re
from pathlib import Path
from typing import NamedTuple

import comfy.clip_model
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import torch

from . import weights

# What the host's CLIPTextModel can be (comfy/clip_model.py).
REQUIRED = {
    "eos_token_id": (49407, 2),  # old configs say 2 and mean 49407 (huggingface/transformers#24773)
    "layer_norm_eps": (1e-5,),
    "max_position_embeddings": (77,),
    "vocab_size": (49408,),
}
# CLIP-L's activation and CLIP-G's; a first encoder with CLIP-H's is Stable Diffusion 2, whose prompts are padded otherwise.
ACTIVATION = {"clip_l": "quick_gelu", "clip_g": "gelu"}
# Of each option that the host reads: CLIPTextConfig's default, and the most that it may be; far above every CLIP.
DEFAULT_AND_MAX = {
    "hidden_size": (512, 4096),
    "intermediate_size": (2048, 16384),
    "max_position_embeddings": (77, 77),
    "num_attention_heads": (8, 128),
    "num_hidden_layers": (12, 64),
}
CHANNELS_PER_HEAD = 64  # of every published CLIP text encoder; it cannot be seen in the weights


class Encoder(NamedTuple):
    """One text encoder: the files that errors name, its config.json and its weights."""

    path: Path
    config_source: Path
    config: dict
    state_dict: dict[str, torch.Tensor]

    @property
    def width(self) -> int:
        """Features of a token, by its weights; 0 where they have no token embedding."""
        return next((v.shape[-1] for k, v in self.state_dict.items() if k.endswith("token_embedding.weight") and v.ndim), 0)


def from_folder(folder: Path) -> dict[str, Encoder]:
    """The host's name of each text encoder in a diffusers folder (clip_l, and clip_g in the SDXL family) -> the encoder."""
    encoders = {}
    for name, part in (("clip_l", folder / "text_encoder"), ("clip_g", folder / "text_encoder_2")):
        if part.is_dir():
            config_file = part / "config.json"
            path, state_dict = weights.read_part(part, "model")
            encoders[name] = Encoder(path, config_file, weights.read_json(config_file), state_dict)
    return encoders


def load(encoders: dict[str, Encoder], embedding_directory: list[str]) -> comfy.sd.CLIP:
    """CLIP from one text encoder (clip_l), or for the SDXL family from two (clip_l and clip_g)."""
    if "clip_g" in encoders:
        classes = comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel
    else:
        classes = comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel
    options = {
        f"{name}_model_config": host_config(encoder.config, encoder.config_source, ACTIVATION[name])
        for name, encoder in encoders.items()
    }
    eager = {**options, "custom_operations": weights.EagerOps}
    needed = classes[1](device="meta", dtype=torch.float32, model_options=eager).state_dict()
    state_dict, stored_dtype = {}, torch.float16
    for name, encoder in encoders.items():
        hidden_size = options[f"{name}_model_config"]["hidden_size"]
        normalized = normalize_keys(encoder.state_dict, projected=name == "clip_g", hidden_size=hidden_size)
        prefix = f"{name}.transformer."
        of_encoder = {k.removeprefix(prefix): v for k, v in needed.items() if k.startswith(prefix)}
        weights.check(encoder.path, normalized, of_encoder)
        state_dict.update({prefix + k: v for k, v in normalized.items()})
        stored_dtype = torch.promote_types(stored_dtype, normalized["text_projection.weight"].dtype)
    device = comfy.model_management.text_encoder_device()
    dtype = comfy.model_management.text_encoder_dtype(device)
    if comfy.model_management.is_device_cpu(device) and dtype == torch.float16:
        dtype = stored_dtype  # the host rounds to fp16 here, which saves no time on a CPU
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(*classes),
        embedding_directory=embedding_directory,
        state_dict={k: weights.cast(v, dtype) for k, v in state_dict.items()},
        parameters=sum(v.numel() for v in state_dict.values()),
        model_options={**options, "dtype": dtype},
        disable_dynamic=True,
    )
    if dtype == torch.float16 and not comfy.model_management.is_device_cpu(device):
        compute_in(clip, dtype)
    return clip


def compute_in(clip: comfy.sd.CLIP, dtype: torch.dtype) -> None:
    """Lets the encoders compute in their weights' own dtype, as diffusers does.

    The host computes in fp32 and casts every fp16 weight at every prompt, which takes a GPU as long as a UNet call.
    """

    def cast_embeddings(_, args: tuple, options: dict) -> tuple[tuple, dict]:
        return args, {**options, "embeds": options["embeds"].to(dtype), "dtype": dtype}

    for module in clip.cond_stage_model.modules():
        if isinstance(module, comfy.clip_model.CLIPTextModel):
            module.register_forward_pre_hook(cast_embeddings, with_kwargs=True)
    clip.patcher.set_model_compute_dtype(dtype)


def normalize_keys(state_dict: dict[str, torch.Tensor], projected: bool, hidden_size: int) -> dict[str, torch.Tensor]:
    """Names with the text_model. prefix that transformers 5 dropped, and a projection where the file has none."""
    used = {k: v for k, v in state_dict.items() if not k.endswith(("position_ids", "logit_scale"))}
    renamed = {k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": v for k, v in used.items()}
    if not projected and "text_projection.weight" not in renamed:
        # The first encoder's pooled output is never used; the host's class has the layer all the same.
        dtype = next(iter(renamed.values())).dtype
        renamed["text_projection.weight"] = torch.eye(hidden_size, dtype=dtype)
    return renamed


def infer_config(state_dict: dict[str, torch.Tensor], activation: str) -> dict:
    """The config.json of the CLIPTextModel that has these weights; KeyError where they are not one's."""
    hidden_size = state_dict["text_model.embeddings.token_embedding.weight"].shape[1]
    layers = {match[1] for name in state_dict if (match := re.match(r"text_model\.encoder\.layers\.(\d+)\.", name))}
    return {
        "hidden_act": activation,
        "hidden_size": hidden_size,
        "intermediate_size": state_dict["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "max_position_embeddings": state_dict["text_model.embeddings.position_embedding.weight"].shape[0],
        "num_attention_heads": max(1, hidden_size // CHANNELS_PER_HEAD),
        "num_hidden_layers": len(layers),
    }


def host_config(config: dict, path: Path, activation: str) -> dict:
    """config.json of a CLIPTextModel -> what the host's CLIPTextModel reads; ValueError on what it can't be."""
    weights.require(path, config, {**REQUIRED, "hidden_act": (activation,)})
    values = {}
    for option, (default, most) in DEFAULT_AND_MAX.items():
        values[option] = value = config.get(option, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise weights.unsupported_config(path, f"{option} = {value!r} is not supported (only 1 to {most})")
    if values["num_hidden_layers"] < 3:
        raise weights.unsupported_config(path, f"{values['num_hidden_layers']} layers; at least 3 are needed")
    if values["hidden_size"] % values["num_attention_heads"]:
        raise weights.unsupported_config(
            path, f"num_attention_heads {values['num_attention_heads']} does not divide hidden_size"
        )
    return {**values, "hidden_act": activation}
