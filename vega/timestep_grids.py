"""The timesteps of the UNet's calls, by the grid that an adapter was distilled on; img2img keeps the last ones of a grid."""

NUM_TRAIN_TIMESTEPS = 1000  # of every model of these families
ORIGINAL_STEPS = 50  # the grid that LCM-LoRAs are distilled on: every 20th timestep
TIMESTEP_STRIDE = NUM_TRAIN_TIMESTEPS // ORIGINAL_STEPS
MAX_STEPS = 50


def lcm(steps: int, denoise: float) -> list[int]:
    """The descending timesteps of diffusers' LCMScheduler.set_timesteps(steps, strength=denoise), which are TCDScheduler's.

    ValueError where it raises.
    """
    check_denoise(denoise)
    available = int(ORIGINAL_STEPS * denoise)
    if available < 1:
        raise ValueError(f"denoise {denoise:g} leaves no step to do: use at least {1 / ORIGINAL_STEPS:g}, or 0 for none.")
    if not 1 <= steps <= available:
        raise ValueError(
            f"steps is {steps}; with denoise {denoise:g} there are at least 1 and at most {available} steps: "
            f"{steps_remedy(steps, available)}."
        )
    # In floating point, as numpy.linspace there: exact integers differ at some steps (33 at denoise 0.9).
    stride = available / steps
    return [(available - int(i * stride)) * TIMESTEP_STRIDE - 1 for i in range(steps)]


def trailing(steps: int, denoise: float) -> list[int]:
    """The descending timesteps of diffusers' schedulers with timestep_spacing="trailing": 999, 749, 499, 249 for four steps.

    With a lower denoise the last int(steps x denoise) of them, as its img2img pipelines do it: an adapter that was distilled
    for four timesteps is asked at no others. ValueError where they raise.
    """
    check_denoise(denoise)
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(
            f"steps is {steps}; there are at least 1 and at most {MAX_STEPS} steps: "
            f"{'raise steps to 1' if steps < 1 else f'lower steps to {MAX_STEPS}'}."
        )
    drawn = int(steps * denoise)
    if drawn < 1:
        higher = next(k / 100 for k in range(1, 101) if int(steps * (k / 100)) >= 1)
        more = next((n for n in range(steps, MAX_STEPS + 1) if int(n * denoise) >= 1), None)
        raise ValueError(
            f"denoise {denoise:g} of {steps} steps leaves no step to do: raise denoise to {higher:g}"
            f"{f', or steps to {more}' if more else ''}."
        )
    # As numpy.arange(1000, 0, -1000 / steps).round() has it to the last bit: exact halves differ at some steps (48).
    stride = (NUM_TRAIN_TIMESTEPS - NUM_TRAIN_TIMESTEPS / steps) - NUM_TRAIN_TIMESTEPS
    grid = [round(NUM_TRAIN_TIMESTEPS + i * stride) - 1 for i in range(steps)]
    return grid[steps - drawn :]


def check_denoise(denoise: float) -> None:
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}; it must be between 0 and 1.")


def steps_remedy(steps: int, available: int) -> str:
    """What to set instead on LCM's grid, with the numbers."""
    if steps < 1:
        return "raise steps to 1"
    if steps > ORIGINAL_STEPS:
        return f"lower steps to {available}"
    # In hundredths, as the widget has them; int(50 * 0.58) is 28.
    enough = next(k / 100 for k in range(1, 101) if int(ORIGINAL_STEPS * (k / 100)) >= steps)
    return f"lower steps to {available}, or raise denoise to {enough:g}"
