"""The loop that every stage trains with: it can be killed at any moment and goes on as if it had not been."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm

SAVE_EVERY = 100  # steps; a run shorter than four times that saves four times
REPORT_EVERY = 50


def fit(
    module: nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    factor: Callable[[int], float],
    folder: Path,
    steps: int,
    ema_decay: float = 0.0,
    sample: Callable[[], None] | None = None,
) -> list[float]:
    """Trains `module` in place up to `steps` and returns the loss of every step, including those of earlier runs.

    loss_of(step) is the loss of one batch; it may depend on the step number and on torch's random generator alone, which
    is what makes a resumed run equal to an unbroken one. factor(step) scales the learning rate. With ema_decay the
    module ends as the moving average of its weights. sample() draws what was learned so far, now and then.
    The state after step n lies in folder/n; it counts only once folder/latest names it, so that a save which was cut
    short is never read.
    """
    accelerator = Accelerator()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    parameters = [p for p in module.parameters() if p.requires_grad]
    module, optimizer, schedule = accelerator.prepare(module, optimizer, schedule)
    average = EMAModel(parameters, decay=ema_decay, use_ema_warmup=False) if ema_decay else None
    if average:
        average.to(accelerator.device)
        accelerator.register_for_checkpointing(average)
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest"
    save_every = max(1, min(SAVE_EVERY, steps // 4))
    losses = []
    if latest.exists():
        saved = folder / latest.read_text()
        accelerator.load_state(saved)
        losses = json.loads((saved / "losses.json").read_text())
    for step in tqdm(range(len(losses), steps), initial=len(losses), total=steps, desc=folder.name, mininterval=10):
        loss = loss_of(step)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if average:
            average.step(parameters)
        losses.append(loss.item())
        done = step + 1
        if done % REPORT_EVERY == 0:
            print(f"{folder.name} step {done}: loss {np.mean(losses[-REPORT_EVERY:]):.5f}", flush=True)
        if done % save_every == 0 or done == steps:
            if sample and (done % (2 * SAVE_EVERY) == 0 or done == steps):
                with averaged(average, parameters), torch.random.fork_rng(), torch.no_grad():
                    sample()
            save(accelerator, folder, done, losses)
    if average:
        average.copy_to(parameters)
    return losses


@contextmanager
def averaged(average: EMAModel | None, parameters):
    """Within it the parameters hold their moving average, if there is one."""
    if average:
        average.store(parameters)
        average.copy_to(parameters)
    yield
    if average:
        average.restore(parameters)


@contextmanager
def whole(path: Path):
    """Gives a path to write a file or folder to, which becomes `path` when all of it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    shutil.rmtree(path, ignore_errors=True)
    partial.replace(path)


def fingerprint(files: list[Path]) -> str:
    """Twelve hexadecimal digits that stand for what the files hold."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def save(accelerator: Accelerator, folder: Path, done: int, losses: list[float]) -> None:
    accelerator.save_state(folder / str(done))
    (folder / str(done) / "losses.json").write_text(json.dumps(losses))
    with whole(folder / "latest") as latest:
        latest.write_text(str(done))
    for old in folder.iterdir():
        if old.is_dir() and old.name != str(done):
            shutil.rmtree(old)


def flat_then_cosine(steps: int, flat: float = 0.0, warm_up: int = 50) -> Callable[[int], float]:
    """Learning rate factor by step: up over `warm_up` steps, level until the `flat` share is over, cosine down to zero."""
    warm_up = max(1, min(warm_up, steps // 5))
    bend = max(warm_up, int(flat * steps))

    def factor(step):
        if step < bend:
            return min(1.0, (step + 1) / warm_up)
        return float(0.5 + 0.5 * np.cos(np.pi * (step - bend) / max(1, steps - bend)))

    return factor
