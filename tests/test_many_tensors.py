"""A file with more tensors than any model has is refused before it is read, and keeps the host's one worker for no time."""

import json

import comfy.latent_formats
import many_tensors
import pytest
import torch
from vega_pack.vega import checkpoint, file_integrity, lora, style_lora, tiny_autoencoder, weights

MANY = 300_000


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return many_tensors.write(tmp_path_factory.mktemp("many") / "many.safetensors", MANY)


@pytest.mark.parametrize("node", ["Load Vega", "Apply LCM-LoRA", "Load LoRA", "TAESD"])
def test_each_node_refuses_it_in_a_sentence(many, nano, node, monkeypatch):
    monkeypatch.setattr(weights, "safe_open", None)  # what takes the time is not even begun
    model, clip, _ = nano
    with pytest.raises(ValueError) as error:
        if node == "Load Vega":
            checkpoint.load(many, "tiny", [])
        elif node == "Apply LCM-LoRA":
            lora.apply(model, many, 1.0)
        elif node == "Load LoRA":
            style_lora.apply(model, clip, many, 1.0, 1.0, style_lora.AUTO)
        else:
            tiny_autoencoder.from_approx({"taesdxl.safetensors": many}, comfy.latent_formats.SDXL())
    said = str(error.value)
    assert str(many) in said
    assert f"more than {file_integrity.MAX_TENSORS} tensors" in said
    assert "\n" not in said


def test_braces_in_metadata_and_names_are_no_tensors(tmp_path):
    """Trainers and ComfyUI keep JSON there, with more braces than a model has tensors."""
    braces = json.dumps([{"\\": {}}] * file_integrity.MAX_TENSORS)
    path = many_tensors.write(tmp_path / "few.safetensors", 3, 'a"{{\\{}', {"workflow": braces, "end": "{\\"})
    assert list(weights.read(path)[0]) == ['a"{\\0', 'a"{\\1', 'a"{\\2']


@pytest.mark.parametrize("metadata", [None, {"workflow": '{"\\\\": "{"}' * file_integrity.MAX_TENSORS}])
@pytest.mark.parametrize("count", [file_integrity.MAX_TENSORS + more for more in (0, 1, 3)])
def test_the_limit_is_exact(tmp_path, count, metadata):
    path = many_tensors.write(tmp_path / "some.safetensors", count, 't"{}\\', metadata)
    if count > file_integrity.MAX_TENSORS:
        with pytest.raises(ValueError, match="more than"):
            weights.read(path)
    else:
        assert len(weights.read(path)[0]) == count


@pytest.mark.parametrize("lead", ["", " \n" * 100])
def test_a_header_written_to_be_miscounted_is_refused(tmp_path, lead):
    entries = (f'"{i}\\\\": {{"d\\u0074ype": "F16", "shape": [], "data\\u005foffsets": [0, 0]}}' for i in range(30_000))
    text = (lead + "{" + ", ".join(entries) + "}").encode()
    (tmp_path / "odd.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    assert file_integrity.has_too_many_tensors(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04", b"\x80\x02\x8a" + b"{" * 50_000, b"\xff" * 8 + b"{" * 50_000])
def test_what_is_no_safetensors_file_is_refused_as_that(tmp_path, content):
    (tmp_path / "other.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="can't be read|pickle") as error:
        weights.read(tmp_path / "other.safetensors")
    assert "more than" not in str(error.value)


def test_a_pickle_and_a_model_in_shards_have_the_same_limit(tmp_path):
    torch.save(dict.fromkeys(map(str, range(20_001)), torch.zeros(1)), tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="more than 20000 tensors"):
        weights.read(tmp_path / "a.ckpt")
    for shard in "ab":
        many_tensors.write(tmp_path / f"{shard}.safetensors", 15_000, shard + "{}")
    index = tmp_path / "unet.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    with pytest.raises(ValueError, match="index.json has more than 20000 tensors"):
        weights.read_files(index)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(map(str, range(20_001)), "a.safetensors")}))
    with pytest.raises(ValueError, match="index.json has more than 20000 tensors"):
        weights.read_files(index)
