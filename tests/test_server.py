"""The pack on the running server: the graph's latents and pictures against diffusers, many prompts in a row."""

import hashlib
import io
import math
import statistics
import time

import graphs
import numpy as np
import psutil
import pytest
import torch
from cpu_drawing import needs_bf16
from diffusers import LCMScheduler, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load
from vega_pack.vega import checkpoint

from dev import comfyui

SCALE = 0.13025  # host latents x SCALE are what the UNet sees
OUTPUTS = {
    "VegaLoader": ["MODEL", "CLIP", "VAE"],
    "VegaLCMLora": ["MODEL"],
    "VegaAccelerate": ["MODEL"],
    "VegaLCMSampler": ["LATENT"],
    "VegaTinyVAEDecode": ["IMAGE"],
    "VegaSendImage": [],
}
PROMPT = "night, desert, full moon"


@pytest.fixture(scope="module")
def oracle():
    pipe = StableDiffusionXLPipeline.from_pretrained(checkpoint.NANO_DIR, torch_dtype=torch.float32)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(checkpoint.NANO_DIR / "lcm-lora", weight_name="pytorch_lora_weights.safetensors")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_nodes_are_offered_with_the_embedded_model_first(server):
    info = server.get("/object_info").json()
    assert {n: list(info[n]["output"]) for n in OUTPUTS} == OUTPUTS
    assert all(info[n]["category"] == "Vega" for n in OUTPUTS)
    assert info["VegaLoader"]["input"]["required"]["model_name"][1]["options"][0] == "vega-nano (embedded)"
    assert info["VegaLCMLora"]["input"]["required"]["lora_name"][1]["options"][0] == "vega-nano LCM-LoRA (embedded)"


def test_a_new_folder_shows_after_refresh(server):
    folder = server.base / "models" / "diffusers" / "sub" / "mine"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    info = server.get("/object_info/VegaLoader").json()
    assert "sub/mine/" in info["VegaLoader"]["input"]["required"]["model_name"][1]["options"]


@pytest.mark.parametrize(
    ("steps", "batch", "width", "height", "seed"),
    [(2, 3, 160, 96, 2**64 - 2), (4, 1, 128, 128, 1234567890123)]  # others, without a server, in test_exactness.py
    + [pytest.param(*case, marks=pytest.mark.soak) for case in ((1, 1, 128, 128, 3), (8, 3, 96, 128, 0))],
)
def test_a_queued_graph_equals_the_pipeline(client, oracle, steps, batch, width, height, seed):
    check_exactness(client, oracle, steps, batch, width, height, seed)


def check_exactness(client, oracle, steps, batch, width, height, seed):
    graph = graphs.text_to_image(
        CLIPTextEncode__text=PROMPT,
        EmptyLatentImage__width=width,
        EmptyLatentImage__height=height,
        EmptyLatentImage__batch_size=batch,
        VegaLCMSampler__steps=steps,
        VegaLCMSampler__seed=seed,
    )
    graph["8"] = {"class_type": "SaveLatent", "inputs": {"samples": [graphs.SAMPLER, 0], "filename_prefix": "exact"}}
    outputs = client.run(graph)
    latents = load(client.download(outputs["8"]["latents"][0]))["latent_tensor"] * SCALE
    generators = [torch.Generator("cpu").manual_seed((seed + i) % 2**64) for i in range(batch)]
    options = dict(height=height, width=width, num_inference_steps=steps, guidance_scale=0.0, num_images_per_prompt=batch)
    with torch.inference_mode():
        expected = oracle(PROMPT, generator=generators, output_type="latent", **options).images
        pictures = oracle.image_processor.postprocess(oracle.vae.decode(expected).sample, output_type="np")
    assert (latents - expected).abs().max() <= 1e-4 * expected.abs().max()
    files = outputs[graphs.SAVE]["images"]
    assert len(files) == batch
    for file, picture in zip(files, pictures, strict=True):
        drawn = np.asarray(Image.open(io.BytesIO(client.download(file))), dtype=np.float32)
        # SaveImage cuts off what follows the comma of 255 x, which is up to one step of its own.
        assert np.abs(drawn - np.floor(picture * 255)).max() <= 1


