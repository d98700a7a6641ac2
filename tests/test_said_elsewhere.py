"""What a file says of itself in another place: PEFT's configuration, metadata, a .yaml beside it; and contradictions."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from lora_files import ALPHA, RANK, check_merge, kohya, matrices, peft, refused, weights_of, written
from model_files import refused as model_refused
from model_files import single, tiny_files
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from vega_pack.vega import checkpoint, lora, unet

pytestmark = pytest.mark.model
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
TARGETS += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]
CONFIG = {"lora_alpha": ALPHA, "r": RANK, "target_modules": TARGETS, "peft_type": "LORA"}


@pytest.fixture(scope="module")
def nano():
    """diffusers' UNet of vega-nano, and our MODEL."""
    reference = UNet2DConditionModel.from_pretrained(checkpoint.NANO_DIR / "unet", torch_dtype=torch.float32)
    with torch.inference_mode():
        return reference, checkpoint.load(checkpoint.NANO_DIR, "tiny", [])[0]


def alone(folder, tensors, name="my lcm.safetensors", metadata=None):
    folder.mkdir(exist_ok=True)
    return written(folder / name, tensors, metadata)


def scaled(nano, path, scale):
    """The file is put on with this scale, by a merge by hand."""
    reference, model = nano
    with torch.inference_mode():
        patched = lora.apply(model, path, 1.0)
        check_merge(model, patched, reference, matrices(reference), lambda name: scale)


@torch.inference_mode()
@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 2},
        {"lora_alpha": 3, "use_rslora": True},
        {"lora_alpha": 2, "alpha_pattern": {"conv1": 8}, "rank_pattern": {"to_q": 2}},
    ],
)
def test_what_peft_saved_is_what_peft_merges_under_any_name(nano, tmp_path, options):
    reference, model = nano
    torch.manual_seed(0)
    base = UNet2DConditionModel.from_pretrained(checkpoint.NANO_DIR / "unet", torch_dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=RANK, target_modules=TARGETS, init_lora_weights=False, **options))
    adapted.save_pretrained(tmp_path)
    path = (tmp_path / "adapter_model.safetensors").rename(tmp_path / "my lcm.safetensors")
    after = weights_of(lora.apply(model, path, 1.0))
    names = unet.diffusers_to_native(model.model.model_config.unet_config, model.model.diffusion_model.state_dict())
    merged, unmerged = adapted.merge_and_unload().state_dict(), reference.state_dict()
    assert names.keys() == merged.keys()
    changed = 0
    for name, key in names.items():
        assert torch.allclose(after[key], merged[name], rtol=1e-5, atol=1e-6), name
        changed += not torch.equal(merged[name], unmerged[name])
    assert changed == 182


def test_a_configuration_in_a_folder_of_many_files(nano, tmp_path):
    """It is taken where it can only be this file's, left where it can't be, and asked about where it may be another's."""
    tensors, _ = peft(matrices(nano[0]), prefix="base_model.model.", metadata=False)
    path = alone(tmp_path, tensors)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(CONFIG))
    alone(tmp_path, kohya(matrices(nano[0]))[0], "with its own alphas.safetensors")
    alone(tmp_path, {"unet.mid_block.resnets.0.conv1.lora_A.weight": torch.ones(8, 4)}, "of rank 8.safetensors")
    alone(tmp_path, {"anything": torch.ones(8, 4)}, "no LoRA.safetensors")
    (tmp_path / "text.pt").write_text("nothing")
    scaled(nano, path, ALPHA / RANK)
    config.write_text(json.dumps(CONFIG | {"r": 8}))
    scaled(nano, path, 1.0)
    config.write_text(json.dumps(CONFIG | {"target_modules": ["q_proj", "v_proj"]}))
    scaled(nano, path, 1.0)
    config.write_text(json.dumps(CONFIG))
    twin = alone(tmp_path, tensors, "twin.safetensors")
    refused(nano[1], path, "adapter_config.json", "may be this file's or twin.safetensors's", "a folder of their own")
    config.write_text(json.dumps(CONFIG | {"lora_alpha": RANK}))  # whose it is makes no difference
    scaled(nano, path, 1.0)
    twin.unlink()


