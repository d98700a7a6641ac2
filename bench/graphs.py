"""The graphs that are measured, in API format: this pack's, and ComfyUI's own at its best."""

from .machine import Case
from .weights import Models


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def empty_latent(case: Case) -> dict:
    return node("EmptyLatentImage", width=case.size, height=case.size, batch_size=case.batch)


def pack_graph(models: Models, case: Case, text: str, seed: int, mode: str | None) -> dict:
    """mode is Accelerate's; None leaves the node out."""
    graph = {
        "load": node("VegaLoader", model_name=models.vega, vae="tiny"),
        "lora": node("VegaLCMLora", model=["load", 0], lora_name=models.lora, strength_model=1.0),
        "text": node("CLIPTextEncode", clip=["load", 1], text=text),
        "empty": empty_latent(case),
        "sampler": node(
            "VegaLCMSampler",
            model=["accelerate" if mode else "lora", 0],
            seed=seed,
            steps=case.steps,
            positive=["text", 0],
            latent_image=["empty", 0],
            denoise=1.0,
        ),
        "decode": node("VegaTinyVAEDecode", samples=["sampler", 0], vae=["load", 2]),
        "output": node("VegaSendImage", images=["decode", 0], format="jpeg", quality=95),
    }
    if mode:
        graph["accelerate"] = node("VegaAccelerate", model=["lora", 0], mode=mode)
    return graph


def core_graph(models: Models, case: Case, text: str, seed: int, output: str, compiled: bool = False) -> dict:
    """Cfg 1 leaves the negative prompt out, so the positive one stands in its place and nothing more is encoded."""
    if models.checkpoint:
        load = node("CheckpointLoaderSimple", ckpt_name=models.checkpoint)
    else:  # core's loaders know no model this small
        load = node("VegaLoader", model_name=models.second, vae="tiny")
    outputs = {
        "SaveImage": node("SaveImage", images=["decode", 0], filename_prefix="bench"),
        "SaveImageWebsocket": node("SaveImageWebsocket", images=["decode", 0]),
    }
    graph = {
        "load": load,
        "lora": node("LoraLoaderModelOnly", model=["load", 0], lora_name=models.lora, strength_model=1.0),
        "lcm": node("ModelSamplingDiscrete", model=["lora", 0], sampling="lcm", zsnr=False),
        "text": node("CLIPTextEncode", clip=["load", 1], text=text),
        "empty": empty_latent(case),
        "sampler": node(
            "KSampler",
            model=["compile" if compiled else "lcm", 0],
            seed=seed,
            steps=case.steps,
            cfg=1.0,
            sampler_name="lcm",
            scheduler="simple",
            positive=["text", 0],
            negative=["text", 0],
            latent_image=["empty", 0],
            denoise=1.0,
        ),
        "vae": node("VAELoader", vae_name="taesdxl"),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "output": outputs[output],
    }
    if compiled:
        graph["compile"] = node("TorchCompileModel", model=["lcm", 0], backend="inductor")
    return graph
