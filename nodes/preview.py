"""What a sampler shows of its steps."""

from collections.abc import Callable

import comfy.model_patcher
import comfy.utils
import latent_preview

PIXELS = 8  # of a picture's side for one of its latent's


def callback(model: comfy.model_patcher.ModelPatcher, steps: int) -> Callable:
    """The host's progress and previews (latent_preview.prepare_callback), but that none is larger than the picture.

    The host enlarges a small one to 512 pixels, which takes as long as a tenth of vega-nano's step on a CPU.
    """
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    progress = comfy.utils.ProgressBar(steps)

    def show(step, clean, noisy, total):
        preview = None
        if previewer:
            kind, picture, most = previewer.decode_latent_to_preview_image("JPEG", clean)
            preview = kind, picture, min(most, PIXELS * max(clean.shape[-2:]))
        progress.update_absolute(step + 1, total, preview)

    return show
