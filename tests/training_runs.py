"""Short runs of `python -m train` on a few small pictures."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
import training_files as files
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from train import finetune_run, lora_run
from train.__main__ import main
from train.denoising import Batch

ROOT = Path(__file__).resolve().parents[1]
SHORT = {"resolution": 64, "rank": 2, "steps": 4, "gradient-accumulation-steps": 1, "batch-size": 2, "save-every": 1}
SHORT |= {"learning-rate": 1e-3, "name": "test"}
# What differs from it in the verbs that have other options.
OF_VERB = {"lora": {}, "lcm-lora": {"score_prompts": 0, "method": "consistency"}}
OF_VERB |= dict.fromkeys(("distill", "finetune"), {"rank": None, "learning-rate": 1e-4, "save-every": 2})


def pictures(folder: Path, count: int = 4) -> Path:
    return files.write(
        folder,
        {
            **{f"{k}.png": files.png(k, (96, 96) if k % 2 else (150, 100)) for k in range(count)},
            **{f"{k}.txt": f"a lake at night, {k}" for k in range(count)},
        },
    )


def arguments(
    folder: Path, base: str | Path = "vega-nano", *flags: str, verb: str = "lora", pictures: bool | None = None, **changed
) -> list[str]:
    """Of a run in `folder`, on the pictures in folder/pictures unless it has prompts."""
    defaults = SHORT | OF_VERB[verb]
    if verb == "distill" and "to" not in changed:
        defaults["to"] = half_plan(folder)
    options = {name: value for name, value in {**defaults, **changed}.items() if value is not None}
    has_pictures = changed.get("prompts") is None if pictures is None else pictures
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    where = [f"--output-dir={folder}", f"--work={folder / 'work'}"]
    return [verb, str(base), *([str(folder / "pictures")] if has_pictures else []), *given, *where, *flags]


def objective_batches(folder: Path, monkeypatch, verb: str, *flags: str, steps: int = 3) -> list[Batch]:
    """What reaches the objective: with `lora`, which has class pictures as well, two batches a step."""
    seen = []
    run, objective = (lora_run, "prior_preserving_loss") if verb == "lora" else (finetune_run, "denoising_loss")
    compute = getattr(run, objective)

    def noting(unet, scheduler, *given):
        seen.extend(part for part in given if isinstance(part, Batch))
        return compute(unet, scheduler, *given)

    monkeypatch.setattr(run, objective, noting)
    pictures(folder / "pictures")
    classes = ["--class-prompt=a lake", "--num-class-images=2"] if verb == "lora" else []
    main(arguments(folder, "vega-nano", *classes, *flags, verb=verb, steps=steps))
    return seen


def half_plan(folder: Path) -> Path:
    """docs/train.md's plan for half of vega-nano, in a file."""
    text = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "half.json").write_text(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    return folder / "half.json"


@contextmanager
def fresh_accelerator_state() -> Iterator[None]:
    """For a run in another precision: accelerate keeps the first that the process was asked for."""
    AcceleratorState._reset_state()
    try:
        yield
    finally:
        AcceleratorState._reset_state()


def refused(*given) -> str:
    """The sentence that the run ends with."""
    try:
        main(arguments(*given[:1], *given[1:-1], **given[-1]))
    except SystemExit as error:
        return str(error)
    raise AssertionError("the run was not refused")


def command(processes: int, given: list[str], double: bool) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    program = [str(Path(__file__).with_name("double_precision.py"))] if double else ["-m", "train"]
    return [sys.executable, *launch, *program, *given]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }


def start(given: list[str], processes: int = 1, double: bool = False) -> subprocess.Popen:
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command(processes, given, double), cwd=ROOT, env=environment(), start_new_session=True, **pipes)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """(exit status, all that it printed)."""
    printed = process.communicate(timeout=900)[0]
    return process.returncode, printed


def kill(process: subprocess.Popen) -> None:
    """With SIGKILL, the run and all that it started: torch's launcher puts each process into a session of its own."""
    if process.poll() is None:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
    process.communicate()


def wait_until(process: subprocess.Popen, is_time: Callable[[], bool]) -> None:
    while process.poll() is None and not is_time():
        time.sleep(0.01)


def saved(work: Path, name: str) -> int:
    """The step that a run would go on from."""
    return int((work / name / "training" / "latest").read_text())


def weights(folder: Path, name: str = "test") -> dict[str, torch.Tensor]:
    """Of the LoRA that a run made, or of the UNet."""
    unet = folder / name / "unet" / "diffusion_pytorch_model.safetensors"
    return load_file(unet if unet.exists() else folder / f"{name}.safetensors")


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[key].float() - other[key].float()).abs().max().item() for key in one)
