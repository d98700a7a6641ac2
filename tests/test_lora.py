"""LCM-LoRA files of every key style against a merge by hand in float64, and the files that must be refused."""

import functools
import json
import re

import loads
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from vega_pack.vega import checkpoint, lcm, lora, unet

from dev import diffusers_folders as folders

TARGETS = re.compile(
    r"(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|conv_shortcut"
    r"|(down|up)samplers\.0\.conv|time_emb_proj)$"
)
RANK, ALPHA = 4, 2.0


def matrices(reference, dtype=torch.float32) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A random LoRA for every module that the published LCM-LoRAs adapt: diffusers' module name -> (down, up)."""
    generator = torch.Generator().manual_seed(1)
    pairs = {}
    for name, module in reference.named_modules():
        if TARGETS.search(name) and hasattr(module, "weight"):
            out, *rest = module.weight.shape
            down = torch.randn(RANK, *rest, generator=generator) * 0.05
            up = torch.randn(out, RANK, *[1] * (len(rest) - 1), generator=generator) * 0.05
            pairs[name] = down.to(dtype), up.to(dtype)
    return pairs


def kohya(pairs, native=None):
    tensors = {}
    for name, (down, up) in pairs.items():
        key = "lora_unet_" + (native(name) if native else name).replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors, None


def peft(pairs, prefix="unet.", metadata=True, adapter=""):
    tensors = {}
    for name, (down, up) in pairs.items():
        tensors |= {f"{prefix}{name}.lora_A{adapter}.weight": down, f"{prefix}{name}.lora_B{adapter}.weight": up}
    config = {"unet.r": RANK, "unet.lora_alpha": ALPHA}
    return tensors, {"lora_adapter_metadata": json.dumps(config)} if metadata else None


def legacy(pairs):
    """diffusers before PEFT: processors for attention, `.lora.` elsewhere."""
    tensors = {}
    for name, (down, up) in pairs.items():
        if match := re.fullmatch(r"(.+)\.(to_[qkv]|to_out)(\.0)?", name):
            key = f"unet.{match[1]}.processor.{match[2]}_lora"
        else:
            key = f"unet.{name}.lora"
        tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return tensors, None


