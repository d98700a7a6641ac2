"""Segmind-Vega at its full size (3.29 GB), random weights: our loader and core's, side by side; in `make soak`."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench import weights
from dev import diffusers_folders as folders
from dev import host, single_files

pytestmark = [pytest.mark.model, pytest.mark.soak]
RUNS = 5


def modules() -> dict[str, torch.nn.Module]:
    """Segmind-Vega's parts at their published dimensions, in fp16, with weights that keep activations in range."""
    with torch.device("meta"):
        autoencoder = folders.full_autoencoder()
    autoencoder.register_to_config(scaling_factor=0.13025)
    generator = torch.Generator().manual_seed(0)
    return {
        name: weights.fill_random(part, generator) for name, part in {**weights.vega_modules(), "vae": autoencoder}.items()
    }


@pytest.fixture(scope="module", params=["single file", "folder"])
def vega(request, tmp_path_factory):
    """The path of the model, without which the disk is left as it was."""
    base = tmp_path_factory.mktemp("vega")
    parts = modules()
    if request.param == "single file":
        path = base / "vega.safetensors"
        save_file({k: v.detach().contiguous() for k, v in single_files.to_single_file(parts).items()}, path)
    else:
        path = base / "vega"
        for name, module in parts.items():
            module.save_pretrained(path / name, variant="fp16", max_shard_size="20GB")
        (path / "model_index.json").write_text("{}")
        # Since transformers 5 the prefix is dropped, and core then leaves the encoder as it is, without weights.
        first = path / "text_encoder" / "model.fp16.safetensors"
        save_file({f"text_model.{k}": v for k, v in load_file(first).items()}, first)
    del parts
    yield path
    for file in [path] if path.is_file() else path.rglob("*.safetensors"):
        file.unlink()


def load(who: str, path: Path, out: Path) -> dict:
    command = [sys.executable, "-m", "bench.load_once", who, str(path), str(out)]
    done = subprocess.run(command, cwd=host.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_loads_as_fast_as_core_in_as_little_memory(vega, tmp_path, record_property):
    load("core", vega, tmp_path / "warm")  # so that the file is in the system's cache for both
    seen = {"ours": [], "core": []}
    for _ in range(RUNS):
        for who, runs in seen.items():
            runs.append(load(who, vega, tmp_path / who))
    answers = [load_file(tmp_path / who)["answer"] for who in seen]
    assert answers[0].std() > 0.01
    assert (answers[0] - answers[1]).abs().max() <= 1e-5 * answers[1].abs().max()
    seconds, peak = ({w: statistics.median(r[key] for r in runs) for w, runs in seen.items()} for key in ("seconds", "peak"))
    for who in seen:
        record_property(f"{who}_seconds", round(seconds[who], 2))
        record_property(f"{who}_peak_gib", round(peak[who] / 2**30, 2))
    assert seconds["ours"] <= 1.1 * seconds["core"]
    assert peak["ours"] <= 1.1 * peak["core"]
