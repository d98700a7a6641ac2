"""LCM-LoRA files of every key style against a merge by hand in float64."""

import functools
import json

import loads
import pytest
import torch
from lora_files import STYLES, check_merge, kohya, made_from, matrices, matrices_of, peft, written
from vega_pack.vega import checkpoint, lora, model_sampling, recipes

from dev import diffusers_folders as folders

pytestmark = pytest.mark.model


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


@torch.inference_mode()
@pytest.mark.parametrize(("family", "style"), loads.family_form_params(STYLES, always=("kohya",)))
def test_every_module_is_patched_exactly(bases, tmp_path, family, style):
    strength = 0.4
    reference, model = bases(family)
    write, scale = STYLES[style]
    pairs = matrices(reference)
    patched = lora.apply(model, written(tmp_path / "lora.safetensors", *write(pairs, family)), strength)
    assert len(patched.patches) == len(pairs)
    check_merge(model, patched, reference, pairs, lambda name: strength * scale)
    assert model_sampling.carried_recipe(patched) is recipes.LCM
    assert model_sampling.carried_recipe(model) is None
    loads.record_loaded(f"LCM-LoRA: {style}", family)


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


@torch.inference_mode()
@pytest.mark.parametrize(("family", "style"), loads.family_form_params(STYLES, ("kohya",), families=("small-sd", "tiny-sd")))
def test_the_lora_of_sd_15_is_mapped(bases, tmp_path, caplog, family, style):
    """The LCM-LoRA of SD 1.5 is mapped onto the models that were distilled from it."""
    reference, model = bases(family)
    modules = {"small-sd": 178, "tiny-sd": 147}[family]
    source = matrices_of("SD 1.5")
    write, scale = STYLES[style]
    with caplog.at_level("INFO"):
        patched = lora.apply(model, written(tmp_path / "lora.safetensors", *write(source, "SD 1.5")), 1.0)
    assert f"{modules} of {modules} modules" in caplog.text
    targets = matrices(reference)
    assert len(targets) == modules
    check_merge(model, patched, reference, {name: source[made_from(name, family)] for name in targets}, lambda name: scale)
    loads.record_loaded("LCM-LoRA of SD 1.5, mapped", family)
