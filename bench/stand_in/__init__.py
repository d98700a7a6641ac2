"""A node pack for the scale run only: every UNet waits as a GPU would be waited for, and predicts nothing.

A machine without GPUs can so show what the rest costs when several would draw at once. It has no nodes.
"""

import os
import time

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

NODE_CLASS_MAPPINGS = {}
SECONDS = float(os.environ["VEGA_STAND_IN"])  # of a UNet call


def wait(unet, x, *_, **__):
    time.sleep(SECONDS * len(x))
    return torch.zeros_like(x)


UNetModel.forward = wait
