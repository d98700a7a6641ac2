"""A request as the graph that a person would build of it, in the host's API format."""

from .contract import DENOISE, SCHEDULERS, BaseRequest, RealTimeRequest, Request
from .settings import Settings

LOAD, LORA = "load", "lora"  # the nodes whose failure means that there is no model


def of(request: Request, seed: int, width: int, height: int, image: str | None, settings: Settings) -> dict:
    """One picture; image is a PNG file in base64, of that size."""
    part = real_time if isinstance(request, RealTimeRequest) else guided
    denoise = 1.0 if image is None else request.denoise or DENOISE
    graph = {
        LOAD: {"class_type": "VegaLoader", "inputs": {"model_name": settings.model, "vae": settings.vae}},
        "positive": encoded(request.prompt),
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": width, "height": height, "batch_size": 1}},
        **part(request, settings, {"seed": seed, "denoise": denoise}),
        "decode": {
            "class_type": "VegaTinyVAEDecode" if settings.vae == "tiny" else "VAEDecode",
            "inputs": {"samples": ["sample", 0], "vae": [LOAD, 2]},
        },
        "send": {
            "class_type": "VegaSendImage",
            "inputs": {"images": ["decode", 0], "format": request.format, "quality": 95, "metadata": False},
        },
    }
    if image is not None:
        graph["image"] = {"class_type": "VegaReceiveImage", "inputs": {"image": image}}
        graph["latent"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["image", 0], "vae": [LOAD, 2]}}
    return graph


def encoded(text: str) -> dict:
    return {"class_type": "CLIPTextEncode", "inputs": {"clip": [LOAD, 1], "text": text}}


def real_time(request: RealTimeRequest, settings: Settings, inputs: dict) -> dict:
    inputs |= {"steps": request.num_inference_steps, "model": ["fast", 0]}
    return {
        LORA: {
            "class_type": "VegaLCMLora",
            "inputs": {"model": [LOAD, 0], "lora_name": settings.lora, "strength_model": 1.0},
        },
        "fast": {"class_type": "VegaAccelerate", "inputs": {"model": [LORA, 0], "mode": "auto"}},
        "sample": {
            "class_type": "VegaLCMSampler",
            "inputs": {**inputs, "positive": ["positive", 0], "latent_image": ["latent", 0]},
        },
    }


def guided(request: BaseRequest, settings: Settings, inputs: dict) -> dict:
    sampler, scheduler = SCHEDULERS[request.scheduler]
    inputs |= {"steps": request.num_inference_steps, "cfg": request.guidance_scale, "model": ["fast", 0]}
    return {
        "fast": {"class_type": "VegaAccelerate", "inputs": {"model": [LOAD, 0], "mode": "auto"}},
        "negative": encoded(request.negative_prompt),
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                **inputs,
                "sampler_name": sampler,
                "scheduler": scheduler,
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
            },
        },
    }
