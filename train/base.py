"""The checkpoint that is trained on, a diffusers folder or a single file: its parts as diffusers' and transformers' modules.

The pack's own readers open it, without the network: what Load Vega takes, in the same words where it is refused.
"""

from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, convert_open_clip_checkpoint
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from vega import diffusers_config, encoder_files, prediction, single_file, weights

from .files import sampled_fingerprint

NANO = Path(__file__).resolve().parents[1] / "vega" / "nano"
NANO_LCM_LORA = NANO / "lcm-lora" / "pytorch_lora_weights.safetensors"
NANO_NAME = "vega-nano"
XL_PIXELS, SD_PIXELS = 1024, 512
PIXELS_PER_LATENT = 8
ENCODERS = {"clip_l": CLIPTextModel, "clip_g": CLIPTextModelWithProjection}
FIRST_ENCODER = ("conditioner.embedders.0.transformer.", "cond_stage_model.transformer.")
SECOND_ENCODER = "conditioner.embedders.1.model."
SCALING_FACTOR = {True: 0.13025, False: 0.18215}  # of the latents of SDXL's family, and of SD 1.5's
# Attention as the autoencoders of older folders name it.
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
LDM_VAE_CONFIG = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
    latent_channels=4,
)


def open_base(name: str) -> "Base":
    """The base of this path, or vega-nano; ValueError where it is none that can be trained on."""
    path = NANO if name == NANO_NAME else Path(name)
    if not path.exists():
        raise ValueError(f"{path} does not exist. BASE is a diffusers folder, a checkpoint file, or {NANO_NAME}.")
    return Folder(path) if path.is_dir() else SingleFile(path)


