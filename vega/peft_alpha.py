"""The alphas that a LoRA's file states elsewhere than beside its matrices."""

import json
import logging
import re
from pathlib import Path

from . import lora_keys, weights

# What PEFT's save_pretrained writes, with its configuration in a file beside it.
PEFT_STEM, PEFT_CONFIG = "adapter_model", "adapter_config.json"
LORA_SUFFIXES = (*weights.SAFETENSORS, ".bin", ".ckpt", ".pt", ".pth")
# Where a safetensors file's metadata holds such a configuration: diffusers (save_lora_weights), and tools that copy PEFT's.
CONFIG_METADATA_KEYS = re.compile(r"(.*[._])?lora_adapter_metadata|(adapter|peft|lora)_config")
# Where it holds single values as strings: kohya's scripts, then what others call the same.
ALPHA_METADATA_KEYS = ("ss_network_alpha", "network_alpha", "lora_alpha", "alpha")
RANK_METADATA_KEYS = ("ss_network_dim", "network_dim", "lora_rank", "lora_r", "rank", "r")
# What kohya's conv_dim and conv_alpha are for.
CONVOLUTION_MODULES = r".*conv[12]|.*samplers[._]0[._]conv"
# Starts of adapters that change the base model too; their files fit no other (PEFT's LoraConfig.init_lora_weights).
BASE_CHANGING_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")


def read(path: Path, metadata: dict[str, str], ranks: dict[str, int], part: str = "unet.") -> dict[str, float]:
    """The alpha of each of the modules (diffusers' name -> rank) of a LoRA file with this metadata, where one is stated.

    part begins the options that diffusers' metadata states for the model that the modules are of.

    From the metadata, or PEFT's adapter_config.json beside the file. ValueError where it can't be read, contradicts the
    file, or may be another file's.
    """
    if not ranks:
        return {}
    where = "its metadata"
    try:
        config = own = config_in_metadata(metadata, part)
        stated = alphas_from_config(config, ranks) | per_module_alphas(metadata, ranks)
        if not stated:
            where, config = f"{PEFT_CONFIG} beside it", {} if belongs_to_other_file(path) else config_beside(path)
            stated = alphas_from_config(config, ranks)
        differs = find_contradiction(config, ranks)
    except (TypeError, AttributeError, ValueError, OverflowError, RecursionError, re.error) as error:
        raise ValueError(f"{path}: its adapter configuration can't be read ({error}). Download the file again.") from error
    if where != "its metadata" and path.stem != PEFT_STEM:
        files = (file for file in sorted(path.parent.iterdir()) if file.suffix.lower() in LORA_SUFFIXES)
        others = [file for file in files if file != path]
        if differs and others:
            logging.info("%s is another file's than %s: it states %s", PEFT_CONFIG, path.name, differs)
            return {}
        matters = any(alpha != ranks[module] for module, alpha in stated.items())
        if matters and (other := next((other for other in others if may_describe(config, other)), None)):
            raise ValueError(
                f"{path}: {PEFT_CONFIG} beside it states an alpha, and may be this file's or {other.name}'s. "
                "Put the file and its configuration into a folder of their own."
            )
    if differs:
        raise ValueError(
            f"{path}: {where} does not describe it: it states {differs}. Put the file's own there, or move it away."
        )
    check_variant(path, own | config)
    return stated


def per_module_alphas(metadata: dict[str, str], ranks: dict[str, int]) -> dict[str, float]:
    """The alphas that the metadata states module by module, as diffusers passes them on (network_alphas)."""
    stated = json.loads(metadata.get("network_alphas") or "{}").items()
    own = {key.removesuffix(".alpha").removeprefix("unet.").replace(".", "_"): float(alpha) for key, alpha in stated}
    return {module: own[flat] for module in ranks if (flat := module.replace(".", "_")) in own}


def config_in_metadata(metadata: dict[str, str], part: str = "unet.") -> dict:
    """The configuration that a safetensors file's metadata states, under PEFT's names; {} if it states none."""
    config = {}
    for key, value in metadata.items():
        if CONFIG_METADATA_KEYS.fullmatch(key):
            config |= {option.removeprefix(part): entry for option, entry in json.loads(value).items()}
    for name, others in (("lora_alpha", ALPHA_METADATA_KEYS), ("r", RANK_METADATA_KEYS)):
        other = next((other for other in others if other in config), None)
        if other is not None:
            config.setdefault(name, config[other])
    metadata = {key.lower().replace("-", "_"): value for key, value in metadata.items()}
    values = {key: metadata[key] for key in ALPHA_METADATA_KEYS if metadata.get(key, "None") not in ("", "None")}
    if metadata.get("ss_network_alpha") and not float(values.get("ss_network_alpha", 1)):
        del values["ss_network_alpha"]  # kohya's scripts mean the rank by 0
    if values:
        stated = {float(value) for value in values.values()}
        if config.get("lora_alpha") is not None:
            stated.add(float(config["lora_alpha"]))
        if len(stated) > 1:
            raise ValueError(f"it states {' and '.join(f'{alpha:g}' for alpha in sorted(stated))} as alpha")
        config["lora_alpha"] = stated.pop()
        rank = next((metadata[key] for key in RANK_METADATA_KEYS if metadata.get(key, "None") not in ("", "None")), None)
        if rank is not None:
            config.setdefault("r", int(float(rank)))
        config.setdefault("use_rslora", metadata.get("use_rslora", "").lower() in ("true", "1"))
        extra = json.loads(metadata.get("ss_network_args") or "{}")
        if extra.get("conv_dim"):
            config["rank_pattern"] = {CONVOLUTION_MODULES: int(extra["conv_dim"])}
            config["alpha_pattern"] = {CONVOLUTION_MODULES: float(extra.get("conv_alpha") or 1)}
    return config


