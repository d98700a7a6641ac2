"""LPIPS, the distance of pictures in a network's features (Zhang et al. 2018, arXiv 1801.03924), where it is installed."""

import importlib.util
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from .images import to_tensor

ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's name of the weights, which nothing here downloads


def load_lpips(device: torch.device) -> Callable[[list[Image.Image], list[Image.Image]], torch.Tensor] | None:
    """A function of two lists of RGB pictures that gives the distance of each pair, [B].

    None where the package lpips is missing. None and a line that says so where it is there and AlexNet's weights are not.
    ValueError where either of them can't be read.
    """
    if importlib.util.find_spec("lpips") is None:
        return None
    weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not weights.is_file():
        print(f"lpips is installed, but not {weights}: the score card will be without LPIPS", flush=True)
        return None
    try:
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision by names that are deprecated
            network = lpips.LPIPS(net="alex", verbose=False).to(device).eval()
    except (ImportError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"LPIPS can't be measured ({error}). Download {weights} again, or leave LPIPS out: pip uninstall lpips."
        ) from error

    def distances(images: list[Image.Image], others: list[Image.Image]) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            pairs = ([to_tensor([image]).to(device) for image in pair] for pair in zip(images, others, strict=True))
            return torch.cat([network(*pair).flatten() for pair in pairs]).cpu()

    return distances
