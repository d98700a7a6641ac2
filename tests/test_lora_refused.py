"""LoRA files that Apply LCM-LoRA must refuse, and what it says of them."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from lora_files import RANK, kohya, matrices, matrices_of, peft, refused, written
from vega_pack.vega import checkpoint, lora

from dev import diffusers_folders as folders

pytestmark = pytest.mark.model


def test_a_broken_peft_configuration_is_refused(vega, tmp_path):
    tensors, _ = peft(matrices(vega[0]))
    for broken in ("{", "[]", '{"unet.lora_alpha": "much"}', '{"unet.alpha_pattern": {"(": 1}}'):
        path = written(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": broken})
        refused(vega[1], path, "adapter configuration can't be read")


BASES = {"SDXL": (788, "SDXL"), "SSD-1B": (423, "SSD-1B"), "Segmind-Vega": (233, "Segmind-Vega")}
BASES |= {"SD 1.5": (278, "Stable Diffusion 1.5"), "small-sd": (178, "small-sd"), "tiny-sd": (147, "tiny-sd")}


@pytest.mark.parametrize("made_for", folders.FAMILIES)
def test_a_lora_for_another_base_is_refused_naming_both(vega, tmp_path, made_for):
    """Also where all names and shapes of the smaller one are in the larger."""
    reference = folders.unet(made_for)
    count, name = BASES[made_for]
    pairs = matrices(reference)
    assert len(pairs) == count
    path = written(tmp_path / "lora.safetensors", kohya(pairs)[0])
    if made_for == "Segmind-Vega":
        lora.apply(vega[1], path, 1.0)
        return
    refused(
        vega[1],
        path,
        f"has {count} modules and matches {name};",
        "the model is Segmind-Vega with 64 channels, which has 233: use the VegaRT adapter",
    )


def test_vegas_own_lora_is_refused_on_the_embedded_model(tmp_path):
    with torch.inference_mode():
        model, _, _ = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
    path = written(tmp_path / "lora.safetensors", kohya(matrices_of("Segmind-Vega"))[0])
    refused(model, path, "matches Segmind-Vega; the model is vega-nano, which has 182: use the embedded LCM-LoRA")


def test_a_lora_for_the_same_blocks_in_another_width_is_refused(vega, tmp_path):
    config = folders.FAMILIES["Segmind-Vega"] | {"block_out_channels": (128, 256, 512), "attention_head_dim": [2, 4, 8]}
    with torch.device("meta"):
        wider = UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, **config)
    path = written(tmp_path / "lora.safetensors", kohya(matrices(wider))[0])
    refused(vega[1], path, "is for a weight of", "(64 channels)", "made for another base")


def test_a_partial_file_and_a_wrong_shape_are_refused(vega, tmp_path):
    tensors, _ = kohya(matrices(vega[0]))
    part = {k: v for k, v in tensors.items() if "transformer_blocks_1" not in k}
    refused(vega[1], written(tmp_path / "part.safetensors", part), "of the model's are not in the file", "download it again")
    key = next(k for k in tensors if k.endswith("lora_up.weight"))
    half = {k: v for k, v in tensors.items() if k != key}
    refused(vega[1], written(tmp_path / "half.safetensors", half), "one of its two")
    wrong = {**tensors, key: torch.zeros(3, RANK, 1, 1)}
    refused(vega[1], written(tmp_path / "wrong.safetensors", wrong), "made for another base")
    down = key.replace("lora_up", "lora_down")
    rankless = {**tensors, key: torch.zeros(64, 0, 1, 1), down: torch.zeros(0, 64, 3, 3)}
    refused(vega[1], written(tmp_path / "rankless.safetensors", rankless), "is not two matrices")
    more = {**tensors, "lora_unet_conv_in.lora_down.weight": torch.zeros(4, 4, 3, 3)}
    refused(vega[1], written(tmp_path / "more.safetensors", more), "234 modules", "not in the model: conv_in")
    infinite = {**tensors, key.replace("lora_up.weight", "alpha"): torch.tensor(float("nan"))}
    refused(vega[1], written(tmp_path / "nan.safetensors", infinite), "alpha", "not a number")


def test_loras_that_are_no_lcm_loras_are_sent_to_cores_loader(vega, tmp_path):
    pairs = matrices(vega[0])
    tensors, _ = kohya(pairs)
    for_text = {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.zeros(4, 64)}
    attention = kohya({k: v for k, v in pairs.items() if "attn" in k})[0]
    for found, metadata, words in (
        (for_text, None, "adapts text encoders only"),
        ({"text_encoder.text_model.x.lora_A.weight": torch.zeros(4, 64)}, None, "adapts text encoders only"),
        (tensors | for_text, None, "adapts text encoders too"),
        (attention, None, "changes attention layers alone"),
        (tensors, {"ss_tag_frequency": "{}"}, "a style or a subject"),
    ):
        path = written(tmp_path / "lora.safetensors", found, metadata)
        refused(vega[1], path, words, "ComfyUI's own Load LoRA")


def test_files_that_are_no_lora_are_refused(vega, tmp_path):
    refused(vega[1], written(tmp_path / "empty.safetensors", {}), "is empty")
    whole = written(tmp_path / "whole.safetensors", kohya(matrices(vega[0]))[0]).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(vega[1], tmp_path / "cut.safetensors", "incomplete")
    (tmp_path / "text.safetensors").write_text("not weights")
    refused(vega[1], tmp_path / "text.safetensors", "not a safetensors file")
    (tmp_path / "text.pt").write_text("not weights")
    refused(vega[1], tmp_path / "text.pt", "not a file of weights at all")
    key = "lora_unet_mid_block_resnets_0_conv1.hada_w1_a"
    refused(vega[1], written(tmp_path / "loha.safetensors", {key: torch.zeros(1)}), key, "no part of a LoRA of two matrices")


@torch.inference_mode()
def test_a_second_lcm_lora_is_refused(vega, tmp_path):
    """A second LCM-LoRA is refused, and strength 0 gives the model that came in."""
    path = written(tmp_path / "lora.safetensors", kohya(matrices(vega[0]))[0])
    once = lora.apply(vega[1], path, 1.0)
    with pytest.raises(ValueError, match="already samples as an LCM"):
        lora.apply(once, path, 1.0)
    assert lora.apply(vega[1], path, 0.0) is vega[1]
