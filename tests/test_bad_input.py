"""Every mistake ends in one clear message at the right node, and the server serves the next prompt."""

import contextlib
import io
import shutil
import threading

import graphs
import lora_files
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from vega_pack.vega import checkpoint, lcm, lora

from dev import comfyui
from dev import diffusers_folders as folders

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True, scope="module")
def still_serving(server):
    yield
    with server.connect() as client:
        assert client.run(graphs.text_to_image())[graphs.SAVE]["images"]


@pytest.fixture
def broken(server, request):
    """A copy of vega-nano in the server's models, for the test to damage: (its folder, the name it is loaded by)."""
    name = request.node.name.replace("[", "-").replace("]", "")
    folder = server.base / "models" / "diffusers" / name
    shutil.copytree(checkpoint.NANO_DIR, folder)
    return folder, f"{name}/"


def refused(client, graph, node, *words):
    """Queues the graph, which must fail at the node with a one-line message that contains the words."""
    with pytest.raises(comfyui.PromptError) as error:
        client.run(graph)
    assert error.value.node_id == node, error.value
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def change(path, **tensors):
    """Rewrites a safetensors file with tensors replaced, added, or (None) left out; "__" stands for "."."""
    content = load_file(path)
    for name, tensor in tensors.items():
        content[name.replace("__", ".")] = tensor
    save_file({k: v for k, v in content.items() if v is not None}, path)


def test_truncated_model_file(client, broken):
    folder, name = broken
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:100_000])
    refused(client, graphs.text_to_image(VegaLoader__model_name=name), graphs.LOADER, str(path), "incomplete", "again")


def test_missing_tensor(client, broken):
    folder, name = broken
    change(folder / UNET, conv_in__weight=None)
    graph = graphs.text_to_image(VegaLoader__model_name=name)
    refused(client, graph, graphs.LOADER, str(folder / UNET), "1 weights missing: conv_in.weight")


def test_unexpected_tensor(client, broken):
    folder, name = broken
    change(folder / "text_encoder/model.safetensors", stranger=torch.zeros(1))
    refused(client, graphs.text_to_image(VegaLoader__model_name=name), graphs.LOADER, "1 weights unexpected", "stranger")


def test_folder_without_unet(client, broken):
    folder, name = broken
    shutil.rmtree(folder / "unet")
    graph = graphs.text_to_image(VegaLoader__model_name=name)
    refused(client, graph, graphs.LOADER, str(folder), "unet/config.json is missing")


def test_full_autoencoder_that_is_not_there(client):
    refused(client, graphs.text_to_image(VegaLoader__vae="full"), graphs.LOADER, "only a tiny autoencoder", "`tiny`")


@pytest.mark.parametrize("name", ["no-such-model/", "../../secret/", "/etc/"])
def test_unknown_model_name(client, name):
    refused(client, graphs.text_to_image(VegaLoader__model_name=name), graphs.LOADER, "There is no model", name)


@pytest.mark.parametrize("name", ["no-such.safetensors", "../../secret.safetensors", "/etc/passwd"])
def test_unknown_lora_name(client, name):
    refused(client, graphs.text_to_image(VegaLCMLora__lora_name=name), graphs.LORA, "There is no LoRA", name)


def test_sampler_without_lcm_sampling(client):
    graph = graphs.text_to_image(VegaLCMSampler__model=[graphs.LOADER, 0])
    refused(client, graph, graphs.SAMPLER, "Apply LCM-LoRA (Vega)", "ModelSamplingDiscrete")


def test_second_lcm_lora(client):
    graph = graphs.text_to_image(VegaLCMSampler__model=["extra", 0])
    graph["extra"] = {"class_type": "VegaLCMLora", "inputs": {**graph[graphs.LORA]["inputs"], "model": [graphs.LORA, 0]}}
    refused(client, graph, "extra", "already samples as an LCM", "only one")


def test_guidance_on_a_recipe_without(client):
    refused(
        client, graphs.text_to_image(VegaLCMLora__recipe="DMD2", VegaLCMSampler__cfg=2.0), graphs.SAMPLER, "set cfg to 1"
    )
    graph = graphs.text_to_image(VegaLCMLora__recipe="Hyper-SD CFG")
    refused(client, graph, graphs.SAMPLER, "Hyper-SD CFG draws with guidance (cfg 5)", "connect one")


def test_eta_out_of_range_that_comes_over_a_link(client):
    graph = graphs.text_to_image(VegaLCMLora__recipe="TCD", VegaLCMLora__eta=["extra", 0])
    graph["extra"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 1.5}}
    refused(client, graph, graphs.LORA, "eta is 1.5; TCD takes 0 to 1")


