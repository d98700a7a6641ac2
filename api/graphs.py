"""The graph that a person would build for a request's pictures, in the host's API format, and the ids of its nodes."""

from dataclasses import dataclass

from ..contract.schema import DEFAULT_DENOISE, SCHEDULERS, BaseRequest, RealTimeRequest, Request
from ..contract.settings import Settings
from .subscriber import Subscriber

LOAD_NODE = "load"
LORA_NODE = "lora"
ACCELERATE_NODE = "fast"
POSITIVE_NODE = "positive"
NEGATIVE_NODE = "negative"
IMAGE_NODE = "image"
LATENT_NODE = "latent"
BATCH_NODE = "batch"
SAMPLE_NODE = "sample"
DECODE_NODE = "decode"
SEND_NODE = "send"
MODEL_NODES = (LOAD_NODE, LORA_NODE)  # where these fail there is no model


@dataclass(frozen=True)
class ImageSpec:
    """One of a request's pictures; image is a PNG file in base64, of the same size."""

    request: Request
    seed: int
    width: int
    height: int
    image: str | None = None
    subscriber: Subscriber | None = None
    request_id: str = ""


def batch_key(picture: ImageSpec) -> tuple | None:
    """Pictures with the same key can be executed in one prompt; None for one that can only be executed alone."""
    request = picture.request
    if not isinstance(request, RealTimeRequest) or picture.image is not None:
        return None
    if picture.subscriber and picture.subscriber.previews:  # the host sends a preview of a batch's first picture alone
        return None
    return request.num_inference_steps, picture.width, picture.height, request.format


def build_graph(pictures: list[ImageSpec], settings: Settings) -> dict:
    """Of one picture, or of several with the same batch key; Send Image gets them in their order."""
    first, request = pictures[0], pictures[0].request
    empty = {"width": first.width, "height": first.height, "batch_size": len(pictures)}
    decoder = "VegaTinyVAEDecode" if settings.vae == "tiny" else "VAEDecode"
    graph = {
        LOAD_NODE: node("VegaLoader", model_name=settings.model, vae=settings.vae),
        LATENT_NODE: node("EmptyLatentImage", **empty),
        DECODE_NODE: node(decoder, samples=[SAMPLE_NODE, 0], vae=[LOAD_NODE, 2]),
        SEND_NODE: node("VegaSendImage", images=[DECODE_NODE, 0], format=request.format, quality=95, metadata=False),
    }
    if first.image is not None:
        graph[IMAGE_NODE] = node("VegaReceiveImage", image=first.image)
        graph[LATENT_NODE] = node("VAEEncode", pixels=[IMAGE_NODE, 0], vae=[LOAD_NODE, 2])
    inputs = {
        "model": [ACCELERATE_NODE, 0],
        "seed": first.seed,
        "steps": request.num_inference_steps,
        "positive": [POSITIVE_NODE, 0],
        "latent_image": [LATENT_NODE, 0],
        "denoise": 1.0 if first.image is None else request.denoise or DEFAULT_DENOISE,
    }
    if len(pictures) == 1:
        graph[POSITIVE_NODE] = encode_text(request.prompt)
    else:
        names = [f"{POSITIVE_NODE}_{k}" for k in range(1, len(pictures) + 1)]  # also the batch node's inputs
        graph |= {name: encode_text(picture.request.prompt) for name, picture in zip(names, pictures, strict=True)}
        seeds = ",".join(str(picture.seed) for picture in pictures)
        prompts = {name: [name, 0] for name in names}
        graph[BATCH_NODE] = node("VegaTogether", latent_image=[LATENT_NODE, 0], seeds=seeds, **prompts)
        inputs |= {"seed": 0, "positive": [BATCH_NODE, 0], "latent_image": [BATCH_NODE, 1]}
    return graph | (base_nodes if isinstance(request, BaseRequest) else real_time_nodes)(request, settings, inputs)


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def encode_text(text: str) -> dict:
    return node("CLIPTextEncode", clip=[LOAD_NODE, 1], text=text)


def real_time_nodes(request: RealTimeRequest, settings: Settings, inputs: dict) -> dict:
    return {
        LORA_NODE: node("VegaLCMLora", model=[LOAD_NODE, 0], lora_name=settings.lora, strength_model=1.0),
        ACCELERATE_NODE: node("VegaAccelerate", model=[LORA_NODE, 0], mode="auto"),
        SAMPLE_NODE: node("VegaLCMSampler", **inputs),
    }


def base_nodes(request: BaseRequest, settings: Settings, inputs: dict) -> dict:
    sampler, scheduler = SCHEDULERS[request.scheduler]
    inputs |= {"negative": [NEGATIVE_NODE, 0], "cfg": request.guidance_scale}
    return {
        ACCELERATE_NODE: node("VegaAccelerate", model=[LOAD_NODE, 0], mode="auto"),
        NEGATIVE_NODE: encode_text(request.negative_prompt),
        SAMPLE_NODE: node("KSampler", **inputs, sampler_name=sampler, scheduler=scheduler),
    }
