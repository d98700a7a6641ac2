"""What the HTTP API draws on the running server: the documented requests, seeds, schedulers, images and formats."""

import base64
import io
import shutil

import graphs
import pytest
import requests
from api_calls import BASE, PROMPT, RT, in_base64, opened, post
from PIL import Image
from vega_pack.contract import schema
from vega_pack.vega import checkpoint

from dev import comfyui


def test_the_documented_request_of_the_hosted_api_works(server):
    """As on segmind.com/models/segmind-vega-rt-v1/api, but for the address and a size that a CPU draws soon."""
    data = {
        "prompt": "backlight, wilderness woman hunting in jungle hiding behind leaves",
        "num_inference_steps": 4,
        "seed": 758143278,
        "img_width": 128,
        "img_height": 192,
        "base64": False,
    }
    response = requests.post(f"{server.url}/v1/{RT}", json=data, headers={"x-api-key": "YOUR_API_KEY"})
    image = opened(response)
    assert response.headers["Content-Type"] == "image/jpeg"
    assert (image.format, image.size) == ("JPEG", (128, 192))
    in_json = requests.post(f"{server.url}/v1/{RT}", json={**data, "base64": True}).json()
    assert base64.b64decode(in_json["image"]) == response.content


def test_segminds_own_client_works(server):
    """segmind-py sends numbers as strings and reads a header about credits."""
    numbers = {"samples": "1", "num_inference_steps": "5", "guidance_scale": "7.5", "seed": "3", "img_width": "128"}
    response = post(server, BASE, prompt=PROMPT, negative_prompt="blurry", scheduler="UniPC", base64=False, **numbers)
    assert opened(response).size == (128, 256)
    assert response.headers["X-remaining-credits"]


@pytest.mark.parametrize("seed", [7, 2**64 - 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (0, 2**64 - 2))])
def test_the_picture_is_the_graphs(server, client, seed):
    """The same as the shipped workflow's with this prompt and seed, but that core's SaveImage cuts where we round."""
    (file,) = comfyui.output_images(client.run(graphs.text_to_image(VegaLCMSampler__seed=seed, CLIPTextEncode__text=PROMPT)))
    expected = Image.open(io.BytesIO(client.download(file))).convert("RGB")
    answer = post(server, prompt=PROMPT, seed=seed, format="png", img_width=128, img_height=128)
    image = opened(answer)
    assert answer.headers["X-Seed"] == str(seed)
    assert {a - b for a, b in zip(image.tobytes(), expected.tobytes(), strict=True)} == {0, 1}
    assert not image.info
    assert not image.getexif()


def test_a_seed_is_a_picture_and_a_random_one_is_told(server):
    first, second = (post(server, prompt=PROMPT) for _ in range(2))
    assert first.content != second.content
    seed = int(first.headers["X-Seed"])
    again = post(server, prompt=PROMPT, seed=seed)
    assert again.content == first.content
    assert float(again.headers["X-Queue-Time"]) >= 0
    assert float(first.headers["X-Model-Time"]) > 0


def test_pictures_drawn_together_have_their_own_seeds(server, client):
    """As the API queues what waits together, beside each seed drawn by its own graph."""
    seeds = [2**64 - 1, 0, 2**64 - 2]
    graph = graphs.text_to_image(CLIPTextEncode__text=PROMPT, EmptyLatentImage__batch_size=3, VegaLCMSampler__seed=0)
    inputs = {"latent_image": [graphs.EMPTY, 0], "seeds": ",".join(map(str, seeds))}
    inputs |= {f"positive_{k}": [graphs.TEXT, 0] for k in (1, 2, 3)}
    graph["batch"] = {"class_type": "VegaTogether", "inputs": inputs}
    graph[graphs.SAMPLER]["inputs"] |= {"positive": ["batch", 0], "latent_image": ["batch", 1]}

    def draw(graph: dict) -> list[bytes]:
        return [Image.open(io.BytesIO(client.download(file))).tobytes() for file in comfyui.output_images(client.run(graph))]

    alone = [draw(graphs.text_to_image(CLIPTextEncode__text=PROMPT, VegaLCMSampler__seed=seed)) for seed in seeds]
    assert draw(graph) == [picture for (picture,) in alone]


