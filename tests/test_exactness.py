"""The nodes against diffusers' own pipeline, in fp32, on vega-nano's real weights."""

from pathlib import Path

import folder_paths
import pytest
import torch
from diffusers import LCMScheduler, StableDiffusionXLPipeline
from vega_pack.vega import checkpoint, lcm, lora, text_encoders, tiny_decoder

pytestmark = pytest.mark.model
NANO_DIR = Path(checkpoint.NANO_DIR)
SCALE = 0.13025
PROMPT = "a red sunset over snowy mountains with a lake"


@pytest.fixture(scope="module")
def oracle():
    pipe = StableDiffusionXLPipeline.from_pretrained(NANO_DIR, torch_dtype=torch.float32)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(NANO_DIR / "lcm-lora", weight_name="pytorch_lora_weights.safetensors")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def base():
    with torch.inference_mode():
        return checkpoint.load(NANO_DIR, "tiny", folder_paths.get_folder_paths("embeddings"))


@pytest.fixture(scope="module")
def few_step(base):
    with torch.inference_mode():
        return lora.apply(base[0], Path(checkpoint.NANO_LORA), 1.0)


def draw(model, clip, prompt, seed, steps, batch, height, width, **latent):
    with torch.inference_mode():
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        latent = {"samples": torch.zeros(batch, 4, height // 8, width // 8), **latent}
        return lcm.sample(model, seed, steps, positive, latent, 1.0, disable_progress=True)["samples"]


@pytest.mark.parametrize(
    ("steps", "batch", "height", "width", "seed"),
    [(1, 1, 128, 128, 0), (2, 3, 96, 160, 5), (4, 1, 160, 96, 2**64 - 1), (4, 3, 128, 128, 42), (8, 1, 136, 120, 7)],
)
def test_latents_and_pixels_equal_the_pipelines(oracle, base, few_step, steps, batch, height, width, seed):
    generators = [torch.Generator("cpu").manual_seed((seed + i) % 2**64) for i in range(batch)]
    with torch.inference_mode():
        expected = oracle(
            PROMPT,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=0.0,
            num_images_per_prompt=batch,
            generator=generators,
            output_type="latent",
        ).images
        pictures = oracle.image_processor.postprocess(oracle.vae.decode(expected).sample, output_type="pt")
        latents = draw(few_step, base[1], PROMPT, seed, steps, batch, height, width)
        decoded = tiny_decoder.decode(base[2], latents)
    assert (latents * SCALE - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert (decoded.movedim(-1, 1) - pictures).abs().max() <= 1 / 255
    assert decoded.dtype == torch.float32
    assert decoded.shape == (batch, height, width, 3)


WORDS = ["red", "SUNSET", "snowy-mountains", "lake's", "128x128", "naïve", "🌙", "½", "“quoted”", "c:\\path", "#tag"]
WORDS += ["@you", "100%", "a/b", "…", "日本", "ok!", "why?", "(really)", "[no]", "{yes}"]
TEXTS = [
    "",
    " ",
    "!",
    "!!!",
    "🌅🌅",
    "\n",
    "a" * 200,
    "tab\tand\nline",
    "(escaped) parentheses",
    "50% (of) it",
    "((nested))",
]
TEXTS += [" ".join(WORDS[i % len(WORDS)] for i in range(start, start + 1 + start % 17)) for start in range(39)]


def test_token_ids_of_50_prompts_are_the_pipelines(oracle, base):
    assert len(TEXTS) == 50
    for text in TEXTS:
        escaped = text.replace("(", "\\(").replace(")", "\\)")  # the host reads bare parentheses as emphasis
        tokens = base[1].tokenize(escaped)
        for side, tokenizer in (("l", oracle.tokenizer), ("g", oracle.tokenizer_2)):
            ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
            assert [t for t, _ in tokens[side][0]] == ids, text


@pytest.mark.parametrize("text", [PROMPT, "", "night 🌙", "word " * 75, "a long prompt " * 60])
def test_text_encodings_are_the_pipelines(oracle, base, text):
    """Prompts beyond 75 tokens are chunked as the host does; their first chunk is what diffusers cuts them to."""
    with torch.inference_mode():
        context, pooled = base[1].encode_from_tokens(base[1].tokenize(text), return_pooled=True)
        expected, _, expected_pooled, _ = oracle.encode_prompt(text, do_classifier_free_guidance=False)
    assert (context[:, :77] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (pooled - expected_pooled).abs().max() <= 1e-5 * expected_pooled.abs().max()


def test_text_encoders_in_half_precision_are_the_pipelines():
    """As on a GPU, where the host would compute in fp32; fp16 arithmetic is the same on a CPU."""
    with torch.inference_mode():
        clip = checkpoint.load(NANO_DIR, "tiny", [])[1]
        clip.cond_stage_model.half()
        text_encoders.set_compute_dtype(clip, torch.float16)
        pipe = StableDiffusionXLPipeline.from_pretrained(NANO_DIR, unet=None, vae=None, torch_dtype=torch.float16)
        seen = set()
        layer = clip.cond_stage_model.clip_g.transformer.text_model.encoder.layers[-1].mlp.fc2
        layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
        context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
        expected, _, expected_pooled, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    assert seen == {torch.float16}
    assert context.dtype == pooled.dtype == torch.float32  # as the host's own give them
    assert (context - expected).abs().max() <= 5e-3 * expected.abs().max()
    assert (pooled - expected_pooled).abs().max() <= 5e-3 * expected_pooled.abs().max()