def test_a_contradicting_adapter_config_is_refused(nano, tmp_path):
    """A configuration beside a single file that contradicts it is refused."""
    path = alone(tmp_path, peft(matrices(nano[0]), metadata=False)[0])
    for change, words in (
        ({"r": 8}, "it states rank 8"),
        ({"target_modules": ["to_q"]}, "target_modules without"),
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed its base model"),
        ({"lora_alpha": "much"}, "adapter configuration can't be read"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG | change))
        refused(nano[1], path, words)
    (tmp_path / "adapter_config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused(nano[1], path, "adapter_config.json", "Git LFS pointer", "git lfs pull")


@pytest.mark.parametrize(
    ("metadata", "scale"),
    [
        ({"ss_network_alpha": "2.0", "ss_network_dim": "4"}, 0.5),
        ({"ss_network_alpha": "0", "ss_network_dim": "4"}, 1.0),  # kohya's scripts mean the rank
        ({"ss_network_alpha": "None"}, 1.0),
        ({"lora_alpha": "2", "lora_rank": "4"}, 0.5),
        ({"lora_alpha": "2", "use_rslora": "True"}, 1.0),
        ({"alpha": "2", "rank": "4"}, 0.5),
        ({"network_alpha": "2", "network_dim": "4"}, 0.5),
        ({"unet_lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 2})}, 0.5),
        ({"unet.lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 2})}, 0.5),
        ({"adapter_config": json.dumps({"r": 4, "lora_alpha": 2})}, 0.5),
        ({"lora_config": json.dumps({"network_dim": 4, "network_alpha": 2})}, 0.5),
        ({"Lora-Alpha": "2", "lora-rank": "4"}, 0.5),
        ({"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2}), "ss_network_alpha": "2"}, 0.5),
        ({"format": "pt", "lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 2})}, 1.0),
    ],
)
def test_alpha_in_the_metadata(nano, tmp_path, metadata, scale):
    scaled(nano, alone(tmp_path, peft(matrices(nano[0]), metadata=False)[0], metadata=metadata), scale)


@torch.inference_mode()
def test_patterns_reach_modules_of_kohyas_spelling(nano, tmp_path):
    reference, model = nano
    pairs = matrices(reference)
    tensors = {k: v for k, v in kohya(pairs)[0].items() if not k.endswith(".alpha")}
    stated = {"lora_alpha": 2, "r": 4, "alpha_pattern": {r"resnets\.0\.conv1": 8}}
    patched = lora.apply(model, alone(tmp_path, tensors, metadata={"adapter_config": json.dumps(stated)}), 1.0)
    check_merge(model, patched, reference, pairs, lambda name: 2.0 if name.endswith("resnets.0.conv1") else 0.5)


@torch.inference_mode()
@pytest.mark.parametrize("config", ['{"r": 4, "lora_alpha": 8, "use_dora": true}', '{"r": 4, "lora_alpha": 8}', "{"])
def test_the_configuration_of_pefts_own_file_is_no_other_files(nano, tmp_path, config):
    """PEFT's save_pretrained puts both into a folder; who copies them into models/loras has LCM-LoRAs beside them."""
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"whatever it is")
    scaled(nano, alone(tmp_path, peft(matrices(nano[0]), metadata=False)[0]), 1.0)


@torch.inference_mode()
def test_alphas_of_modules_in_the_metadata(nano, tmp_path):
    """The metadata's alphas of single modules, and of convolutions, are theirs alone."""
    reference, model = nano
    pairs = matrices(reference)
    tensors = {k: v for k, v in kohya(pairs)[0].items() if not k.endswith(".alpha")}
    own = {"network_alphas": json.dumps({f"unet.{name}.alpha": 2.0 for name in pairs if name.endswith("conv1")})}
    patched = lora.apply(model, alone(tmp_path, tensors, metadata=own), 1.0)
    check_merge(model, patched, reference, pairs, lambda name: 0.5 if name.endswith("conv1") else 1.0)
    kohyas = {"ss_network_alpha": "2", "ss_network_args": json.dumps({"conv_dim": "4", "conv_alpha": "1"})}
    patched = lora.apply(model, alone(tmp_path, tensors, metadata=kohyas), 1.0)
    convolutions = ("conv1", "conv2", "samplers.0.conv")  # conv_shortcut is 1 x 1, which the scripts count as linear
    check_merge(model, patched, reference, pairs, lambda name: 0.25 if name.endswith(convolutions) else 0.5)


def test_metadata_that_is_no_alpha_or_another_files_is_refused(nano, tmp_path):
    for metadata, *words in (
        ({"ss_network_alpha": "Dynamic"}, "adapter configuration can't be read", "Dynamic"),
        ({"lora_alpha": "much"}, "adapter configuration can't be read"),
        ({"lora_alpha": "2", "rank": "inf"}, "adapter configuration can't be read"),
        ({"lora_alpha": "nan"}, "is not a number"),
        (
            {"lora_adapter_metadata": json.dumps({"lora_alpha": 2, "rank_pattern": [1]})},
            "adapter configuration can't be read",
        ),
        ({"network_alphas": "[1]"}, "adapter configuration can't be read"),
        ({"lora_alpha": "2", "ss_network_alpha": "8"}, "it states 2 and 8 as alpha"),
        ({"ss_network_alpha": "2", "ss_network_dim": "8"}, "its metadata does not describe it", "rank 8"),
        ({"lora_adapter_metadata": json.dumps({"unet.use_dora": True, "unet.lora_alpha": 2})}, "DoRA"),
    ):
        refused(nano[1], alone(tmp_path, peft(matrices(nano[0]), metadata=False)[0], metadata=metadata), *words)


def test_as_many_modules_with_other_names_contradict_nothing(nano, tmp_path):
    pairs = matrices(nano[0])
    first = next(iter(pairs))
    renamed = {"strange.conv1" if name == first else name: pair for name, pair in pairs.items()}
    refused(nano[1], alone(tmp_path, kohya(renamed)[0]), "not in the model: strange_conv1", "Use the embedded LCM-LoRA")


def test_matrices_of_different_ranks_are_refused_as_such(nano, tmp_path):
    tensors, _ = kohya(matrices(nano[0]))
    key = next(k for k in tensors if k.endswith("lora_up.weight"))
    path = alone(tmp_path, tensors | {key: torch.ones_like(tensors[key])[:, :2]})
    refused(nano[1], path, "have ranks 4 and 2")


# From runwayml's v1-inference.yaml, StabilityAI's v2-inference-v.yaml and generative-models' sd_xl_base.yaml.
ORIGINAL = """
model:
  base_learning_rate: 1.0e-04
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    {}
    linear_start: 0.00085
    linear_end: 0.0120
"""
XL = """
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    denoiser_config:
      params:
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.{}
"""


def test_a_yaml_beside_a_single_file_tells_what_it_predicts(tmp_path):
    file, _ = single(tmp_path, "tiny-sd")
    beside = file.with_suffix(".yaml")
    for text, words in (
        (ORIGINAL.format('parameterization: "v"'), "a v-prediction model"),
        (ORIGINAL.format("parameterization: v  # of 2.1"), "a v-prediction model"),
        ('{"model": {"params": {"parameterization": "v"}}}', "a v-prediction model"),
        (ORIGINAL.format("parameterization: x0"), "predicts 'x0'"),
        (XL.format("VScaling"), "a v-prediction model"),
        (XL.format("EDMScaling"), "EDMScaling"),
    ):
        beside.write_text(text)
        model_refused(file, str(file), words, f"as {beside.name} beside it says")
    for text, encoding in (
        ("- {parameterization: v}", "utf-8"),
        ("v_parameterization: true", "utf-8"),
        ("Prediction_Type: v_prediction", "utf-8"),
        (ORIGINAL.format('parameterization: "v"'), "utf-16"),
    ):
        beside.write_text(text, encoding=encoding)
        model_refused(file, str(file), "a v-prediction model", f"as {beside.name} beside it says")
    beside.write_text(ORIGINAL.format("timesteps: 1000").replace("0.0120", "0.02"))
    model_refused(file, str(file), "a model of other noise levels (linear_end 0.02)")
    beside.write_text("model: [")
    model_refused(file, str(beside), "can't be read", "move it away")
    for text in (
        ORIGINAL.format('parameterization: "eps"'),
        ORIGINAL.format("timesteps: 1000"),
        XL.format("EpsScaling"),
        "prompt: a cat: sitting",  # somebody's notes
        "",
    ):
        beside.write_text(text, encoding="utf-8-sig")
        assert checkpoint.load(file, "tiny", [], tiny_files(tmp_path))
    beside.write_text(ORIGINAL.format('parameterization: "v"'))
    other = shutil.copy(file, tmp_path / "other.safetensors")
    assert checkpoint.load(other, "tiny", [], tiny_files(tmp_path))


def test_metadata_and_markers_tell_what_a_single_file_predicts(tmp_path):
    file, _ = single(tmp_path, "tiny-sd")
    tensors = load_file(file)
    for extra, metadata, words in (
        ({}, {"modelspec.predict_key": "v"}, "a v-prediction model"),
        ({}, {"modelspec.prediction_type": "V_prediction"}, "a v-prediction model"),
        ({}, {"modelspec.prediction_type": "sample"}, "predicts 'sample'"),
        ({}, {"ss_v_parameterization": "True"}, "a v-prediction model"),
        ({}, {"ss_zero_terminal_snr": "True"}, "a zero terminal SNR model"),
        ({"v_pred": torch.tensor([])}, {}, "a v-prediction model"),
        ({"ztsnr": torch.tensor([])}, {}, "a zero terminal SNR model"),
    ):
        save_file(tensors | extra, file, metadata=metadata)
        model_refused(file, str(file), words, "only models that predict the noise")
    save_file(tensors, file, metadata={"ss_v_parameterization": "False", "modelspec.prediction_type": "epsilon"})
    assert checkpoint.load(file, "tiny", [], tiny_files(tmp_path))


@pytest.mark.parametrize(
    ("option", "value"),
    [("rescale_betas_zero_snr", True), ("beta_end", 0.02), ("beta_schedule", "linear"), ("prediction_type", "sample")],
)
def test_a_schedule_that_is_not_the_families_is_refused(tmp_path, option, value):
    folder = tmp_path / "nano"
    shutil.copytree(checkpoint.NANO_DIR, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {option: value}))
    model_refused(folder, f"{file}: {option} = {value!r} is not supported")
