"""What other nodes and packs do to a UNet: each is a function of the host's MODEL."""

import contextlib
import copy

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ldm.modules.attention
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP

import nodes as host_nodes


def controlnet(model):
    torch.manual_seed(3)
    config = dict(model.model.model_config.unet_config, hint_channels=3, dtype=torch.float32, device="cpu")
    config.pop("out_channels")
    config.pop("transformer_depth_output")
    net = comfy.cldm.cldm.ControlNet(**config, operations=comfy.ops.disable_weight_init)
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.05
    return comfy.controlnet.ControlNet(net, load_device=model.load_device)


def steered(model, positive):
    """The prompt with that ControlNet on it, and a picture to follow."""
    control = host_nodes.ControlNetApplyAdvanced()
    return control.apply_controlnet(positive, [], controlnet(model), torch.rand(1, 64, 64, 3), 1.0, 0.0, 1.0)[0]


@contextlib.contextmanager
def hooked(layer):
    """Within it a hook of torch makes the layer's output half as large again."""
    handle = layer.register_forward_hook(lambda module, inputs, output: output * 1.5)
    try:
        yield
    finally:
        handle.remove()


def attention_patch(model):
    model.set_model_attn1_patch(lambda q, k, v, options: (q, k, v * 1.5))


def attention_replacement(model):
    def replacement(q, k, v, options):
        return comfy.ldm.modules.attention.optimized_attention(q, k, v, heads=options["n_heads"]) + 1.0

    model.set_model_attn2_replace(replacement, "middle", 0)
    for number in range(9):
        model.set_model_attn2_replace(replacement, "input", number)


def unknown_option(model):
    model.model_options["transformer_options"]["somebodys_option"] = True


def attention_override(model):
    override = lambda func, *args, **kwargs: func(*args, **kwargs) * 1.5  # noqa: E731
    model.model_options["transformer_options"]["optimized_attention_override"] = override


def other_wrapper(model):
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "somebody", lambda executor, *args: executor(*args) * 1.5)


def layer_patch(model):
    layer = copy.deepcopy(model.model.diffusion_model.out)
    layer[2].bias += 1
    model.add_object_patch("diffusion_model.out", layer)


def weight_wrapper(model):
    model.add_weight_wrapper("diffusion_model.out.2.bias", lambda weight: weight + 1)


PATCHES = [attention_patch, attention_replacement, unknown_option, attention_override, other_wrapper, layer_patch]
PATCHES += [weight_wrapper]
