"""The text encoders of a model on disk: their files, configs and the names of their weights; nothing here needs the host."""

import re
from pathlib import Path
from typing import NamedTuple

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
# Since transformers 5 a CLIPTextModel is saved without text_model., which the host adds in SD 1.5's layout alone.
MISSING_TEXT_MODEL_PREFIX = re.compile(r"^(conditioner\.embedders\.0\.transformer\.)(?=embeddings|encoder|final_layer_norm)")


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


def normalize_keys(state_dict: dict[str, torch.Tensor], projected: bool, hidden_size: int) -> dict[str, torch.Tensor]:
    """Names with the text_model. prefix that transformers 5 dropped, and a projection where the file has none."""
    used = {k: v for k, v in state_dict.items() if not k.endswith(("position_ids", "logit_scale"))}
    renamed = {k if k.startswith(("text_model.", "text_projection.")) else f"text_model.{k}": v for k, v in used.items()}
    if not projected and "text_projection.weight" not in renamed:
        # The first encoder's pooled output is never used; the host's class has the layer all the same.
        dtype = next(iter(renamed.values())).dtype
        renamed["text_projection.weight"] = torch.eye(hidden_size, dtype=dtype)
    return renamed


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
