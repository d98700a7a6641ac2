"""Models of every family in the forms that users have on disk, with random weights."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from vega_pack.vega import checkpoint

from dev import diffusers_folders as folders
from dev import single_files

# Where a folder has the weights of each part.
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


def folder(path: Path, family: str, dtype=torch.float32, **options):
    return path / family, folders.write(path / family, family, dtype=dtype, **options)


def single(path: Path, family: str, dtype=torch.float32, vae="tiny"):
    return path / f"{family}.safetensors", single_files.write(path / f"{family}.safetensors", family, dtype, vae)


def pickled(path: Path, family: str):
    """A folder whose weights are .bin files, as diffusers and transformers wrote them before safetensors."""
    path, modules = folder(path, family)
    for file in path.rglob("*.safetensors"):
        name = "pytorch_model.bin" if file.stem == "model" else f"{file.stem}.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    return path, modules


def ckpt(path: Path, family: str):
    file, modules = single(path, family)
    torch.save({"state_dict": load_file(file), "global_step": 1}, file.with_suffix(".ckpt"))
    file.unlink()
    return file.with_suffix(".ckpt"), modules


def relative(out, expected):
    return ((out - expected).abs().max() / expected.abs().max()).item()


def refused(path, *words, vae="tiny", approx=None):
    with pytest.raises(ValueError) as error:
        checkpoint.load(path, vae, [], approx)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def changed(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


def approx_files(folder: Path, names, seed=7):
    """TAESD with random weights in these files, as models/vae_approx would list them, and diffusers' own module."""
    torch.manual_seed(seed)
    reference = AutoencoderTiny().eval()
    state = reference.state_dict()
    files = {}
    for name in names:
        path = files[name] = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        side = next((s for s in ("decoder", "encoder") if path.stem.endswith(s)), None)
        content = {k: v.clone() for k, v in state.items()}
        if side:  # madebyollin's files count the decoder's clamp as layer 0
            content = {}
            for key, tensor in state.items():
                of, _, index, leaf = key.split(".", 3)
                if of == side:
                    content[f"{int(index) + (side == 'decoder')}.{leaf}"] = tensor.clone()
        torch.save(content, path) if path.suffix == ".pth" else save_file(content, path)
    return files, reference


def tiny_files(folder: Path):
    """TAESD for both families."""
    return approx_files(folder, ["taesd.safetensors", "taesdxl.safetensors"])[0]


def saved(tensors, path, **options):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, **options)