def test_a_fused_lora_without_recipe(client):
    graph = graphs.text_to_image(VegaLCMLora__lora_name="none (fused in the checkpoint)")
    refused(client, graph, graphs.LORA, "set recipe to that of the adapter")


def test_lora_for_another_model(server, client):
    path = server.base / "models" / "loras" / "other.safetensors"
    tensors, _ = lora_files.kohya(lora_files.matrices_of("SDXL"))
    save_file(tensors, path)
    graph = graphs.text_to_image(VegaLCMLora__lora_name="other.safetensors")
    refused(client, graph, graphs.LORA, str(path), "788 modules and matches SDXL", "the model is vega-nano")


def test_truncated_lora(server, client):
    path = server.base / "models" / "loras" / "cut.safetensors"
    path.write_bytes(checkpoint.NANO_LORA.read_bytes()[:5000])
    graph = graphs.text_to_image(VegaLCMLora__lora_name="cut.safetensors")
    refused(client, graph, graphs.LORA, str(path), "incomplete")


@pytest.mark.parametrize("steps", [0, 51])
def test_steps_out_of_range(client, steps):
    refused(client, graphs.text_to_image(VegaLCMSampler__steps=steps), graphs.SAMPLER, "steps", str(steps))


def test_steps_out_of_range_that_come_over_a_link(client):
    graph = graphs.text_to_image(VegaLCMSampler__steps=["extra", 0])
    graph["extra"] = {"class_type": "PrimitiveInt", "inputs": {"value": 51}}
    refused(client, graph, graphs.SAMPLER, "steps is 51", "at most 50")


def test_more_steps_than_the_denoise_has(client):
    graph = graphs.text_to_image(VegaLCMSampler__steps=8, VegaLCMSampler__denoise=0.1)
    refused(client, graph, graphs.SAMPLER, "denoise 0.1", "at most 5")


def test_latent_too_small(client):
    graph = graphs.text_to_image(EmptyLatentImage__width=16, EmptyLatentImage__height=128)
    refused(client, graph, graphs.SAMPLER, "16 x 128 pixels", "at least 32")


def latent(server, name, tensor):
    """A node that loads this latent, through a file in the server's input folder."""
    content = {"latent_tensor": tensor, "latent_format_version_0": torch.tensor([])}
    save_file(content, server.base / "input" / f"{name}.latent")
    return {"class_type": "LoadLatent", "inputs": {"latent": f"{name}.latent"}}


def test_filled_latent_of_another_channel_count(server, client):
    graph = graphs.text_to_image(VegaLCMSampler__latent_image=["extra", 0])
    graph["extra"] = latent(server, "sixteen", torch.ones(1, 16, 16, 16))
    refused(client, graph, graphs.SAMPLER, "[1, 16, 16, 16]", "4 channels")


