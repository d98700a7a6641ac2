"""The alphas that PEFT keeps in an adapter's configuration, instead of beside the matrices."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from . import weights

# What PEFT's save_pretrained writes, with its configuration in a file beside it.
PEFT_STEM, PEFT_CONFIG = "adapter_model", "adapter_config.json"


def read(path: Path, metadata: dict[str, str]) -> Callable[[str, int], float | None]:
    """(module under diffusers' name, rank) -> alpha, or None where none is stated, of a LoRA file with this metadata.

    From the metadata that diffusers writes (`lora_adapter_metadata`) or PEFT's adapter_config.json; with use_rslora alpha is
    divided by the root of the rank, not the rank (Kalajdzievski 2023, arXiv 2312.03732), for which it is made larger here.
    """
    beside = path.with_name(PEFT_CONFIG)
    try:
        if "lora_adapter_metadata" in metadata:
            stated = json.loads(metadata["lora_adapter_metadata"])
        else:
            stated = weights.read_json(beside) if path.stem == PEFT_STEM and beside.is_file() else {}
        config = {key.removeprefix("unet."): value for key, value in stated.items()}
        own = (config.get("alpha_pattern") or {}).items()
        patterns = {re.compile(rf"(.*\.)?({pattern})$"): float(alpha) for pattern, alpha in own}
        general = None if config.get("lora_alpha") is None else float(config["lora_alpha"])
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ValueError(f"{path}: its adapter configuration can't be read ({error}). Download the file again.") from error
    stabilised = bool(config.get("use_rslora"))

    def alpha_of(module: str, rank: int) -> float | None:
        alpha = next((alpha for pattern, alpha in patterns.items() if pattern.match(module)), general)
        return alpha * rank**0.5 if stabilised and alpha is not None else alpha

    return alpha_of
