"""What a model says that it predicts, wherever it says so: anything but the noise would be drawn wrong without a word."""

from collections.abc import Collection, Iterator
from pathlib import Path

import yaml

from . import weights

ONLY = "only models that predict the noise (epsilon) are supported"
NOISE = ("", "epsilon", "eps")
V, ZERO_SNR = "a v-prediction model", "a zero terminal SNR model"
# Keys of files, and what the models with them are.
MARKERS = {
    "v_pred": V,
    "edm_mean": "an EDM model (Playground 2.5)",
    "edm_vpred.sigma_max": "an EDM v-prediction model (CosXL)",
    "ztsnr": ZERO_SNR,
}
# Where a safetensors file says so: github.com/Stability-AI/ModelSpec and what the host writes; then kohya's own.
METADATA = ("modelspec.prediction_type", "modelspec.predict_key")
KOHYA = {"ss_v_parameterization": V, "ss_zero_terminal_snr": ZERO_SNR}
OTHER_SCHEDULERS = ("EDM", "FlowMatch")
# The noise levels of every model of these families.
SCHEDULE = {
    "beta_start": (0.00085,),
    "beta_end": (0.012,),
    "beta_schedule": ("scaled_linear",),
    "num_train_timesteps": (1000,),
    "rescale_betas_zero_snr": (False, None),
    "trained_betas": (None,),
}


def check_scheduler(path: Path) -> None:
    """ValueError for a diffusers folder whose scheduler_config.json is one for something else than the noise."""
    if not path.is_file():
        return
    config = weights.read_json(path)
    if str(config.get("_class_name")).startswith(OTHER_SCHEDULERS):
        raise ValueError(f"{path}: {config['_class_name']} is not supported: the model does not predict the noise.")
    prediction = config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise ValueError(f"{path}: prediction_type = {prediction!r} is not supported (only 'epsilon').")
    weights.require(path, config, SCHEDULE)


def check_file(path: Path, keys: Collection[str], metadata: dict[str, str]) -> None:
    """ValueError for a single file that says so itself, or in the .yaml of its name beside it."""
    kinds = [kind for key, kind in MARKERS.items() if key in keys]
    kinds += [kind for key in METADATA if (kind := predicts(metadata.get(key, "")))]
    kinds += [kind for key, kind in KOHYA.items() if metadata.get(key, "").strip().lower() in ("true", "1")]
    if kinds:
        raise ValueError(f"{path} is {kinds[0]}; {ONLY}.")
    for beside in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        if beside.is_file() and (kind := says(beside)):
            raise ValueError(f"{path} is {kind}, as {beside.name} beside it says; {ONLY}.")


def says(path: Path) -> str | None:
    """What a model's original configuration says that it is, if not one that predicts the noise."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} can't be read ({reason}). Mend it, or move it away if it is not the model's.") from error
    for option, value in options(config):
        if option == "parameterization" and (kind := predicts(str(value))):
            return kind
        # Stability's generative-models, for SDXL.
        if option == "scaling_config" and isinstance(value, dict) and not str(value.get("target")).endswith("EpsScaling"):
            return V if "VScaling" in str(value.get("target")) else f"a model of {value.get('target')}"
    return None


def options(config) -> Iterator[tuple[str, object]]:
    """Every option of a nested configuration, each of its parts once, however often the others refer to it."""
    waiting, seen = [config], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and id(part) not in seen:
            seen.add(id(part))
            waiting += part.values()
            yield from part.items()


def predicts(value: str) -> str | None:
    """What a model is that names this as what it predicts; None for the noise."""
    value = value.strip().lower()
    if value in NOISE:
        return None
    return V if value.startswith("v") else f"a model that predicts {value!r}"
