"""Runs that are stopped, killed or shared: each ends as an unbroken one does, with what was saved before it kept.

Of `lora`, of `lcm-lora` by both methods, of `distill` and of `finetune`; only those of the first that start processes are
not in soak.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import training_runs as runs
from double_precision import DoubleExamples
from safetensors.torch import load_file, save_file

from train import training_loop, training_run
from train.__main__ import main

KINDS = {
    "lora": {},
    "consistency": {"verb": "lcm-lora", "w_max": 12},
    "trajectories": {"verb": "lcm-lora", "method": "trajectories", "w_min": 3},
    "distill": {"verb": "distill"},
    "finetune": {"verb": "finetune"},
}
pytestmark = pytest.mark.model
every = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
# The loop is one for all of them: in the soak run each is broken, else the LoRA.
lora_first = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.soak] if kind else []) for kind in KINDS.values()], ids=KINDS
)


@lora_first
def test_a_nan_ends_the_run(tmp_path, kind):
    """With a sentence, and the save from before it stays."""
    runs.pictures(tmp_path / "pictures")
    main(runs.arguments(tmp_path, steps=2, **kind))
    cached, drawn = tmp_path / "work" / "cache" / "latents", tmp_path / "work" / "test" / "trajectories"
    for file in [*cached.rglob("*.safetensors"), *drawn.glob("*.safetensors")]:
        stored = load_file(file)
        for name in stored.keys() & {"latents", "end"}:
            stored[name][:] = float("nan")
        save_file(stored, file)
    said = runs.refused(tmp_path, kind)
    assert "no finite number" in said
    assert "Step 2 is saved" in said
    assert (tmp_path / "work" / "test" / "training" / "latest").read_text() == "2"


@lora_first
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, kind):
    runs.pictures(tmp_path / "pictures")
    main(runs.arguments(tmp_path, steps=2, **kind))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training_loop.Accelerator, "save_state", full)
        said = runs.refused(tmp_path, kind)
    assert "No space left on device" in said
    assert "step 2 is saved" in said
    main(runs.arguments(tmp_path, **kind))


def latest(folder: Path) -> Path:
    return folder / "work" / "test" / "training" / "latest"


def saved(folder: Path) -> int:
    try:
        return int(latest(folder).read_text())
    except (OSError, ValueError):
        return 0


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no SIGTERM")
@pytest.mark.soak  # in make test the node's Interrupt ends its process so
@every
def test_sigterm_saves(tmp_path, kind):
    """Until then no other process may have the run."""
    runs.pictures(tmp_path / "pictures")
    process = runs.start(runs.arguments(tmp_path, steps=500, save_every=500, **kind))
    lines = iter(process.stdout.readline, "")
    next(line for line in lines if "training" in line)
    time.sleep(1)
    assert "Another process is training test" in runs.refused(tmp_path, {"steps": 500, "save_every": 500, **kind})
    process.send_signal(signal.SIGTERM)
    status, printed = runs.ended(process)
    assert status == training_loop.INTERRUPTED, printed
    assert "which is saved" in printed
    assert 0 < saved(tmp_path) < 500
    assert "Traceback" not in printed
    main(runs.arguments(tmp_path, steps=saved(tmp_path) + 1, save_every=500, **kind))


@pytest.mark.skipif(os.name == "nt", reason="Windows kills otherwise")
@lora_first
def test_killed_it_ends_the_same(tmp_path, kind):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        runs.pictures(folder / "pictures")
    main(runs.arguments(whole, **kind))
    process = runs.start(runs.arguments(broken, **kind))
    runs.wait_until(process, lambda: saved(broken) >= 2)
    runs.kill(process)
    main(runs.arguments(broken, **kind))
    assert runs.largest_difference(runs.weights(broken), runs.weights(whole)) == 0


@lora_first
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["whole", "killed"])
def test_two_processes_are_one(tmp_path, monkeypatch, kind, killed):
    """Batches of two in each of two processes make the weights of batches of four in one, in the soak after a kill, too."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        runs.pictures(folder / "pictures")
    sizes = zip(folders, (4, 2), strict=True)
    given = [runs.arguments(folder, batch_size=size, steps=6, **kind) for folder, size in sizes]
    two = runs.start(given[1], processes=2, double=True)
    if killed:
        runs.wait_until(two, lambda: saved(folders[1]) >= 2)
        runs.kill(two)
        two = runs.start(given[1], processes=2, double=True)
    with monkeypatch.context() as patch:  # as double_precision.py
        patch.setitem(training_run.DTYPES, "no", torch.float64)
        patch.setattr(training_run, "Examples", DoubleExamples)
        main(given[0])
    status, printed = runs.ended(two)
    assert status == 0, printed
    states = [load_file(folder / "work" / "test" / "training" / "6" / "model.safetensors") for folder in folders]
    assert {tensor.dtype for tensor in states[0].values()} == {torch.float64}
    assert max((states[0][key] - states[1][key]).abs().max().item() for key in states[0]) < 1e-6


@pytest.mark.soak
@every
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_three_times_it_ends_the_same(tmp_path, processes, kind):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        runs.pictures(folder / "pictures")
    status, printed = runs.ended(runs.start(runs.arguments(whole, steps=40, **kind), processes))
    assert status == 0, printed
    for _ in range(3):
        process = runs.start(runs.arguments(broken, steps=40, **kind), processes)
        end = time.monotonic() + random.uniform(3, 20)
        runs.wait_until(process, lambda end=end: time.monotonic() > end)
        runs.kill(process)
    status, printed = runs.ended(runs.start(runs.arguments(broken, steps=40, **kind), processes))
    assert status == 0, printed
    assert runs.largest_difference(runs.weights(broken), runs.weights(whole)) == 0