def digest(client, seed):
    outputs = client.run(graphs.text_to_image(VegaLCMSampler__seed=seed, SaveImage__filename_prefix="many"))
    picture = Image.open(io.BytesIO(client.download(outputs[graphs.SAVE]["images"][0])))
    return hashlib.sha256(picture.tobytes()).hexdigest()


def many_prompts(server, client, count):
    """Runs `count` prompts over ten seeds; memory after the tenth and at the end, in MiB."""
    process = psutil.Process(server.process.pid)
    seen = {}
    for i in range(count):
        drawn = digest(client, seed=i % 10)
        assert seen.setdefault(i % 10, drawn) == drawn
        if i == 9:
            early = process.memory_info().rss / 2**20
    assert len(set(seen.values())) == 10
    return early, process.memory_info().rss / 2**20


def queue(server, client, prompt: dict, previews: str) -> str:
    """The prompt's id; previews as a person chooses them in the settings."""
    body = {"prompt": prompt, "client_id": client.id, "extra_data": {"preview_method": previews}}
    return server.post("/prompt", body).json()["prompt_id"]


def test_loading_and_sampling_show_how_far_they_are(server, client):
    server.free()
    prompt = graphs.text_to_image(VegaLCMSampler__seed=1234, VegaLCMSampler__steps=3)
    # Without previews the host leaves out what comes within a tenth of a second (comfy/utils.py, ProgressBar).
    told = [data for kind, data in client.events(queue(server, client, prompt, "auto")) if kind == "progress"]
    loading = [(data["value"], data["max"]) for data in told if data["node"] == graphs.LOADER]
    assert (loading[0], loading[-1]) == ((0, 3), (3, 3))
    assert [(data["value"], data["max"]) for data in told if data["node"] == graphs.SAMPLER] == [(1, 3), (2, 3), (3, 3)]


def test_one_seed_is_always_the_same_bytes_and_memory_stays_flat(server, client):
    early, late = many_prompts(server, client, 30)
    assert late - early < 32


def sent_pictures(server, count, **changes):
    """Draws and sends `count` pictures, each with a prompt and a seed of its own: (seconds of each, MiB after each).

    changes are inputs of the graph by turns, as in {"VegaLCMLora__strength_model": (1, 0.5)}.
    """
    process = psutil.Process(server.process.pid)
    times, memory = [], []
    with server.connect() as client:
        for i in range(count):
            graph = graphs.text_to_image(
                CLIPTextEncode__text=f"{PROMPT}, {i}",
                VegaLCMSampler__seed=i,
                VegaLCMSampler__steps=1,
                EmptyLatentImage__width=64,
                EmptyLatentImage__height=64,
                **{name: values[i % len(values)] for name, values in changes.items()},
            )
            graph[graphs.SAVE] = graphs.sending(graphs.DECODE)
            began = time.perf_counter()
            frames = [data for kind, data in client.events(client.queue(graph)) if kind == "preview"]
            times.append(time.perf_counter() - began)
            memory.append(process.memory_info().rss / 2**20)
            assert len(frames) == 1
    return times, memory


def test_pictures_sent_to_the_client_leave_nothing_behind(server):
    _, memory = sent_pictures(server, 80)
    assert memory[-1] - memory[65] < 32  # by then 64 pictures are kept, as ever after


@pytest.mark.server
@pytest.mark.soak
def test_a_thousand_prompts_keep_their_pace(tmp_path, record_property):
    """A thousand prompts take as long at the end as at the start.

    With the host's cache of one prompt: its default keeps the results of all of them, as long as there is memory.
    """
    with comfyui.serve(tmp_path, "--cache-classic") as server:
        sent_pictures(server, 100)
        times, memory = sent_pictures(server, 1000)
    # Each hundred's quickest tenth: what other programs on this machine do does not reach it.
    first, last = (statistics.quantiles(hundred, n=10)[0] for hundred in (times[:100], times[-100:]))
    record_property("first_hundred_ms", round(1000 * first, 1))
    record_property("last_hundred_ms", round(1000 * last, 1))
    record_property("memory_after_100_mib", round(memory[99]))
    record_property("memory_after_1000_mib", round(memory[-1]))
    assert last <= 1.03 * first
    assert memory[-1] - memory[99] < 32


