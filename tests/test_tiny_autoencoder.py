"""TAESD from models/vae_approx, in every form of its files, against diffusers' AutoencoderTiny."""

import pytest
import torch
from model_files import approx_files, folder, refused, relative, single
from safetensors.torch import save_file
from vega_pack.vega import checkpoint

pytestmark = pytest.mark.model
APPROX_FORMS = {
    "pair": ("taesdxl_decoder.safetensors", "taesdxl_encoder.safetensors"),
    "pair of .pth": ("taesdxl_decoder.pth", "taesdxl_encoder.pth"),
    "AutoencoderTiny": ("taesdxl.safetensors",),
    "AutoencoderTiny in a folder": ("taesdxl/diffusion_pytorch_model.safetensors",),
}


@torch.inference_mode()
@pytest.mark.parametrize("form", APPROX_FORMS)
@pytest.mark.parametrize(("family", "name", "scale"), [("Segmind-Vega", "taesdxl", 0.13025), ("tiny-sd", "taesd", 0.18215)])
def test_tiny_is_found_in_vae_approx(tmp_path, form, family, name, scale):
    path, _ = single(tmp_path, family)
    others, _ = approx_files(tmp_path / "vae_approx", [f.replace("taesdxl", "taef1") for f in APPROX_FORMS[form]], seed=8)
    files, reference = approx_files(tmp_path / "vae_approx", [f.replace("taesdxl", name) for f in APPROX_FORMS[form]])
    _, _, vae = checkpoint.load(path, "tiny", [], others | files)
    latents, pixels = torch.randn(2, 4, 8, 12), torch.rand(1, 64, 96, 3)
    expected = (reference.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (vae.decode(latents / scale) - expected).abs().max() < 1e-6
    expected = reference.encode(pixels.movedim(-1, 1) * 2 - 1).latents
    assert relative(vae.encode(pixels) * scale, expected) < 1e-5


@torch.inference_mode()
def test_the_tiny_decoder_alone_is_enough_to_decode(tmp_path):
    path, _ = folder(tmp_path, "Segmind-Vega")
    (path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    files, reference = approx_files(tmp_path, ["taesdxl_decoder.safetensors"])
    _, _, vae = checkpoint.load(path, "tiny", [], files)
    latents = torch.randn(1, 4, 8, 8)
    expected = (reference.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    assert (vae.decode(latents / 0.13025) - expected).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"encoding a picture needs taesdxl_encoder\.safetensors in models/vae_approx"):
        vae.encode(torch.rand(1, 64, 64, 3))


def test_tiny_of_the_other_family_or_of_none_is_refused(tmp_path):
    xl, _ = single(tmp_path, "Segmind-Vega")
    sd, _ = single(tmp_path, "tiny-sd")
    refused(xl, "no taesdxl in models/vae_approx", "download taesdxl_decoder.safetensors", "`full`")
    files, _ = approx_files(tmp_path, ["taesd_decoder.safetensors"])
    refused(xl, "taesd, which is there, is for SD 1.5", "download taesdxl_decoder", approx=files)
    files, _ = approx_files(tmp_path, ["taesdxl.safetensors"])
    refused(sd, "taesdxl, which is there, is for SDXL", "download taesd_decoder", approx=files)
    save_file({"1.weight": torch.zeros(64, 16, 3, 3)}, tmp_path / "taesd_decoder.safetensors")
    broken = {"taesd_decoder.safetensors": tmp_path / "taesd_decoder.safetensors"}
    refused(sd, "taesd_decoder.safetensors", "[64, 16, 3, 3] instead of [64, 4, 3, 3]", approx=broken)