def belongs_to_other_file(path: Path) -> bool:
    """Whether PEFT's own file lies beside, whose configuration adapter_config.json then is."""
    return path.stem != PEFT_STEM and any(path.with_name(PEFT_STEM + ending).is_file() for ending in LORA_SUFFIXES)


def config_beside(path: Path) -> dict:
    """PEFT's configuration in the file's folder; {} if there is none, or none that states an alpha."""
    file = path.with_name(PEFT_CONFIG)
    config = weights.read_json(file) if file.is_file() else {}
    return config if "lora_alpha" in config or "alpha_pattern" in config else {}


def alphas_from_config(config: dict, ranks: dict[str, int]) -> dict[str, float]:
    """The alpha that a configuration states for each module, if it does.

    With use_rslora alpha is divided by the root of the rank, not the rank (Kalajdzievski 2023, arXiv 2312.03732), for which
    it is made larger here.
    """
    patterns = compile_patterns(config, "alpha_pattern", float)
    general = None if config.get("lora_alpha") is None else float(config["lora_alpha"])
    stated = {}
    for module, rank in ranks.items():
        alpha = first_match(patterns, module, general)
        if alpha is not None:
            stated[module] = alpha * rank**0.5 if config.get("use_rslora") else alpha
    return stated


def find_contradiction(config: dict, ranks: dict[str, int]) -> str | None:
    """What a configuration states about an adapter that is not so of one with these modules; None if nothing is."""
    patterns, general = compile_patterns(config, "rank_pattern", int), config.get("r")
    for module, rank in ranks.items():
        stated = first_match(patterns, module, general)
        if stated is not None and stated != rank:
            return f"rank {stated}, and {module} has rank {rank}"
    targets = config.get("target_modules")
    if targets and isinstance(targets, list):
        ends = tuple(f"_{weights.WRAPPER_PATTERN.sub('', str(target)).replace('.', '_')}" for target in targets)
        for module in ranks:
            if not f"_{module.replace('.', '_')}".endswith(ends):
                return f"target_modules without {module}"
    return None


def may_describe(config: dict, other: Path) -> bool:
    """Whether a configuration could be this LoRA file's, which then has no alphas itself."""
    try:
        tensors, metadata = weights.read(other)
        without = {}
        lora_keys.group_whole_file(other, tensors, lambda ranks: without.update(ranks) or {})
        return bool(without) and not config_in_metadata(metadata) and not find_contradiction(config, without)
    except (ValueError, TypeError, AttributeError):
        return False


def check_variant(path: Path, config: dict) -> None:
    """ValueError where the matrices are no plain LoRA's, although they look like one's."""
    kind = config.get("peft_type") or "LORA"
    start = str(config.get("init_lora_weights"))
    if kind != "LORA" or config.get("use_dora"):
        raise ValueError(
            f"{path} is of the kind {'DoRA' if config.get('use_dora') else kind}, not a LoRA of two matrices. Try "
            "ComfyUI's own Load LoRA."
        )
    if start.lower().startswith(BASE_CHANGING_INITS):
        raise ValueError(
            f"{path} was trained with init_lora_weights = {start!r}, which changed its base model too, so it fits no other. "
            "Save it with PEFT's path_initial_model_for_weight_conversion."
        )


def compile_patterns(config: dict, option: str, kind: type) -> dict[re.Pattern, float | int]:
    """A configuration's values for modules by PEFT's patterns of their names."""
    stated = (config.get(option) or {}).items()
    # Modules of kohya's keys have underscores for the dots.
    patterns = {weights.WRAPPER_PATTERN.sub("", pattern).replace(r"\.", "[._]"): kind(value) for pattern, value in stated}
    return {re.compile(rf"(.*[._])?({pattern})$"): value for pattern, value in patterns.items()}


def first_match(patterns: dict[re.Pattern, float | int], module: str, general):
    return next((value for pattern, value in patterns.items() if pattern.match(module)), general)
