"""Models in subfolders and in the places of extra_model_paths.yaml: listed after a refresh, loaded, and nothing else."""

import io
import shutil

import comfy.sd
import folder_paths
import graphs
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from vega_pack.nodes import loader
from vega_pack.vega import checkpoint


def options(server, node, widget):
    info = server.get(f"/object_info/{node}").json()
    return info[node]["input"]["required"][widget][1]["options"]


def drawn(client, **changes):
    """The picture of the shipped graph with these changes."""
    graph = graphs.text_to_image(**changes)
    return Image.open(io.BytesIO(client.download(client.run(graph)[graphs.SAVE]["images"][0]))).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """vega-nano as core saves it in one file, with its tiny autoencoder and without any."""
    folder = tmp_path_factory.mktemp("saved")
    with torch.inference_mode():
        model, clip, vae = checkpoint.load(checkpoint.NANO, "tiny", [])
        comfy.sd.save_checkpoint(str(folder / "with.safetensors"), model, clip, vae)
        comfy.sd.save_checkpoint(str(folder / "without.safetensors"), model, clip)
    return folder


def test_everything_elsewhere_is_listed_after_a_refresh_and_draws(server, client, elsewhere, saved):
    expected = drawn(client)
    (elsewhere / "my checkpoints" / "sub").mkdir()
    shutil.copy(saved / "with.safetensors", elsewhere / "my checkpoints" / "sub" / "nano.safetensors")
    (elsewhere / "my loras" / "sub").mkdir()
    shutil.copy(checkpoint.NANO_LORA, elsewhere / "my loras" / "sub" / "lcm.safetensors")
    shutil.copytree(checkpoint.NANO, elsewhere / "my diffusers" / "sub" / "nano")
    names = options(server, "VegaLoader", "model_name")
    assert names[0] == "vega-nano (embedded)"
    assert {"sub/nano.safetensors", "sub/nano/"} <= set(names)
    assert "sub/lcm.safetensors" in options(server, "VegaLCMLora", "lora_name")
    for name in ("sub/nano.safetensors", "sub/nano/"):
        same = drawn(client, VegaLoader__model_name=name, VegaLCMLora__lora_name="sub/lcm.safetensors")
        assert same == expected, name


def test_the_tiny_decoder_elsewhere_is_found(server, client, elsewhere, saved):
    shutil.copy(saved / "without.safetensors", server.base / "models" / "checkpoints" / "bare.safetensors")
    vae = load_file(checkpoint.NANO / "vae" / "diffusion_pytorch_model.safetensors")
    names = {k: k.split(".", 3)[2:] for k in vae if k.startswith("decoder.")}
    decoder = {f"{int(index) + 1}.{leaf}": vae[key] for key, (index, leaf) in names.items()}
    save_file(decoder, elsewhere / "my vae_approx" / "taesdxl_decoder.safetensors")
    dead = server.base / "models" / "vae_approx" / "taesdxl_encoder.safetensors"
    dead.symlink_to("nowhere")  # listed all the same
    assert drawn(client, VegaLoader__model_name="bare.safetensors") == drawn(client)
    dead.unlink()


@pytest.mark.parametrize("name", ["../out.safetensors", "../out/", "/etc/passwd", "..\\out.safetensors", "out.safetensors"])
def test_a_name_outside_the_model_folders_cannot_be_reached(tmp_path, monkeypatch, name):
    """Also where it comes over a link, which the host's list does not check."""
    for kind in ("checkpoints", "diffusers"):
        (tmp_path / kind).mkdir()
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path / kind)], {".safetensors"}))
    shutil.copytree(checkpoint.NANO, tmp_path / "out")
    save_file({}, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="There is no model .* press R"):
        loader.located(name)
