"""Every base that Load Vega opens is opened for training with just its weights, and other files are refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_files as files
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from dev import diffusers_folders, single_files
from train.base import NANO, open_base, open_vae
from train.cache import Cache, cache_latents, cache_texts, latent_key, text_key
from train.data import folder
from train.data.buckets import resize_and_crop
from train.data.dataset import checked
from train.images import to_tensor
from train.text_encoding import encode, tokenize

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("Segmind-Vega", "SD 1.5", "tiny-sd")  # in make test
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.soak) for name in diffusers_folders.FAMILIES]
pytestmark = pytest.mark.model


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    found, expected = one.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_the_weights(tmp_path, family, form):
    path = tmp_path / "base"
    if form == "folder":
        modules = diffusers_folders.write(path, family)
    else:
        path = path.with_suffix(".safetensors")
        modules = single_files.write(path, family)
    base = open_base(str(path))
    assert base.is_xl == ("text_encoder_2" in modules)
    assert_same(base.unet(), modules["unet"])
    encoders = base.text_encoders()
    ids = torch.arange(77)[None] + 300
    for found, name in zip(encoders, ("text_encoder", "text_encoder_2"), strict=False):
        assert_same(found, modules[name])
        with torch.no_grad():
            assert torch.equal(found(ids)[0], modules[name](ids)[0])
    assert len(encoders) == len(base.tokenizers()) == len(modules) - 2
    if form == "file":
        with pytest.raises(ValueError, match="holds no autoencoder: give one with --vae"):
            base.vae()
        assert base.resolution == (1024 if base.is_xl else 512)
    else:
        assert_same(base.vae(), modules["vae"])
        assert base.resolution == 128


@pytest.mark.parametrize("family", ["Segmind-Vega", pytest.param("SD 1.5", marks=pytest.mark.soak)])
def test_the_full_autoencoder(tmp_path, family):
    modules = single_files.write(tmp_path / "base.safetensors", family, vae="full")
    base = open_base(str(tmp_path / "base.safetensors"))
    vae = base.vae()
    assert_same(vae, modules["vae"])
    assert vae.config.scaling_factor == modules["vae"].config.scaling_factor
    modules["vae"].save_pretrained(tmp_path / "vae")
    assert_same(open_vae(tmp_path / "vae", base.is_xl), modules["vae"])
    assert_same(open_vae(tmp_path / "base.safetensors", base.is_xl), modules["vae"])


def test_what_is_no_base_is_named(tmp_path):
    lora = {"lora_unet_a.lora_down.weight": torch.ones(1, 1), "lora_unet_a.lora_up.weight": torch.ones(1, 1)}
    save_file(lora, tmp_path / "lora.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"junk" * 99)
    lcm_lora = NANO / "lcm-lora" / "pytorch_lora_weights.safetensors"
    for path, words in {
        tmp_path / "lora.safetensors": "it is a LoRA",
        lcm_lora: "it is a LoRA",
        tmp_path / "empty": "no diffusers folder",
        tmp_path / "broken.safetensors": "can't be read",
        tmp_path / "nowhere": "does not exist",
    }.items():
        with pytest.raises(ValueError, match=words):
            open_base(str(path))


def test_what_is_damaged_is_named(tmp_path):
    diffusers_folders.write(tmp_path / "base", "tiny-sd")
    file = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="incomplete"):
        open_base(str(tmp_path / "base")).unet()
    shutil.rmtree(tmp_path / "base" / "text_encoder")
    with pytest.raises(ValueError, match="lacks a text encoder"):
        open_base(str(tmp_path / "base")).text_encoders()


@pytest.mark.soak
def test_it_needs_no_comfyui():
    """In make test the processes of test_train_broken.py train where none can be imported."""
    code = "import sys\nfrom train.base import open_base\nopen_base('vega-nano').unet()\n"
    code += "assert not [name for name in sys.modules if name.split('.')[0] in ('comfy', 'folder_paths')]"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    contents = {f"{k}.png": files.png(k, (150, 100)) for k in range(3)} | {f"{k}.txt": f"lake {k}" for k in range(3)}
    return files.write(root, contents)


def test_latents_are_found_again(tmp_path, pictures):
    base, cache, opened = open_base("vega-nano"), Cache(tmp_path / "cache"), []

    def cached():
        dataset = checked(folder.read(pictures))
        wanted = [(picture, (160, 96), mirrored) for picture in dataset.pictures for mirrored in (False, True)]
        opened.clear()
        cache_latents(cache, wanted, "vae", lambda: opened.append(1) or base.vae(), torch.device("cpu"))
        return {latent_key(*one, "vae"): one for one in wanted}

    keys = cached()
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 6
    for key, (_, _, mirrored) in keys.items():
        found = cache.load(key)
        assert found["latents"].shape == (4, 12, 20)
        assert found["size_ids"].tolist() == [100, 150, 5, 0, 96, 160], mirrored
    assert cached().keys() == keys.keys()
    assert not opened
    (pictures / "1.png").write_bytes(files.png(9, (150, 100)))
    assert len(cached().keys() - keys.keys()) == 2
    assert opened
    cache.file(min(keys)).write_bytes(b"cut")
    with pytest.raises(ValueError, match="delete it and give the same command again"):
        cache.load(min(keys))


def test_latents_are_the_autoencoders(tmp_path, pictures):
    """One sample of AutoencoderKL's distribution, scaled; the same in every run."""
    vae, cache = diffusers_folders.modules("SD 1.5", "full")["vae"], Cache(tmp_path / "cache")
    picture = checked(folder.read(pictures)).pictures[0]
    one = (picture, (64, 64), False)
    cache_latents(cache, [one], "a", lambda: vae, torch.device("cpu"))
    found = cache.load(latent_key(*one, "a"))["latents"]
    with torch.no_grad():
        distribution = vae.encode(to_tensor([resize_and_crop(picture.decode(), (64, 64)).image])).latent_dist
    noise = (found / vae.config.scaling_factor - distribution.mean[0]) / distribution.std[0]
    assert 0.7 < noise.std() < 1.3
    again = Cache(tmp_path / "again")
    cache_latents(again, [one], "a", lambda: vae, torch.device("cpu"))
    assert torch.equal(again.load(latent_key(*one, "a"))["latents"], found)