class Base:
    """A checkpoint. Each part is read when it is asked for, in fp32 if nothing else is asked for, and frozen."""

    def __init__(self, path: Path, config_source: Path, config: dict):
        self.path, self.config = path, config
        self.is_xl = bool(diffusers_config.host_config(config, config_source)["adm_in_channels"])

    @property
    def resolution(self) -> int:
        """The side in pixels of the square that the model was trained on."""
        size = self.config.get("sample_size")
        return PIXELS_PER_LATENT * size if isinstance(size, int) else XL_PIXELS if self.is_xl else SD_PIXELS

    @property
    def zero_unconditional(self) -> bool:
        """Whether guidance compares with zeros instead of the encoded empty prompt, as diffusers' pipelines have it."""
        return self.is_xl

    def unet(self, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        path, tensors = self.unet_weights()
        with torch.device("meta"):
            module = UNet2DConditionModel.from_config(self.config)
        return loaded(path, module, tensors, dtype)

    def text_encoders(self, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
        """One, or two in SDXL's family."""
        return [self.text_encoder(name, encoder, dtype) for name, encoder in self.stored_encoders().items()]

    def text_encoder(self, name: str, encoder: encoder_files.Encoder, dtype: torch.dtype) -> nn.Module:
        encoder_files.host_config(encoder.config, encoder.config_source, encoder_files.ACTIVATION[name])
        with torch.device("meta"):
            module = ENCODERS[name](CLIPTextConfig.from_dict(encoder.config))
        normalized = encoder_files.normalize_keys(encoder.state_dict, True, encoder.width)
        names = module.state_dict().keys()
        tensors = {key if key in names else key.removeprefix("text_model."): value for key, value in normalized.items()}
        if name == "clip_l":  # some files hold a projection, which is never used
            tensors.pop("text_projection.weight", None)
        for owner in module.modules():
            if "position_ids" in owner._buffers:  # in no state dict
                owner.register_buffer("position_ids", torch.arange(owner.position_ids.shape[-1])[None], persistent=False)
        return loaded(encoder.path, module, tensors, dtype)

    @property
    def scheduler(self) -> dict:
        """Its scheduler_config.json; empty where it has none."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        return sampled_fingerprint(self.weight_files())

    # What a folder and a file answer differently.

    def unet_weights(self) -> tuple[Path, dict[str, torch.Tensor]]:
        raise NotImplementedError

    def stored_encoders(self) -> dict[str, encoder_files.Encoder]:
        raise NotImplementedError

    def vae(self) -> AutoencoderKL | AutoencoderTiny:
        raise NotImplementedError

    def weight_files(self) -> list[Path]:
        raise NotImplementedError

    def tokenizers(self) -> list[CLIPTokenizer]:
        """Of each text encoder."""
        folders = [NANO / "tokenizer", NANO / "tokenizer_2"][: 1 + self.is_xl]  # CLIP's own, as in every such model
        return [CLIPTokenizer.from_pretrained(folder, local_files_only=True) for folder in folders]


class Folder(Base):
    """A diffusers folder."""

    def __init__(self, path: Path):
        source = path / "unet" / "config.json"
        if not source.is_file():
            raise ValueError(f"{path} is no diffusers folder: unet/config.json is missing. Give the model's own folder.")
        prediction.check_scheduler(path / "scheduler" / "scheduler_config.json")
        super().__init__(path, source, weights.read_json(source))

    @property
    def zero_unconditional(self):
        index = self.path / "model_index.json"
        said = weights.read_json(index) if index.is_file() else {}
        return self.is_xl and bool(said.get("force_zeros_for_empty_prompt", True))

    @property
    def scheduler(self):
        file = self.path / "scheduler" / "scheduler_config.json"
        return weights.read_json(file) if file.is_file() else {}

    def unet_weights(self):
        return weights.read_part(self.path / "unet", "diffusion_pytorch_model")

    def stored_encoders(self):
        found = encoder_files.from_folder(self.path)
        if len(found) != 1 + self.is_xl:
            raise ValueError(f"{self.path} lacks a text encoder. Download the model again.")
        return found

    def vae(self):
        return vae_of_folder(self.path / "vae")

    def weight_files(self):
        folders = [self.path / part for part in ("unet", "text_encoder", "text_encoder_2", "vae")]
        return sorted(file for folder in folders for file in folder.glob("*") if file.suffix in (".safetensors", ".bin"))


class SingleFile(Base):
    """A checkpoint in one file, in the LDM layout."""

    def __init__(self, path: Path):
        super().__init__(path, path, single_file.read(path).config)

    def unet_weights(self):
        return self.path, single_file.read(self.path).unet

    def stored_encoders(self):
        text = single_file.read(self.path).text
        first = {}
        for prefix in FIRST_ENCODER:
            first |= single_file.strip_prefix(text, prefix)
        first = {key: value for key, value in first.items() if "text_projection" not in key}
        found = {"clip_l": encoder_files.normalize_keys(first, True, 0)}
        if self.is_xl:
            config = SimpleNamespace(config=SimpleNamespace())
            second = convert_open_clip_checkpoint(config, text, SECOND_ENCODER)
            found["clip_g"] = encoder_files.normalize_keys(second, True, 0)
        return {name: self.encoder(name, tensors) for name, tensors in found.items()}

    def encoder(self, name: str, tensors: dict[str, torch.Tensor]) -> encoder_files.Encoder:
        try:
            config = encoder_files.infer_config(tensors, encoder_files.ACTIVATION[name])
            if name == "clip_g":
                config["projection_dim"] = tensors["text_projection.weight"].shape[0]
        except (KeyError, IndexError) as error:
            raise ValueError(f"{self.path} lacks the text encoder {name} or a part of it ({error}).") from error
        return encoder_files.Encoder(self.path, self.path, config, tensors)

    def vae(self):
        tensors = single_file.read(self.path).vae
        if not any(key.startswith("encoder.") for key in tensors):
            raise ValueError(f"{self.path} holds no autoencoder: give one with --vae, a diffusers folder of it or a file.")
        return vae_of_ldm(self.path, tensors, self.is_xl)

    def weight_files(self):
        return [self.path]


def open_vae(path: Path, is_xl: bool) -> AutoencoderKL | AutoencoderTiny:
    """The autoencoder of a folder with its config.json, or of a file in the LDM layout."""
    if path.is_dir():
        return vae_of_folder(path)
    tensors = weights.read(path)[0]
    return vae_of_ldm(path, single_file.strip_prefix(tensors, single_file.VAE_PREFIX) or tensors, is_xl)


def vae_of_folder(folder: Path) -> AutoencoderKL | AutoencoderTiny:
    config = weights.read_json(folder / "config.json")
    path, tensors = weights.read_part(folder, "diffusion_pytorch_model")
    with torch.device("meta"):
        tiny = config.get("_class_name") == "AutoencoderTiny"
        module = (AutoencoderTiny if tiny else AutoencoderKL).from_config(config)
    for old, new in {} if tiny else OLD_ATTENTION.items():
        tensors = {key.replace(old, new) if ".attentions." in key else key: value for key, value in tensors.items()}
    return loaded(path, module, tensors)


def vae_of_ldm(path: Path, tensors: dict[str, torch.Tensor], is_xl: bool) -> AutoencoderKL:
    with torch.device("meta"):
        module = AutoencoderKL(**LDM_VAE_CONFIG, scaling_factor=SCALING_FACTOR[is_xl])
    try:
        converted = convert_ldm_vae_checkpoint(tensors, module.config)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} holds no whole autoencoder ({error}). Use the one that the model came with.") from error
    return loaded(path, module, converted)


def loaded(path: Path, module: nn.Module, tensors: dict[str, torch.Tensor], dtype=torch.float32):
    """The module with these weights, frozen; ValueError unless they are just its own."""
    weights.check(path, tensors, module.state_dict())
    module.load_state_dict({key: value.to(dtype) for key, value in tensors.items()}, assign=True)
    return module.requires_grad_(False).eval()
