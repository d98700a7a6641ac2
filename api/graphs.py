"""The graph that a person would build for a request's pictures, in the host's API format, and the ids of its nodes."""

from dataclasses import dataclass

from ..contract.schema import DEFAULT_DENOISE, SCHEDULERS, BaseRequest, RealTimeRequest, Request
from ..contract.settings import Settings
from .subscriber import Subscriber

LOAD = "load"
LORA = "lora"
ACCELERATE = "fast"
POSITIVE = "positive"
NEGATIVE = "negative"
IMAGE = "image"
LATENT = "latent"
BATCH = "batch"
SAMPLE = "sample"
DECODE = "decode"
SEND = "send"
MODEL_NODES = (LOAD, LORA)  # where these fail there is no model


@dataclass(frozen=True)
class Picture:
    """One of a request's pictures; image is a PNG file in base64, of the same size."""

    request: Request
    seed: int
    width: int
    height: int
    image: str | None = None
    subscriber: Subscriber | None = None
    request_id: str = ""


def batch_key(picture: Picture) -> tuple | None:
    """Pictures with the same key can be executed in one prompt; None for one that can only be executed alone."""
    request = picture.request
    if not isinstance(request, RealTimeRequest) or picture.image is not None:
        return None
    if picture.subscriber and picture.subscriber.previews:  # the host sends a preview of a batch's first picture alone
        return None
    return request.num_inference_steps, picture.width, picture.height, request.format


def build_graph(pictures: list[Picture], settings: Settings) -> dict:
    """Of one picture, or of several with the same batch key; Send Image gets them in their order."""
    first, request = pictures[0], pictures[0].request
    empty = {"width": first.width, "height": first.height, "batch_size": len(pictures)}
    decoder = "VegaTinyVAEDecode" if settings.vae == "tiny" else "VAEDecode"
    graph = {
        LOAD: node("VegaLoader", model_name=settings.model, vae=settings.vae),
        LATENT: node("EmptyLatentImage", **empty),
        DECODE: node(decoder, samples=[SAMPLE, 0], vae=[LOAD, 2]),
        SEND: node("VegaSendImage", images=[DECODE, 0], format=request.format, quality=95, metadata=False),
    }
    if first.image is not None:
        graph[IMAGE] = node("VegaReceiveImage", image=first.image)
        graph[LATENT] = node("VAEEncode", pixels=[IMAGE, 0], vae=[LOAD, 2])
    inputs = {
        "model": [ACCELERATE, 0],
        "seed": first.seed,
        "steps": request.num_inference_steps,
        "positive": [POSITIVE, 0],
        "latent_image": [LATENT, 0],
        "denoise": 1.0 if first.image is None else request.denoise or DEFAULT_DENOISE,
    }
    if len(pictures) == 1:
        graph[POSITIVE] = encode_text(request.prompt)
    else:
        names = [f"{POSITIVE}_{k}" for k in range(1, len(pictures) + 1)]  # also the batch node's inputs
        graph |= {name: encode_text(picture.request.prompt) for name, picture in zip(names, pictures, strict=True)}
        seeds = ",".join(str(picture.seed) for picture in pictures)
        prompts = {name: [name, 0] for name in names}
        graph[BATCH] = node("VegaTogether", latent_image=[LATENT, 0], seeds=seeds, **prompts)
        inputs |= {"seed": 0, "positive": [BATCH, 0], "latent_image": [BATCH, 1]}
    return graph | (base_nodes if isinstance(request, BaseRequest) else real_time_nodes)(request, settings, inputs)


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def encode_text(text: str) -> dict:
    return node("CLIPTextEncode", clip=[LOAD, 1], text=text)


def real_time_nodes(request: RealTimeRequest, settings: Settings, inputs: dict) -> dict:
    return {
        LORA: node("VegaLCMLora", model=[LOAD, 0], lora_name=settings.lora, strength_model=1.0),
        ACCELERATE: node("VegaAccelerate", model=[LORA, 0], mode="auto"),
        SAMPLE: node("VegaLCMSampler", **inputs),
    }


def base_nodes(request: BaseRequest, settings: Settings, inputs: dict) -> dict:
    sampler, scheduler = SCHEDULERS[request.scheduler]
    inputs |= {"negative": [NEGATIVE, 0], "cfg": request.guidance_scale}
    return {
        ACCELERATE: node("VegaAccelerate", model=[LOAD, 0], mode="auto"),
        NEGATIVE: encode_text(request.negative_prompt),
        SAMPLE: node("KSampler", **inputs, sampler_name=sampler, scheduler=scheduler),
    }
