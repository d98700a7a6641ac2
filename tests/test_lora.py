"""LCM-LoRA files of both key styles against a merge by hand in float64, and the files that must be refused."""

import json
import re

import folders
import pytest
import torch
from safetensors.torch import save_file
from vega_pack.vega import checkpoint, lcm, lora, unet

TARGETS = re.compile(
    r"(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|conv_shortcut"
    r"|(down|up)samplers\.0\.conv|time_emb_proj)$"
)
RANK, ALPHA = 4, 2.0


def matrices(family: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A random LoRA for every module that the published LCM-LoRAs adapt: diffusers' module name -> (down, up)."""
    generator = torch.Generator().manual_seed(1)
    pairs = {}
    for name, module in folders.unet(family).named_modules():
        if TARGETS.search(name) and hasattr(module, "weight"):
            out, *rest = module.weight.shape
            down = torch.randn(RANK, *rest, generator=generator) * 0.05
            up = torch.randn(out, RANK, *[1] * (len(rest) - 1), generator=generator) * 0.05
            pairs[name] = down, up
    return pairs


def kohya(pairs):
    tensors = {}
    for name, (down, up) in pairs.items():
        key = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors, None


def peft(pairs, prefix="unet.", metadata=True):
    tensors = {}
    for name, (down, up) in pairs.items():
        tensors |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    config = {"unet.r": RANK, "unet.lora_alpha": ALPHA}
    return tensors, {"lora_adapter_metadata": json.dumps(config)} if metadata else None


STYLES = {
    "kohya": (kohya, ALPHA / RANK),
    "peft": (peft, ALPHA / RANK),
    "peft without alpha": (lambda p: peft(p, metadata=False), 1.0),
    "peft without prefix": (lambda p: peft(p, prefix=""), ALPHA / RANK),
    "peft base_model": (lambda p: peft(p, prefix="base_model.model."), ALPHA / RANK),
}


@pytest.fixture(scope="module")
def vega(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "vega"
    modules = folders.write(folder, "Segmind-Vega")
    with torch.inference_mode():
        return modules["unet"], checkpoint.load(folder, "tiny", [])[0]


def written(path, tensors, metadata=None):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata=metadata)
    return path


def weights_of(model):
    """The model's weights as they are while it runs."""
    model.patch_model()
    try:
        return {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    finally:
        model.unpatch_model()


@torch.inference_mode()
@pytest.mark.parametrize("style", STYLES)
def test_every_module_is_patched_exactly(vega, tmp_path, style):
    strength = 0.4
    reference, model = vega
    write, scale = STYLES[style]
    pairs = matrices("Segmind-Vega")
    patched = lora.apply(model, written(tmp_path / "lora.safetensors", *write(pairs)), strength)
    assert len(patched.patches) == len(pairs)
    before, after = weights_of(model), weights_of(patched)
    names = unet.diffusers_names(model.model.model_config.unet_config, model.model.diffusion_model.state_dict())
    for name, (down, up) in pairs.items():
        weight = dict(reference.named_modules())[name].weight.double()
        update = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        expected = weight + strength * scale * update
        got = after[names[f"{name}.weight"]].double()
        assert torch.allclose(got, expected, rtol=1e-6, atol=1e-7), name
    touched = {names[f"{name}.weight"] for name in pairs}
    assert all(torch.equal(before[k], after[k]) for k in before.keys() - touched)
    assert lcm.has_lcm_sampling(patched)
    assert not lcm.has_lcm_sampling(model)


@torch.inference_mode()
def refused(model, path, match):
    with pytest.raises(ValueError, match=match) as error:
        lora.apply(model, path, 1.0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_larger_bases_lora_is_refused_although_its_modules_include_all_of_ours(vega, tmp_path):
    path = written(tmp_path / "lora.safetensors", kohya(matrices("SDXL"))[0])
    assert str(path) in refused(vega[1], path, "was made for another base")


def test_a_smaller_bases_lora_is_refused_although_all_its_modules_fit(vega, tmp_path):
    pairs = matrices("Segmind-Vega")
    smaller = {k: v for k, v in pairs.items() if "transformer_blocks.1" not in k}
    refused(vega[1], written(tmp_path / "lora.safetensors", kohya(smaller)[0]), "of this model's are not in the file")


def test_a_missing_half_a_wrong_shape_and_a_stranger_are_refused(vega, tmp_path):
    pairs = matrices("Segmind-Vega")
    tensors, _ = kohya(pairs)
    key = next(k for k in tensors if k.endswith("lora_up.weight"))
    refused(vega[1], written(tmp_path / "a.safetensors", {k: v for k, v in tensors.items() if k != key}), "one of its two")
    wrong = {**tensors, key: torch.zeros(3, RANK, 1, 1)}
    refused(vega[1], written(tmp_path / "b.safetensors", wrong), "made for another base")
    refused(
        vega[1], written(tmp_path / "c.safetensors", {**tensors, "lora_te_x": torch.zeros(1)}), "not part of an LCM-LoRA"
    )


def test_an_empty_a_truncated_and_a_foreign_file_are_refused(vega, tmp_path):
    refused(vega[1], written(tmp_path / "empty.safetensors", {}), "is empty")
    whole = written(tmp_path / "whole.safetensors", kohya(matrices("Segmind-Vega"))[0]).read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(vega[1], tmp_path / "cut.safetensors", "incomplete")
    (tmp_path / "text.safetensors").write_text("not weights")
    refused(vega[1], tmp_path / "text.safetensors", "not a safetensors file")


@torch.inference_mode()
def test_a_second_lcm_lora_is_refused_and_strength_zero_changes_nothing(vega, tmp_path):
    path = written(tmp_path / "lora.safetensors", kohya(matrices("Segmind-Vega"))[0])
    once = lora.apply(vega[1], path, 1.0)
    refused(once, path, "already samples as an LCM")
    assert lora.apply(vega[1], path, 0.0) is vega[1]