def dotted(pairs):
    """diffusers between the two: `.lora.` everywhere, with alphas."""
    tensors = {}
    for name, (down, up) in pairs.items():
        key = f"unet.{name}"
        tensors |= {f"{key}.lora.down.weight": down, f"{key}.lora.up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors, None


def native_names(family):
    """diffusers' module name -> Stability's, as the host names this family's modules."""
    config = unet.host_config(json.loads(folders.unet(family).to_json_string()), "config.json")
    keys = unet.comfy.utils.unet_to_diffusers(config)
    return lambda name: keys[f"{name}.weight"].removesuffix(".weight")


def host_native(pairs, family):
    tensors, _ = kohya(pairs)
    name_of = native_names(family)
    out = {}
    for name in pairs:
        key, old = f"diffusion_model.{name_of(name)}", "lora_unet_" + name.replace(".", "_")
        out |= {f"{key}.{end}": tensors[f"{old}.{end}"] for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    return out, None


STYLES = {
    "kohya": (lambda p, f: kohya(p), ALPHA / RANK),
    "kohya, Stability's names": (lambda p, f: kohya(p, native_names(f)), ALPHA / RANK),
    "PEFT, `unet.`": (lambda p, f: peft(p), ALPHA / RANK),
    "PEFT, no prefix": (lambda p, f: peft(p, prefix=""), ALPHA / RANK),
    "PEFT, `base_model.model.`": (lambda p, f: peft(p, prefix="base_model.model."), ALPHA / RANK),
    "PEFT, `.default`": (lambda p, f: peft(p, adapter=".default"), ALPHA / RANK),
    "PEFT, no alpha": (lambda p, f: peft(p, metadata=False), 1.0),
    "diffusers, `.processor.`": (lambda p, f: legacy(p), 1.0),
    "diffusers, `.lora.`": (lambda p, f: dotted(p), ALPHA / RANK),
    "ComfyUI, `diffusion_model.`": (host_native, ALPHA / RANK),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """family -> (diffusers' UNet, our MODEL), made when it is first asked for."""

    @functools.cache
    def base(family):
        folder = tmp_path_factory.mktemp("model") / "model"
        modules = folders.write(folder, family)
        with torch.inference_mode():
            return modules["unet"], checkpoint.load(folder, "tiny", [])[0]

    return base


@pytest.fixture(scope="module")
def vega(bases):
    return bases("Segmind-Vega")


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


def check_merge(model, patched, reference, pairs, scale):
    """The patched weights are the merge by hand, in float64; every other weight is untouched."""
    before, after = weights_of(model), weights_of(patched)
    names = unet.diffusers_to_native(model.model.model_config.unet_config, model.model.diffusion_model.state_dict())
    modules = dict(reference.named_modules())
    for name, (down, up) in pairs.items():
        weight = modules[name].weight.double()
        update = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        got = after[names[f"{name}.weight"]].double()
        assert torch.allclose(got, weight + scale(name) * update, rtol=1e-6, atol=1e-7), name
    touched = {names[f"{name}.weight"] for name in pairs}
    assert all(torch.equal(before[k], after[k]) for k in before.keys() - touched)


@torch.inference_mode()
@pytest.mark.parametrize(("family", "style"), loads.every(STYLES, always=("kohya",)))
def test_every_module_is_patched_exactly(bases, tmp_path, family, style):
    strength = 0.4
    reference, model = bases(family)
    write, scale = STYLES[style]
    pairs = matrices(reference)
    patched = lora.apply(model, written(tmp_path / "lora.safetensors", *write(pairs, family)), strength)
    assert len(patched.patches) == len(pairs)
    check_merge(model, patched, reference, pairs, lambda name: strength * scale)
    assert lcm.has_lcm_sampling(patched)
    assert not lcm.has_lcm_sampling(model)
    loads.seen(f"LCM-LoRA: {style}", family)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("config", "conv1", "others"),
    [
        ({"lora_alpha": 2.0, "alpha_pattern": {"conv1": 8.0}}, 2.0, 0.5),
        ({"lora_alpha": 2.0, "alpha_pattern": {r"(down|up)_blocks\..*\.conv1|mid_block\..*conv1": 8.0}}, 2.0, 0.5),
        ({"lora_alpha": 2.0, "use_rslora": True}, 1.0, 1.0),  # alpha over the root of the rank, 4
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_what_pefts_configuration_says_of_alpha(vega, tmp_path, config, conv1, others, beside):
    """In the metadata, as diffusers writes it, and in adapter_config.json, as PEFT itself does."""
    reference, model = vega
    pairs = matrices(reference)
    tensors, _ = peft(pairs, prefix="base_model.model." if beside else "unet.")
    if beside:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    metadata = None if beside else {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in config.items()})}
    path = written(tmp_path / "adapter_model.safetensors", tensors, metadata)
    patched = lora.apply(model, path, 1.0)
    check_merge(model, patched, reference, pairs, lambda name: conv1 if name.endswith("conv1") else others)


def test_a_broken_peft_configuration_is_refused(vega, tmp_path):
    tensors, _ = peft(matrices(vega[0]))
    for broken in ("{", "[]", '{"unet.lora_alpha": "much"}', '{"unet.alpha_pattern": {"(": 1}}'):
        path = written(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": broken})
        refused(vega[1], path, "adapter configuration can't be read")


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_the_file_holds_is_logged(vega, tmp_path, caplog, dtype):
    reference, model = vega
    tensors, _ = kohya(matrices(reference, dtype))
    with caplog.at_level("INFO"):
        lora.apply(model, written(tmp_path / "some.safetensors", tensors), 1.0)
    name = str(dtype).removeprefix("torch.")
    expected = f"some.safetensors: 233 of 233 modules, rank 4, alpha 2, {name}, base Segmind-Vega with 64 channels"
    assert expected in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        lora.apply(model, written(tmp_path / "some.safetensors", *peft(matrices(reference), metadata=False)), 1.0)
    assert "alpha not in the file, so the rank" in caplog.text


# By how segmind/distill-sd's prepare_unet made them: the first block of each level down, the first and the last of each
# level up; tiny-sd without the innermost level. Module of the small model -> that of Stable Diffusion 1.5.
def made_from(name, family):
    if match := re.match(r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)", name):
        level, kind, number, rest = match.groups()
        level = int(level) + (family == "tiny-sd")
        return f"up_blocks.{level}.{kind}.{'02'[int(number)]}.{rest}"
    if match := re.match(r"up_blocks\.(\d)\.(.+)", name):
        return f"up_blocks.{int(match[1]) + (family == 'tiny-sd')}.{match[2]}"
    return name


@torch.inference_mode()
@pytest.mark.parametrize(("family", "style"), loads.every(STYLES, ("kohya",), families=("small-sd", "tiny-sd")))
def test_the_lora_of_sd_15_is_mapped_onto_what_was_distilled_from_it(bases, tmp_path, caplog, family, style):
    reference, model = bases(family)
    modules = {"small-sd": 178, "tiny-sd": 147}[family]
    source = matrices(folders.unet("SD 1.5"))
    write, scale = STYLES[style]
    with caplog.at_level("INFO"):
        patched = lora.apply(model, written(tmp_path / "lora.safetensors", *write(source, "SD 1.5")), 1.0)
    assert f"{modules} of {modules} modules" in caplog.text
    targets = matrices(reference)
    assert len(targets) == modules
    check_merge(model, patched, reference, {name: source[made_from(name, family)] for name in targets}, lambda name: scale)
    loads.seen("LCM-LoRA of SD 1.5, mapped", family)


def refused(model, path, *words):
    with torch.inference_mode(), pytest.raises(ValueError) as error:
        lora.apply(model, path, 1.0)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message, message


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
        model, _, _ = checkpoint.load(checkpoint.NANO, "tiny", [])
    path = written(tmp_path / "lora.safetensors", kohya(matrices(folders.unet("Segmind-Vega")))[0])
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
        (attention, None, "adapts attention alone"),
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
def test_a_second_lcm_lora_is_refused_and_strength_zero_changes_nothing(vega, tmp_path):
    path = written(tmp_path / "lora.safetensors", kohya(matrices(vega[0]))[0])
    once = lora.apply(vega[1], path, 1.0)
    with pytest.raises(ValueError, match="already samples as an LCM"):
        lora.apply(once, path, 1.0)
    assert lora.apply(vega[1], path, 0.0) is vega[1]