def test_broken_autoencoder_is_named(tmp_path, pictures):
    vae = AutoencoderTiny()
    torch.nn.init.constant_(vae.encoder.layers[0].weight, float("nan"))
    picture = checked(folder.read(pictures)).pictures[0]
    with pytest.raises(ValueError, match=r"0\.png: its latents are not finite"):
        cache_latents(Cache(tmp_path), [(picture, (64, 64), False)], "a", lambda: vae, torch.device("cpu"))


@pytest.mark.parametrize("family", ["vega-nano", "SD 1.5"])
def test_captions_are_encoded_once(tmp_path, family):
    if family != "vega-nano":
        diffusers_folders.write(tmp_path / "base", family)
    base = open_base(family if family == "vega-nano" else str(tmp_path / "base"))
    cache, encoded = Cache(tmp_path / "cache"), []

    def counting(tokenizer):
        return lambda texts, **options: encoded.append(texts) or tokenizer(texts, **options)

    def cached(captions):
        encoded.clear()
        tokenizers = [counting(tokenizer) for tokenizer in base.tokenizers()][:1] + base.tokenizers()[1:]
        device = torch.device("cpu")
        cache_texts(cache, captions, base.fingerprint, base.text_encoders, tokenizers, device, torch.float32)

    captions = [f"a lake at night, {k}" for k in range(20)] + ["", "a lake at night, 1"]
    cached(captions)
    assert sorted(encoded) == sorted([caption] for caption in set(captions)), "each alone, as its bits may depend on others"
    cached(captions)
    assert encoded == []
    cached([*captions[1:], "a lake by day"])
    assert encoded == [["a lake by day"]]
    with torch.no_grad():
        context, pooled = encode(base.text_encoders(), tokenize(base.tokenizers(), captions[3:4]))
    found = cache.load(text_key(captions[3], base.fingerprint, torch.float32))
    assert torch.equal(found["context"], context[0])
    assert ("pooled" in found) == (pooled is not None)
