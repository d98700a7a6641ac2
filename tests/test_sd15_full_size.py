"""A ControlNet and a T2I-Adapter for SD 1.5 in the files that diffusers writes, on small-sd and tiny-sd at their published
dimensions; random weights, in `make soak`."""

import json

import comfy.controlnet
import comfy.utils
import pytest
import torch
from diffusers import ControlNetModel, T2IAdapter
from vega_pack.vega import unet

from bench import weights
from dev import diffusers_folders as folders

pytestmark = [pytest.mark.model, pytest.mark.soak, pytest.mark.usefixtures("inference")]
KEPT = {"small-sd": [0, 1, 3, 4, 6, 7, 9, 10], "tiny-sd": [0, 1, 3, 4, 6, 7]}
SIZE = 384, 256  # pixels, not square


@pytest.fixture(scope="module")
def steering(tmp_path_factory):
    """(diffusers' ControlNet, the host's, diffusers' T2I-Adapter, the host's), each pair of one file."""
    folder = tmp_path_factory.mktemp("control")
    torch.manual_seed(0)
    net = ControlNetModel(cross_attention_dim=768).eval()
    for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
        torch.nn.init.normal_(layer.weight, std=0.02)  # else they are zero, as training begins
    adapter = T2IAdapter(in_channels=3, channels=[320, 640, 1280, 1280], adapter_type="full_adapter").eval()
    net.save_pretrained(folder / "net")
    adapter.save_pretrained(folder / "adapter")
    files = [folder / name / "diffusion_pytorch_model.safetensors" for name in ("net", "adapter")]
    loaded = [comfy.controlnet.load_controlnet(str(file)) for file in files]
    yield net, loaded[0], adapter, loaded[1]
    for file in files:
        file.unlink()


@pytest.mark.parametrize("family", KEPT)
def test_it_steers_as_in_diffusers(steering, family, record_property):
    net, host_net, adapter, host_adapter = steering
    reference = weights.fill_random(folders.full_size_unet(family), torch.Generator().manual_seed(1)).float()
    config = json.loads(reference.to_json_string())
    found = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    inner = unet.load(folders.Path("unet.safetensors"), folders.Path("config.json"), config, found).model
    width, height = SIZE
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, height // 8, width // 8, generator=generator) * 3
    context, hint = torch.randn(1, 77, 768, generator=generator), torch.rand(1, 3, height, width, generator=generator)
    sigma = torch.tensor([2.0])
    t, scaled = inner.model_sampling.timestep(sigma).float(), x / (1 + sigma**2) ** 0.5
    down, middle = net(scaled, t, context, controlnet_cond=hint, return_dict=False)
    kept = {"down_block_additional_residuals": [down[number] for number in KEPT[family]]}
    kept["mid_block_additional_residual"] = middle if family == "small-sd" else torch.zeros(1)
    adapted = {"down_intrablock_additional_residuals": adapter(hint)}
    plain = reference(scaled, t, context).sample
    for name, control, given in (("controlnet", host_net, kept), ("t2i_adapter", host_adapter, adapted)):
        control = control.copy()
        control.set_cond_hint(hint, 1.0, (0.0, 1.0))
        control.pre_run(inner, inner.model_sampling.percent_to_sigma)
        steered = control.get_control(x, sigma, {"c_crossattn": context}, 1, {})
        got = (x - inner.apply_model(x, sigma, c_crossattn=context, control=steered)) / sigma
        expected = reference(scaled, t, context, **given).sample
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        effect = ((plain - expected).abs().max() / expected.abs().max()).item()
        record_property(name, f"{error:.1e} of an effect of {effect:.2f}")
        assert error < 1e-4 < effect / 100
