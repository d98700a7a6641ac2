"""What a sampler shows of its steps."""

from collections.abc import Callable

import comfy.model_patcher
import comfy.utils
import latent_preview

from ..vega.latent_formats import PIXELS_PER_LATENT


def make_callback(model: comfy.model_patcher.ModelPatcher, steps: int) -> Callable:
    """The host's progress and previews (latent_preview.prepare_callback), except that none is larger than the image.

    The host enlarges a small one to 512 pixels, which takes as long as a tenth of vega-nano's step on a CPU.
    """
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    progress = comfy.utils.ProgressBar(steps)

    def show(step, x0, x, total_steps):
        preview = None
        if previewer:
            first = x0.tensors[0] if x0.is_nested else x0
            format, image, max_side = previewer.decode_latent_to_preview_image("JPEG", first)
            preview = format, image, min(max_side, PIXELS_PER_LATENT * max(first.shape[-2:]))
        progress.update_absolute(step + 1, total_steps, preview)

    return show
