"""CLIP text encoders as the host's CLIP, with the host's own tokenizer and prompt syntax."""

from pathlib import Path

import comfy.clip_model
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

from . import host_layers, weights
from .encoder_files import ACTIVATION, MISSING_TEXT_MODEL_PREFIX, Encoder, host_config, infer_config, normalize_keys
from .single_file import Parts, strip_prefix


def from_file(path: Path, parts: Parts) -> dict[str, Encoder]:
    """The host's name of each text encoder (clip_l, and in the SDXL family clip_g) -> the encoder."""
    xl = parts.config["addition_embed_type"] is not None
    family = comfy.supported_models.SDXL if xl else comfy.supported_models.SD15
    text = {MISSING_TEXT_MODEL_PREFIX.sub(r"\1text_model.", key): tensor for key, tensor in parts.text.items()}
    try:
        renamed = family({}).process_clip_state_dict(text)
    except (RuntimeError, IndexError) as error:
        raise ValueError(f"{path}: its text encoders can't be read ({error}). Download it again.") from error
    result = {}
    for name in ("clip_l", "clip_g") if xl else ("clip_l",):
        encoder = strip_prefix(renamed, f"{name}.transformer.")
        if name == "clip_l":  # some files hold a projection, which is never used
            encoder = {key: tensor for key, tensor in encoder.items() if "text_projection" not in key}
        try:
            config = infer_config(encoder, ACTIVATION[name])
        except (KeyError, IndexError) as error:
            raise ValueError(
                f"{path} lacks the text encoder {name} or a part of it ({error}): Load Vega needs the whole model. "
                "Use a file that holds it, or a diffusers folder."
            ) from error
        result[name] = Encoder(path, path, config, encoder)
    return result


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
    eager = {**options, "custom_operations": host_layers.EagerOps}
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
        state_dict={k: host_layers.cast(v, dtype) for k, v in state_dict.items()},
        parameters=sum(v.numel() for v in state_dict.values()),
        model_options={**options, "dtype": dtype},
        disable_dynamic=True,
    )
    if dtype == torch.float16 and not comfy.model_management.is_device_cpu(device):
        set_compute_dtype(clip, dtype)
    return clip


def set_compute_dtype(clip: comfy.sd.CLIP, dtype: torch.dtype) -> None:
    """Lets the encoders compute in their weights' own dtype, as diffusers does.

    The host computes in fp32 and casts every fp16 weight at every prompt, which takes a GPU as long as a UNet call.
    """

    def cast_embeddings(_, args: tuple, options: dict) -> tuple[tuple, dict]:
        return args, {**options, "embeds": options["embeds"].to(dtype), "dtype": dtype}

    for module in clip.cond_stage_model.modules():
        if isinstance(module, comfy.clip_model.CLIPTextModel):
            module.register_forward_pre_hook(cast_embeddings, with_kwargs=True)
    clip.patcher.set_model_compute_dtype(dtype)
