"""What a sampler shows of its steps: previews for clients, and the bar in the log."""

import contextlib
import os
import sys
import time

import comfy.utils
import comfyui_version
import latent_preview
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from tqdm.auto import trange
from vega_pack import host_version
from vega_pack.nodes import preview
from vega_pack.vega import progress


@pytest.fixture
def progress_updates(monkeypatch):
    """What the host is told of: (step, steps, preview)."""
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda step, steps, image, **_: told.append((step, steps, image)))
    method = latent_preview.args.preview_method
    latent_preview.set_preview_method("latent2rgb")
    yield told
    latent_preview.args.preview_method = method


def test_a_preview_is_no_larger_than_the_image(few_step, progress_updates):
    x0 = torch.zeros(1, 4, 8, 12)
    preview.make_callback(few_step, 4)(1, x0, x0, 4)
    ((step, steps, (format, image, max_side)),) = progress_updates
    assert (step, steps, format, max_side) == (2, 4, "JPEG", 96)
    assert image.size == (12, 8)


def test_of_nested_latents_the_first_is_shown_as_by_the_host(few_step, progress_updates):
    """The host of 0.30 takes nested ones itself and shows the first; an older one has to be given it."""
    first = torch.rand(1, 4, 8, 12)
    nested = NestedTensor([first, torch.rand(1, 4, 16, 16)])
    takes_nested = host_version.parse_version(comfyui_version.__version__) >= [0, 30, 0]
    preview.make_callback(few_step, 4)(0, nested, nested, 4)
    latent_preview.prepare_callback(few_step, 4)(0, *[nested if takes_nested else first] * 2, 4)
    (_, _, (_, ours, _)), (_, _, (_, theirs, _)) = progress_updates
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Only Linux has a disk that is always full.")
def test_a_full_disk_behind_the_log_costs_no_image(monkeypatch):
    stderr = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(OSError, match="No space left"):
        list(trange(2))  # as it is without
    for _ in progress.step_range(2, disable=False):
        time.sleep(1.1)  # after a second the bar is written
    with contextlib.suppress(OSError):
        stderr.close()
