"""Pictures that were asked for as the graph that a person would build, in the host's API format."""

from dataclasses import dataclass

from .contract import DENOISE, SCHEDULERS, BaseRequest, RealTimeRequest, Request
from .follower import Follower
from .host_client import SAMPLE
from .settings import Settings

LOAD, LORA = "load", "lora"  # the nodes whose failure means that there is no model


@dataclass(frozen=True)
class Picture:
    """One of a request's pictures; image is a PNG file in base64, of the same size."""

    request: Request
    seed: int
    width: int
    height: int
    image: str | None = None
    follower: Follower | None = None
    request_id: str = ""


def kind(picture: Picture) -> tuple | None:
    """Pictures of one kind can be drawn in one prompt; None can not."""
    request = picture.request
    if not isinstance(request, RealTimeRequest) or picture.image is not None:
        return None
    if picture.follower and picture.follower.previews:  # a batch's preview is its first picture, whoever asked
        return None
    return request.num_inference_steps, picture.width, picture.height, request.format


def graph_of(pictures: list[Picture], settings: Settings) -> dict:
    """One picture, or several of one kind; Send Image gets them in their order."""
    first, request = pictures[0], pictures[0].request
    empty = {"width": first.width, "height": first.height, "batch_size": len(pictures)}
    graph = {
        LOAD: node("VegaLoader", model_name=settings.model, vae=settings.vae),
        "latent": node("EmptyLatentImage", **empty),
        "decode": node("VegaTinyVAEDecode" if settings.vae == "tiny" else "VAEDecode", samples=[SAMPLE, 0], vae=[LOAD, 2]),
        "send": node("VegaSendImage", images=["decode", 0], format=request.format, quality=95, metadata=False),
    }
    if first.image is not None:
        graph["image"] = node("VegaReceiveImage", image=first.image)
        graph["latent"] = node("VAEEncode", pixels=["image", 0], vae=[LOAD, 2])
    inputs = {
        "model": ["fast", 0],
        "seed": first.seed,
        "steps": request.num_inference_steps,
        "positive": ["positive", 0],
        "latent_image": ["latent", 0],
        "denoise": 1.0 if first.image is None else request.denoise or DENOISE,
    }
    if len(pictures) == 1:
        graph["positive"] = encoded(request.prompt)
    else:
        names = [f"positive_{k}" for k in range(1, len(pictures) + 1)]
        graph |= {name: encoded(picture.request.prompt) for name, picture in zip(names, pictures, strict=True)}
        seeds = ",".join(str(picture.seed) for picture in pictures)
        graph["batch"] = node("VegaTogether", latent_image=["latent", 0], seeds=seeds, **{name: [name, 0] for name in names})
        inputs |= {"seed": 0, "positive": ["batch", 0], "latent_image": ["batch", 1]}
    return graph | (guided if isinstance(request, BaseRequest) else real_time)(request, settings, inputs)


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def encoded(text: str) -> dict:
    return node("CLIPTextEncode", clip=[LOAD, 1], text=text)


def real_time(request: RealTimeRequest, settings: Settings, inputs: dict) -> dict:
    return {
        LORA: node("VegaLCMLora", model=[LOAD, 0], lora_name=settings.lora, strength_model=1.0),
        "fast": node("VegaAccelerate", model=[LORA, 0], mode="auto"),
        SAMPLE: node("VegaLCMSampler", **inputs),
    }


def guided(request: BaseRequest, settings: Settings, inputs: dict) -> dict:
    sampler, scheduler = SCHEDULERS[request.scheduler]
    inputs |= {"negative": ["negative", 0], "cfg": request.guidance_scale}
    return {
        "fast": node("VegaAccelerate", model=[LOAD, 0], mode="auto"),
        "negative": encoded(request.negative_prompt),
        SAMPLE: node("KSampler", **inputs, sampler_name=sampler, scheduler=scheduler),
    }
