"""The training loop of every stage. It can be killed at any moment; the next run resumes and ends with the same weights."""

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

from .files import atomic_write

SAVE_EVERY_STEPS = 100  # a run shorter than four times that saves four times
LOG_EVERY_STEPS = 50
MAX_GRAD_NORM = 1.0
MAX_WARMUP_STEPS = 50


def train(
    module: nn.Module,
    compute_loss: Callable[[int], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    lr_lambda: Callable[[int], float],
    folder: Path,
    steps: int,
    ema_decay: float = 0.0,
    log_samples: Callable[[], None] | None = None,
) -> list[float]:
    """Trains `module` in place up to `steps` and returns the loss of every step, including those of earlier runs.

    compute_loss(step) is the loss of one batch; it may depend only on the step number and on torch's random generator,
    so that a resumed run equals an unbroken one. lr_lambda(step) scales the learning rate. With ema_decay the module
    ends as the moving average of its weights. log_samples() draws what was learned so far, at every second save.
    The state after step n is in folder/n; it counts only once folder/latest names it, so that an interrupted save is
    never read.
    """
    accelerator = Accelerator()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda)
    parameters = [p for p in module.parameters() if p.requires_grad]
    module, optimizer, scheduler = accelerator.prepare(module, optimizer, scheduler)
    ema = EMAModel(parameters, decay=ema_decay, use_ema_warmup=False) if ema_decay else None
    if ema:
        ema.to(accelerator.device)
        accelerator.register_for_checkpointing(ema)
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest"
    save_every = max(1, min(SAVE_EVERY_STEPS, steps // 4))
    losses = []
    if latest.exists():
        saved = folder / latest.read_text()
        accelerator.load_state(saved)
        losses = json.loads((saved / "losses.json").read_text())
    for step in tqdm(range(len(losses), steps), initial=len(losses), total=steps, desc=folder.name, mininterval=10):
        loss = compute_loss(step)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if ema:
            ema.step(parameters)
        losses.append(loss.item())
        done = step + 1
        if done % LOG_EVERY_STEPS == 0:
            print(f"{folder.name} step {done}: loss {np.mean(losses[-LOG_EVERY_STEPS:]):.5f}", flush=True)
        if done % save_every == 0 or done == steps:
            if log_samples and (done % (2 * SAVE_EVERY_STEPS) == 0 or done == steps):
                with ema_weights(ema, parameters), torch.random.fork_rng(), torch.no_grad():
                    log_samples()
            save(accelerator, folder, done, losses)
    if ema:
        ema.copy_to(parameters)
    return losses


@contextmanager
def ema_weights(ema: EMAModel | None, parameters):
    """Within it the parameters hold their moving average, if there is one."""
    if ema:
        ema.store(parameters)
        ema.copy_to(parameters)
    yield
    if ema:
        ema.restore(parameters)


def save(accelerator: Accelerator, folder: Path, done: int, losses: list[float]) -> None:
    """Writes the state after `done` steps, then names it in folder/latest, then deletes older ones."""
    accelerator.save_state(folder / str(done))
    (folder / str(done) / "losses.json").write_text(json.dumps(losses))
    with atomic_write(folder / "latest") as latest:
        latest.write_text(str(done))
    for old in folder.iterdir():
        if old.is_dir() and old.name != str(done):
            shutil.rmtree(old)


def constant_then_cosine(steps: int, constant: float = 0.0) -> Callable[[int], float]:
    """An lr_lambda: linear warm-up, 1 until the `constant` share of the steps is over, then cosine down to zero."""
    warmup_steps = max(1, min(MAX_WARMUP_STEPS, steps // 5))
    decay_start = max(warmup_steps, int(constant * steps))

    def lr_lambda(step: int) -> float:
        if step < decay_start:
            return min(1.0, (step + 1) / warmup_steps)
        return float(0.5 + 0.5 * np.cos(np.pi * (step - decay_start) / max(1, steps - decay_start)))

    return lr_lambda
