"""diffusers' pipeline in a process of its own: `python -m bench.diffusers_process MODE FOLDER LORA`, MODE as in MODES.

Each line on stdin is a request in JSON, {"case": [size, steps, batch], "text": ..., "seed": ..., "watch": ...}, and is
answered by one on stdout: the pictures' JPEGs (base64), the seconds that it took, and the most memory so far in bytes. With
"watch" the GPU is waited for around every call of the UNet and the decoder, and their seconds are told; else it never is.
"""

import base64
import io
import json
import sys
import time
from pathlib import Path

import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline

from .machine import DEVICE, DTYPE, GPU, Case
from .profiler.memory import peak

# torch.compile's; eager is without it.
MODES = ("eager", "default", "max-autotune", "reduce-overhead")


class Stopwatch:
    """Adds up the seconds of the calls that it is put around, while it is on."""

    def __init__(self):
        self.on, self.seconds = False, 0.0

    def wrap(self, call):
        def timed(*args, **kwargs):
            if not self.on:
                return call(*args, **kwargs)
            began = synchronized_time()
            out = call(*args, **kwargs)
            self.seconds += synchronized_time() - began
            return out

        return timed


def synchronized_time() -> float:
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def load_pipeline(mode: str, folder: Path, lora: Path) -> StableDiffusionXLPipeline:
    """The pipeline as its documentation makes it fast: LCM-LoRA fused, channels last, UNet and decoder compiled."""
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=DTYPE).to(DEVICE)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    if mode != "eager":
        # Not the size as a variable: that is slower, and a size is compiled once.
        options = dict(mode=mode, dynamic=False, fullgraph=True)
        pipe.unet = torch.compile(pipe.unet, **options)
        pipe.vae.decode = torch.compile(pipe.vae.decode, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusionXLPipeline, case: Case, text: str, seed: int) -> list[bytes]:
    pictures = pipe(
        text,
        height=case.size,
        width=case.size,
        num_inference_steps=case.steps,
        guidance_scale=0.0,
        num_images_per_prompt=case.batch,
        generator=[torch.Generator("cpu").manual_seed(seed + i) for i in range(case.batch)],
    ).images
    return [encode_jpeg(picture) for picture in pictures]


def encode_jpeg(picture) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def serve(mode: str, folder: Path, lora: Path) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # so that nothing else gets between the answers
    torch._dynamo.config.recompile_limit = 64  # sizes and batches together
    pipe, watch = load_pipeline(mode, folder, lora), Stopwatch()
    pipe.unet.forward = watch.wrap(pipe.unet.forward)
    pipe.vae.decode = watch.wrap(pipe.vae.decode)
    for line in sys.stdin:
        request = json.loads(line)
        watch.on, watch.seconds = request["watch"], 0.0
        began = time.perf_counter()
        try:
            pictures = draw(pipe, Case(*request["case"]), request["text"], request["seed"])
        except Exception as error:  # a compiler fails in many ways; the benchmark says which, and goes on
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
        else:
            seconds = time.perf_counter() - began
            encoded = [base64.b64encode(picture).decode() for picture in pictures]
            answer = {"pictures": encoded, "seconds": seconds, "model": watch.seconds, "peak": peak()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
