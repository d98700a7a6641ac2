"""A fast path of the host's calc_cond_batch for one condition that covers the whole picture."""

import torch
from comfy.patcher_extension import WrapperExecutor, merge_nested_dicts

# Keys with which the host weighs, places, schedules or controls a condition (comfy/samplers.py, get_area_and_mult).
COND_KEYS = {"area", "control", "default", "gligen", "hooks", "mask", "strength", "timestep_end", "timestep_start"}
# Model options that change how the model is called.
MODEL_OPTION_KEYS = {"model_function_wrapper", "multigpu_clones"}


def calc_cond_batch(executor: WrapperExecutor, model, conds: list, x: torch.Tensor, timestep: torch.Tensor, options: dict):
    """A CALC_COND_BATCH wrapper: the x0 [B, C, h, w] of each of conds, bit for bit as the host has them.

    At each step the host makes a class, asks for the free memory and adds up weighted answers, however many there are; with
    one prompt alone that is half of what its whole sampling stack takes. Whatever is more than one goes to the host.
    """
    positive, *others = conds
    if len(positive) != 1 or others != [None] or COND_KEYS & positive[0].keys() or MODEL_OPTION_KEYS & options.keys():
        return executor(model, conds, x, timestep, options)
    (prompt,) = positive
    patcher = model.current_patcher
    patcher.prepare_state(timestep, options)
    transformer_options = merge_nested_dicts(patcher.apply_hooks(hooks=None), options["transformer_options"])
    transformer_options.update(cond_or_uncond=[0], uuids=[prompt["uuid"]], sigmas=timestep)
    inputs = {name: cond.process_cond(batch_size=len(x), area=None).cond for name, cond in prompt["model_conds"].items()}
    return [model.apply_model(x, timestep, transformer_options=transformer_options, **inputs), torch.zeros_like(x)]