@pytest.mark.soak
def test_200_prompts_in_a_row(server, client, record_property):
    early, late = many_prompts(server, client, 200)
    record_property("memory_after_10_prompts_mib", math.ceil(early))
    record_property("memory_after_200_prompts_mib", math.ceil(late))
    assert late - early < 32


@pytest.mark.soak
def test_a_warm_four_step_picture_takes_at_most_600_ms(client, record_property):
    """The shipped graph at its 256 x 256, from POST /prompt to the last event, with a new seed each time; of twenty."""

    def draw(seed: int) -> None:
        size = dict(EmptyLatentImage__width=256, EmptyLatentImage__height=256)
        client.run(graphs.text_to_image(VegaLCMSampler__seed=seed, **size))

    draw(0)
    times = []
    for seed in range(20):
        began = time.perf_counter()
        draw(1000 + seed)
        times.append(time.perf_counter() - began)
    record_property("median_seconds", round(statistics.median(times), 3))
    assert statistics.median(times) < 0.6


@pytest.mark.soak
def test_every_step_count_equals_the_pipeline(client, oracle):
    for steps in range(1, 9):
        for batch, width, height in ((1, 128, 128), (3, 96, 160), (1, 192, 128)):
            check_exactness(client, oracle, steps, batch, width, height, seed=steps * 1000 + batch)


@pytest.mark.soak
def test_previews_cost_less_than_5_percent(server, client, record_property):
    """Both ways by turns, as machines get slower and faster by themselves."""

    def seconds(previews: str, seed: int) -> float:
        prompt = graphs.text_to_image(VegaLCMSampler__seed=seed, VegaLCMSampler__steps=8)
        at, shown = {}, 0
        for kind, _ in client.events(queue(server, client, prompt, previews)):
            if kind == "preview":
                shown += 1
            elif kind in ("execution_start", "executed"):
                at[kind] = time.perf_counter()
        assert shown == (8 if previews == "auto" else 0)
        return at["executed"] - at["execution_start"]

    seconds("none", 0)
    pairs = [(seconds("auto", 2 * k + 1), seconds("none", 2 * k + 2)) for k in range(40)]
    cost = statistics.median(shown / plain for shown, plain in pairs) - 1
    record_property("cost of previews in percent", round(100 * cost, 1))
    assert cost < 0.05


def test_the_hosts_node_for_fused_lcms_is_known_in_the_server(client):
    """There its class is another one: the server loads that file under another name."""
    graph = graphs.text_to_image(VegaLCMSampler__steps=1)
    graph[graphs.LORA] = {
        "class_type": "ModelSamplingDiscrete",
        "inputs": {"model": [graphs.LOADER, 0], "sampling": "lcm", "zsnr": False},
    }
    assert client.run(graph)[graphs.SAVE]["images"]


@pytest.mark.server
@pytest.mark.soak
@pytest.mark.parametrize("mode", ["auto", pytest.param("bf16", marks=needs_bf16)])
def test_a_thousand_changes_of_strength_leak_nothing(tmp_path, record_property, mode):
    """With Accelerate, which makes the weights of each ready anew."""
    strengths = (1.0, 0.5, 0.75, 0.9, 0.6, 0.8)  # more than Accelerate keeps
    with comfyui.serve(tmp_path, "--cache-classic") as server:
        accelerated = dict(VegaAccelerate__mode=(mode,), VegaLCMLora__strength_model=strengths)
        _, memory = sent_pictures(server, 1000, **accelerated)
    record_property("memory_after_100_mib", round(memory[99]))
    record_property("memory_after_1000_mib", round(memory[-1]))
    assert memory[-1] - memory[99] < 64
