"""The requests: the parameters of Segmind's hosted API (segmind.com/models/segmind-vega-rt-v1/api), and this API's own."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema, model_validator

MAX_SEED = 2**64 - 1
MAX_BASE_SEED = MAX_SEED - 1  # the host's samplers that add noise add 1 to it (comfy/samplers.py, KSAMPLER.sample)
SIZES = range(64, 2048 + 1, 8)  # pixels
# Segmind's names of schedulers, and those of the host's samplers -> the host's sampler and scheduler.
SCHEDULERS = {
    "UniPC": ("uni_pc", "normal"),
    "Euler": ("euler", "normal"),
    "Euler a": ("euler_ancestral", "normal"),
    "Heun": ("heun", "normal"),
    "LMS": ("lms", "normal"),
    "DDIM": ("ddim", "ddim_uniform"),
    "DDPM": ("ddpm", "normal"),
    "DPM2 Karras": ("dpm_2", "karras"),
    "DPM2 a Karras": ("dpm_2_ancestral", "karras"),
    "DPM Multi": ("dpmpp_2m", "karras"),
    "dpmpp_2m": ("dpmpp_2m", "karras"),
    "dpmpp_sde": ("dpmpp_sde", "karras"),
    "dpmpp_2m_sde": ("dpmpp_2m_sde", "karras"),
}


def parse_number(value: Any) -> Any:
    """Segmind's own Python client (segmind-py) sends numbers as strings.

    pydantic's lax mode parses strings, too, but also takes true for 1, and " 4 ", "+4" and "1_000" for numbers.
    """
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", value, re.ASCII):
        return float(value) if "." in value else int(value)
    return value


def parse_integer(value: Any) -> Any:
    """4.0 is an integer in JSON Schema; beyond 2**53 a float may be another one than what was written."""
    value = parse_number(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def integer_type(strings: dict | None = None, **bounds: int):
    """The type of an integer within bounds (ge, le and multiple_of), or of the same as a string.

    strings describes the strings in JSON Schema; by default it lists them.
    """
    if strings is None:
        strings = {"enum": [str(k) for k in range(bounds["ge"], bounds["le"] + 1, bounds.get("multiple_of", 1))]}
    names = {"ge": "minimum", "le": "maximum", "multiple_of": "multipleOf"}
    numbers = {"type": "integer", **{names[bound]: value for bound, value in bounds.items()}}
    schema = {"anyOf": [numbers, {"type": "string", **strings}]}
    return Annotated[int, Strict(), Field(**bounds), BeforeValidator(parse_integer), WithJsonSchema(schema)]


def seed_type(max_seed: int):
    """The type of a seed from -1 to max_seed, which has 20 digits.

    Its strings have fewer digits, or a lower digit after the same ones as max_seed has, or are max_seed itself.
    """
    digits = str(max_seed)
    lower = [f"{digits[:k]}[0-{int(d) - 1}][0-9]{{{len(digits) - k - 1}}}" for k, d in enumerate(digits) if d != "0"]
    pattern = f"^(-1|[0-9]{{1,{len(digits) - 1}}}|{'|'.join(lower)}|{digits})$"
    return integer_type({"pattern": pattern}, ge=-1, le=max_seed)


Seed = seed_type(MAX_SEED)
BaseSeed = seed_type(MAX_BASE_SEED)
Size = integer_type(ge=SIZES[0], le=SIZES[-1], multiple_of=SIZES.step)
RealTimeSteps = integer_type(ge=1, le=10)
Steps = integer_type(ge=1, le=100)
Samples = integer_type(ge=1, le=4)
Guidance = Annotated[
    float,
    Strict(),
    Field(ge=1, le=25, allow_inf_nan=False),
    BeforeValidator(parse_number),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 1, "maximum": 25},
                {"type": "string", "pattern": "^([1-9]|1[0-9]|2[0-4])(\\.[0-9]{1,20})?$|^25$"},
            ]
        }
    ),
]
Text = Annotated[str, Strict(), Field(max_length=10_000)]


DEFAULT_DENOISE = 0.6
MAX_EMPHASIS = 100  # far above what is of use, and far below what overflows fp16
MAX_NESTING = 50  # parentheses; the host's parser calls itself once for each
EMPHASIS_HELP = (
    f"(words:1.2) are emphasised, by -{MAX_EMPHASIS} to {MAX_EMPHASIS} and at most {MAX_NESTING} parentheses deep; "
    "\\( and \\) are parentheses that are only text. embedding:name is for names that the operator allows."
)
SEED_HELP = "The same seed draws the same picture; -1 is a random one, told in X-Seed."


class Request(BaseModel):
    """The fields of both models."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"dependentRequired": {"denoise": ["image"]}}
    )

    max_seed: ClassVar[int] = MAX_SEED  # after it comes 0

    prompt: Text = Field(min_length=1, description=f"What to draw. {EMPHASIS_HELP}")
    seed: Seed = Field(-1, description=SEED_HELP)
    img_width: Size = Field(None, description="Pixels; by default the model's own size.")
    img_height: Size = Field(None, description="Pixels; by default the model's own size.")
    base64: Annotated[bool, Strict()] = Field(False, description="Answer JSON with the picture in base64.")
    format: Literal["jpeg", "png", "webp"] = Field("jpeg", description="Of the picture's file.")
    image: Annotated[str, Strict()] = Field(
        None,
        description="Image to image: a PNG, JPEG or WebP file in base64, scaled and cut to the size that is drawn; "
        "where it is transparent it is white.",
        json_schema_extra={"format": "picture-in-base64"},
    )
    # At 0.2 an LCM has 10 steps, the most that can be asked for.
    denoise: Annotated[float, Strict()] = Field(
        None,
        ge=0.2,
        le=1,
        allow_inf_nan=False,
        description=f"How much of image is drawn anew; by default {DEFAULT_DENOISE}.",
    )

    @model_validator(mode="after")
    def denoise_needs_an_image(self):
        if self.denoise is not None and self.image is None:
            raise ValueError("denoise is only for a request with an image")
        return self


class RealTimeRequest(Request):
    """POST /v1/segmind-vega-rt-v1: a few steps with the LCM-LoRA, without guidance."""

    num_inference_steps: RealTimeSteps = Field(4, description="UNet calls; 2 to 8 is the useful range.")


class BaseRequest(Request):
    """POST /v1/segmind-vega: the base model with classifier-free guidance."""

    max_seed: ClassVar[int] = MAX_BASE_SEED

    seed: BaseSeed = Field(-1, description=SEED_HELP)
    negative_prompt: Text = Field("", description=f"What not to draw. {EMPHASIS_HELP}")
    guidance_scale: Guidance = Field(9.0, description="Scale of the classifier-free guidance; 1 is none.")
    scheduler: Literal[tuple(SCHEDULERS)] = Field("UniPC", description="The sampler.")
    num_inference_steps: Steps = Field(25, description="Steps of the sampler.")
    samples: Samples = Field(1, description="Pictures, drawn with seed, seed + 1, ...; several are answered as JSON.")