def test_samples_are_pictures_of_consecutive_seeds(server):
    request = dict(prompt=PROMPT, num_inference_steps=3, guidance_scale=2, img_width=64, img_height=64)
    several = post(server, BASE, **request, seed=2**64 - 2, samples=2).json()["image"]
    alone = [post(server, BASE, **request, seed=seed).content for seed in (2**64 - 2, 0)]
    assert [base64.b64decode(picture) for picture in several] == alone


@pytest.mark.parametrize("scheduler", schema.SCHEDULERS)
def test_each_scheduler_draws_with_the_highest_seed(server, scheduler):
    request = dict(prompt=PROMPT, scheduler=scheduler, num_inference_steps=2, img_width=64, img_height=64)
    assert post(server, BASE, **request, seed=2**64 - 2).status_code == 200


def test_less_denoise_keeps_more_of_the_image(server):
    """The less denoise, the closer the picture is to the image."""
    source = opened(post(server, prompt=PROMPT, seed=1, format="png"))
    head = "data:image/png;base64,"

    def distance(denoise):
        drawn = opened(post(server, prompt="snow", seed=5, image=head + in_base64(source), denoise=denoise, format="png"))
        pairs = zip(drawn.tobytes(), source.tobytes(), strict=True)
        return sum(abs(a - b) for a, b in pairs)

    assert distance(0.2) < 0.7 * distance(1)


def test_an_image_is_cut_to_the_size_that_is_asked_for(server):
    image = in_base64(Image.new("RGB", (300, 100), "red"), "WEBP")
    assert opened(post(server, prompt="snow", image=image, img_width=64, img_height=128)).size == (64, 128)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_formats(server, format):
    response = post(server, prompt=PROMPT, seed=2, format=format)
    assert opened(response).format == format.upper()
    assert response.headers["Content-Type"] == f"image/{format}"


@pytest.mark.parametrize(
    "prompt", [r"\(title: Infinity\)", "a sad face :" + "(" * 200, "((night:1.3), [desert]:0.8)", "(x:100)"]
)
def test_other_parentheses_are_drawn_as_the_graph_draws_them(server, client, prompt):
    (file,) = comfyui.output_images(client.run(graphs.text_to_image(VegaLCMSampler__seed=7, CLIPTextEncode__text=prompt)))
    expected = Image.open(io.BytesIO(client.download(file))).convert("RGB").tobytes()
    image = opened(post(server, prompt=prompt, seed=7, format="png", img_width=128, img_height=128))
    assert {a - b for a, b in zip(image.tobytes(), expected, strict=True)} <= {0, 1}


@pytest.mark.soak
def test_another_few_step_lora_is_drawn_by_its_recipe(tmp_path):
    """VEGA_API_LORA is enough: the recipe comes with the model."""
    with comfyui.serve(tmp_path, VEGA_API_LORA="sdxl_lightning_4step_lora.safetensors") as server:
        loras = server.base / "models" / "loras"
        loras.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkpoint.NANO_LORA, loras / "sdxl_lightning_4step_lora.safetensors")
        image = opened(post(server, prompt=PROMPT, seed=3, format="png", img_width=128, img_height=128))
        graph = graphs.text_to_image(
            VegaLCMLora__recipe="SDXL-Lightning", VegaLCMSampler__seed=3, CLIPTextEncode__text=PROMPT
        )
        with server.connect() as client:
            (file,) = comfyui.output_images(client.run(graph))
            expected = Image.open(io.BytesIO(client.download(file))).convert("RGB")
    assert {abs(a - b) for a, b in zip(image.tobytes(), expected.tobytes(), strict=True)} <= {0, 1}
