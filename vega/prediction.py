"""What a model says that it predicts, wherever it says so: anything but the noise would be drawn wrong without a word."""

from collections.abc import Collection, Iterator
from pathlib import Path

import yaml

from . import weights

EPSILON_ONLY_MESSAGE = (
    "only models that predict the noise (epsilon) are supported: load it with ComfyUI's own Load Checkpoint"
)
EPSILON_NAMES = ("", "epsilon", "eps", "noise", "none", "null", "epsilon_prediction")
V_PREDICTION, ZERO_SNR = "a v-prediction model", "a zero terminal SNR model"
# Keys of files, and what the models with them are.
MARKER_KEYS = {
    "v_pred": V_PREDICTION,
    "edm_mean": "an EDM model (Playground 2.5)",
    "edm_vpred.sigma_max": "an EDM v-prediction model (CosXL)",
    "ztsnr": ZERO_SNR,
}
# Options of metadata and of configurations that name what is predicted; modelspec. and ss_ may stand before them.
PREDICTION_TYPE_KEYS = ("prediction_type", "predict_key", "parameterization")
# Options that are true of what they are called.
FLAG_KEYS = {
    "v_parameterization": V_PREDICTION,
    "v_prediction": V_PREDICTION,
    "zero_terminal_snr": ZERO_SNR,
    "rescale_betas_zero_snr": ZERO_SNR,
}
# The noise levels of every model of these families, as the original configurations name them.
BETA_RANGE = {"linear_start": 0.00085, "linear_end": 0.012}
UNSUPPORTED_SCHEDULERS = ("EDM", "FlowMatch")
# The noise levels of every model of these families.
EPSILON_SCHEDULER = {
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
    if str(config.get("_class_name")).startswith(UNSUPPORTED_SCHEDULERS):
        raise weights.unsupported_config(
            path, f"{config['_class_name']} is not supported: the model does not predict the noise"
        )
    prediction = config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise weights.unsupported_config(path, f"prediction_type = {prediction!r} is not supported (only 'epsilon')")
    weights.require(path, config, EPSILON_SCHEDULER)


def check_file(path: Path, keys: Collection[str], metadata: dict[str, str]) -> None:
    """ValueError for a single file that says so itself, or in the .yaml of its name beside it."""
    kinds = [kind for key, kind in MARKER_KEYS.items() if key in keys]
    kinds += [kind for key, value in metadata.items() if (kind := unsupported_by_option(key, value))]
    if kinds:
        raise ValueError(f"{path} is {kinds[0]}; {EPSILON_ONLY_MESSAGE}.")
    for beside in (path.with_suffix(".yaml"), path.with_suffix(".yml")):
        if beside.is_file() and (kind := unsupported_in_yaml(beside)):
            raise ValueError(f"{path} is {kind}, as {beside.name} beside it says; {EPSILON_ONLY_MESSAGE}.")


def unsupported_by_option(option: str, value: object) -> str | None:
    """What a model is of which an option has this value, if not one that predicts the noise."""
    name = option.lower().removeprefix("modelspec.").removeprefix("ss_")
    if name in PREDICTION_TYPE_KEYS:
        return unsupported_prediction_type(str(value))
    return FLAG_KEYS.get(name) if str(value).strip().lower() in ("true", "1") else None


def unsupported_in_yaml(path: Path) -> str | None:
    """What a model's original configuration says that it is, if not one that predicts the noise."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}). Mend it, or move it away.") from error
    try:
        parts = list(yaml.safe_load_all(content))  # yaml itself tells UTF-8 from UTF-16
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        text = content.replace(b"\0", b"").lower()
        if not any(option.encode() in text for option in (*PREDICTION_TYPE_KEYS, *FLAG_KEYS, "scaling_config", "model:")):
            return None  # notes of somebody's, and no configuration
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} can't be read ({reason}). Mend it, or move it away if it is not the model's.") from error
    for option, value in walk_options(parts):
        if kind := unsupported_by_option(str(option), value):
            return kind
        # Stability's generative-models, for SDXL.
        if option == "scaling_config" and isinstance(value, dict) and not str(value.get("target")).endswith("EpsScaling"):
            return V_PREDICTION if "VScaling" in str(value.get("target")) else f"a model of {value.get('target')}"
        if option in BETA_RANGE and value != BETA_RANGE[option]:
            return f"a model of other noise levels ({option} {value})"
    return None


def walk_options(config) -> Iterator[tuple[str, object]]:
    """Every option of a nested configuration, each of its parts once, however often the others refer to it."""
    waiting, seen = [config], set()
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict | list) or id(part) in seen:
            continue
        seen.add(id(part))
        waiting += part.values() if isinstance(part, dict) else part
        yield from part.items() if isinstance(part, dict) else ()


def unsupported_prediction_type(value: str) -> str | None:
    """What a model is that names this as what it predicts; None for the noise."""
    value = value.strip().lower()
    if value in EPSILON_NAMES:
        return None
    return V_PREDICTION if value.startswith("v") else f"a model that predicts {value!r}"
