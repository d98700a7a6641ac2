"""Files of weights that are not whole, or that stand for one; and which of several forms is taken."""

import shutil

import lora_files
import pytest
import torch
from diffusers import UNet2DConditionModel
from model_files import TEXT, UNET, VAE, approx_files, refused, saved
from safetensors.torch import load_file
from vega_pack.vega import checkpoint, lora

from dev import diffusers_folders as folders

pytestmark = pytest.mark.model


def never_written(path, share):
    """The file as a download leaves it that made room for all of it and broke off: zeros from some point on."""
    whole = path.read_bytes()
    begin = int(len(whole) * share)
    path.write_bytes(whole[:begin] + bytes(len(whole) - begin))


@pytest.mark.parametrize("part", [UNET, TEXT, VAE])
@pytest.mark.parametrize("share", [0.4, 0.99, 0.9998])
def test_a_file_whose_end_was_never_written_is_refused(folder, part, share):
    never_written(folder / part, share)
    refused(folder, str(folder / part), "the end of the file was never written", "download it again")


def test_other_files_whose_end_was_never_written(folder, single, tmp_path):
    """Single files, shards, pickles and tiny autoencoders are refused whose end was never written."""
    file, approx = single
    tensors, original = load_file(file), file.read_bytes()
    never_written(file, 0.7)
    refused(file, str(file), "never written", approx=approx)
    file.write_bytes(original)
    for new in (True, False):
        pickled = file.with_suffix(".ckpt")
        for share in (0.3, 0.9999):
            torch.save(tensors, pickled, _use_new_zipfile_serialization=new)
            never_written(pickled, share)
            refused(pickled, str(pickled), "never written", approx=approx)
    for names in (["taesd.safetensors"], ["taesd_decoder.safetensors"], ["taesd.pth"]):
        files, _ = approx_files(tmp_path, names)
        never_written(files[names[0]], 0.6)
        refused(file, str(files[names[0]]), "never written", approx=files)
    folders.modules("tiny-sd")["unet"].save_pretrained(folder / "unet", max_shard_size="2MB")
    (folder / UNET).unlink()
    shard = sorted((folder / "unet").glob("*-of-*"))[0]
    never_written(shard, 0.8)
    refused(folder, str(shard), "never written")


def test_zeros_that_were_written_are_no_missing_end(folder, tmp_path):
    """Biases at the end, and the second matrices of a LoRA that was never trained."""
    tensors = load_file(folder / UNET)
    for name in ("time_embedding.linear_1.bias", "time_embedding.linear_2.bias"):  # fp16 comes last in the file
        tensors[name] = torch.zeros(256, dtype=torch.float16)
    saved(tensors, folder / UNET)
    assert not any((folder / UNET).read_bytes()[-1024:])
    assert checkpoint.load(folder, "tiny", [])

    model = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])[0]
    pairs = lora_files.matrices(UNet2DConditionModel.from_pretrained(checkpoint.NANO_DIR / "unet"))
    fresh = {name: (down, torch.zeros_like(up)) for name, (down, up) in pairs.items()}
    for tensors, metadata in (lora_files.kohya(fresh), lora_files.peft(fresh), lora_files.legacy(fresh)):
        path = lora_files.written(tmp_path / "fresh.safetensors", tensors, metadata)
        with torch.inference_mode():
            assert lora.apply(model, path, 1.0)
    for share in (0.2, 0.9, 0.9995):
        path = lora_files.written(tmp_path / "cut.safetensors", *lora_files.peft(pairs))
        never_written(path, share)
        lora_files.refused(model, path, "never written")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 3293395670\n"


def test_what_stands_for_a_file_is_named(folder, single, tmp_path):
    file, approx = single
    for content, words in (
        (POINTER, "a Git LFS pointer"),
        ("<!DOCTYPE html><html>Sign in</html>", "a web page"),
        ("GGUF\3\0\0\0", "GGUF, which is quantised"),
    ):
        for path in (file, file.with_suffix(".ckpt"), folder / UNET, folder / TEXT, folder / VAE):
            original = path.read_bytes() if path.exists() else b""
            path.write_text(content)
            refused(folder if path.is_relative_to(folder) else path, str(path), words, approx=approx)
            path.write_bytes(original)
    original = file.read_bytes()
    file.with_suffix(".ckpt").write_bytes(original)
    refused(file.with_suffix(".ckpt"), "is a safetensors file under another name", approx=approx)
    tensors = {k: v.clone() for k, v in load_file(file).items()}  # not mapped, as the file is written anew
    torch.save(tensors, file)
    refused(file, "is a PyTorch pickle under another name", approx=approx)
    file.write_bytes(original)
    pointer = tmp_path / "taesd_decoder.safetensors"
    pointer.write_text(POINTER)
    refused(file, str(pointer), "a Git LFS pointer", approx={pointer.name: pointer})
    assert checkpoint.load(file, "tiny", [], {pointer.name: pointer, **approx})
    (folder / "unet" / "config.json").write_text(POINTER)
    refused(folder, str(folder / "unet" / "config.json"), "a Git LFS pointer", "git lfs pull")
    model = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])[0]
    path = tmp_path / "lora.safetensors"
    path.write_text(POINTER)
    lora_files.refused(model, path, "a Git LFS pointer")


# Forms beside each other


def test_the_first_complete_form_is_taken(folder, caplog):
    """Of the forms beside each other the first complete one is taken."""
    unet = folders.modules("tiny-sd")["unet"]
    halves = checkpoint.load(folder, "tiny", [])[0].model.diffusion_model.half().state_dict()
    (folder / UNET).unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="2MB")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    unet.half().save_pretrained(folder / "unet", variant="fp16")
    index = next((folder / "unet").glob("*.index.json"))
    variant = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"

    def is_the_variant():
        found = checkpoint.load(folder, "tiny", [])[0].model.diffusion_model.half().state_dict()
        return all(torch.equal(found[k], halves[k]) for k in halves)

    for shard in shards:
        shard.write_text(POINTER)
    assert is_the_variant()
    for shard in shards:
        shard.unlink()
    caplog.clear()
    assert is_the_variant()
    assert f"{variant} is taken instead: {shards[0]}" in caplog.text

    variant.write_text(POINTER)  # neither is there: the index comes first
    refused(folder, str(shards[0]), index.name, "is missing (and ")
    torch.save({k: v.clone() for k, v in unet.state_dict().items()}, folder / "unet" / "diffusion_pytorch_model.bin")
    assert is_the_variant()
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()

    unet.float().save_pretrained(folder / "unet", variant="fp16", max_shard_size="2MB")
    variant.unlink(missing_ok=True)
    shards = sorted((folder / "unet").glob("*fp16*-of-*"))
    shards[1].unlink()  # all but one of this form's files, none of the other's
    refused(folder, str(shards[1]), "is missing: download the rest")


def test_a_damaged_form_does_not_give_way_to_another(folder):
    """The other may hold other weights, and nobody would be told."""
    whole = folder / UNET
    shutil.copy(whole, whole.with_name("diffusion_pytorch_model.fp16.safetensors"))
    never_written(whole, 0.5)
    refused(folder, str(whole), "the end of the file was never written")
    whole.write_bytes(whole.read_bytes()[:10000])
    refused(folder, str(whole), "it is incomplete")