def test_empty_latent_of_another_channel_count_is_adapted(server, client):
    graph = graphs.text_to_image(VegaLCMSampler__latent_image=["extra", 0])
    graph["extra"] = {"class_type": "EmptySD3LatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}}
    drawn = [client.download(client.run(g)[graphs.SAVE]["images"][0]) for g in (graph, graphs.text_to_image())]
    adapted, plain = (Image.open(io.BytesIO(png)).tobytes() for png in drawn)
    assert adapted == plain


def test_nan_enters_the_sampler(server, client):
    graph = graphs.text_to_image(VegaLCMSampler__latent_image=["extra", 0])
    graph["extra"] = latent(server, "nan", torch.full((1, 4, 16, 16), float("nan")))
    refused(client, graph, graphs.SAMPLER, "latent_image contains NaN")


def test_nan_enters_the_decoder(server, client):
    graph = graphs.text_to_image(VegaTinyVAEDecode__samples=["extra", 0])
    graph["extra"] = latent(server, "nan", torch.full((1, 4, 16, 16), float("nan")))
    refused(client, graph, graphs.DECODE, "samples contains NaN")


def test_nan_leaves_the_unet(client, broken):
    folder, name = broken
    change(folder / UNET, conv_out__bias=torch.full((4,), float("nan"), dtype=torch.float16))
    refused(client, graphs.text_to_image(VegaLoader__model_name=name), graphs.SAMPLER, "UNet gave NaN", "--force-fp32")


def test_nan_leaves_the_text_encoder(client, broken):
    folder, name = broken
    path = folder / "text_encoder_2/model.safetensors"
    key = next(k for k in load_file(path) if k.endswith("layers.0.mlp.fc1.bias"))
    change(path, **{key.replace(".", "__"): torch.full((256,), float("nan"), dtype=torch.float16)})
    refused(client, graphs.text_to_image(VegaLoader__model_name=name), graphs.SAMPLER, "positive contains NaN")


@pytest.mark.parametrize("weight", [" Infinity", "nan", "-inf", "1e999"])
def test_an_emphasis_that_is_no_number(client, weight):
    graph = graphs.text_to_image(CLIPTextEncode__text=f"night, (desert:{weight})")
    refused(client, graph, graphs.SAMPLER, "positive contains NaN", "an emphasis in the prompt is no number", "(word:inf)")


@pytest.mark.parametrize("title", ["(Blade Runner: 2049)", "night (desert: 1984), moon", "(desert:1e30)", "(a:-1e5)"])
def test_an_emphasis_that_was_meant_as_text(client, title):
    graph = graphs.text_to_image(CLIPTextEncode__text=f"night, {title}")
    refused(client, graph, graphs.SAMPLER, "times as large as others: an emphasis in the prompt is far too large", "\\(")


def test_an_emphasis_that_people_use(client):
    client.run(graphs.text_to_image(CLIPTextEncode__text="(night:1.5), [desert], ((full moon)) (a:0) (lake:20)"))


def test_an_emphasis_beyond_fp16():
    """Finite as the text encoder gives it, and infinite where the UNet takes it."""
    with torch.inference_mode():
        model, clip, _ = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
        model.model.manual_cast_dtype = torch.float16  # as the host has it on a GPU
        for weight, said in (("1.2", None), ("1e6", "an emphasis in the prompt is no number or far too large")):
            positive = clip.encode_from_tokens_scheduled(clip.tokenize(f"night, (desert:{weight})"))
            assert positive[0][0].isfinite().all()
            with pytest.raises(ValueError, match=said) if said else contextlib.nullcontext():
                lcm.check_conditioning(model, positive)


def test_nan_leaves_the_decoder(client, broken):
    folder, name = broken
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    change(path, decoder__layers__0__bias=torch.full((64,), float("nan"), dtype=torch.float16))
    refused(client, graphs.text_to_image(VegaLoader__model_name=name), graphs.DECODE, "decoder gave NaN")


def test_conditioning_of_another_width(server, client):
    folders.write(server.base / "models" / "diffusers" / "narrow", "tiny-sd")
    graph = graphs.text_to_image(CLIPTextEncode__clip=["extra", 1])
    graph["extra"] = {"class_type": "VegaLoader", "inputs": {"model_name": "narrow/", "vae": "tiny"}}
    refused(client, graph, graphs.SAMPLER, "64 features", "needs 128", "CLIP")


def test_conditioning_without_entries():
    with torch.inference_mode():
        model, _, _ = checkpoint.load(checkpoint.NANO_DIR, "tiny", [])
        model = lora.apply(model, checkpoint.NANO_LORA, 1.0)
        with pytest.raises(ValueError, match="positive has no entries"):
            lcm.sample(model, 0, 4, [], {"samples": torch.zeros(1, 4, 16, 16)}, 1.0)


def test_full_vae_given_to_the_tiny_decoder(server, client):
    folders.write(server.base / "models" / "diffusers" / "full", "tiny-sd", vae="full")
    graph = graphs.text_to_image(VegaTinyVAEDecode__vae=["extra", 2])
    graph["extra"] = {"class_type": "VegaLoader", "inputs": {"model_name": "full/", "vae": "full"}}
    refused(client, graph, graphs.DECODE, "This VAE is a full one", "VAE Decode", "`tiny`")


def test_interrupt_in_mid_run(server, client):
    graph = graphs.text_to_image(VegaLCMSampler__steps=50, EmptyLatentImage__width=512, EmptyLatentImage__height=512)
    prompt_id = client.queue(graph)
    stopped_at = None
    with pytest.raises(comfyui.PromptError, match="interrupted") as error:
        for kind, data in client.events(prompt_id):
            if kind == "progress" and data["node"] == graphs.SAMPLER:
                if stopped_at is None:
                    stopped_at = data["value"]
                    server.post("/interrupt", {})
                last = data["value"]
    assert error.value.node_id == graphs.SAMPLER
    assert last <= stopped_at + 1
    assert client.run(graphs.text_to_image(VegaLCMSampler__seed=99))[graphs.SAVE]["images"]


def test_two_clients_at_once(server):
    results = {}

    def draw(seed):
        with server.connect() as client:
            graph = graphs.text_to_image(VegaLCMSampler__seed=seed, SaveImage__filename_prefix=f"client{seed}")
            results[seed] = client.run(graph)[graphs.SAVE]["images"][0]["filename"]

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in (1001, 1002)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert {seed: name.split("_")[0] for seed, name in results.items()} == {1001: "client1001", 1002: "client1002"}
