"""The loop of everything that is trained. It can be killed at any moment; the next run ends with the same weights."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from .files import atomic_write
from .interruption import delayed_signals

SAVE_EVERY_STEPS = 100  # a run shorter than four times that saves four times
LOG_EVERY_STEPS = 50
MAX_GRAD_NORM = 1.0
MAX_WARMUP_STEPS = 50
REDUCE_BUCKET_ELEMENTS = 2**24  # gradients that processes average in one message, about
INTERRUPTED = 130  # exit status


def train(
    module: nn.Module,
    compute_loss: Callable[[int], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    lr_lambda: Callable[[int], float],
    folder: Path,
    steps: int,
    ema_decay: float = 0.0,
    log_samples: Callable[[], None] | None = None,
    accelerator: Accelerator | None = None,
    accumulation: int = 1,
    save_every: int = 0,
    sample_every: int = 2 * SAVE_EVERY_STEPS,
    max_grad_norm: float = MAX_GRAD_NORM,
    on_step: Callable[[int, float, float], None] | None = None,
) -> list[float]:
    """Trains `module` in place up to `steps` and returns the loss of every step, including those of earlier runs.

    compute_loss(number) is the loss of one batch, of which each step takes `accumulation`; it may depend only on the number,
    the process and torch's random generator, so that a resumed run equals an unbroken one. lr_lambda(step) scales the
    learning rate. With ema_decay the module ends as the moving average of its weights. log_samples() draws what was learned
    so far, in the main process, after a save: what fails there costs no step. on_step(done, loss, learning rate) is told of
    every step.

    The state after step n is in folder/n; it counts only once folder/latest names it, so that an interrupted save is
    never read. SIGTERM and Ctrl-C end the run after the step, saved. A loss that is not finite ends it as well, unsaved.
    """
    accelerator = accelerator or Accelerator()
    parameters = [p for p in module.parameters() if p.requires_grad]
    # Not wrapped for several processes: the gradients are averaged below, whatever it is that uses these parameters.
    module = accelerator.prepare_model(module, evaluation_mode=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer = accelerator.prepare_optimizer(optimizer)
    ema = EMAModel(parameters, decay=ema_decay, use_ema_warmup=False) if ema_decay else None
    if ema:
        ema.to(accelerator.device)
        accelerator.register_for_checkpointing(ema)
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest"
    save_every = save_every or max(1, min(SAVE_EVERY_STEPS, steps // 4))
    losses = []
    if latest.exists():
        saved = folder / latest.read_text()
        accelerator.load_state(saved)
        if ema:
            ema.to(accelerator.device)  # accelerate loads it to the processor
        losses = json.loads((saved / "losses.json").read_text())
    saved_at, main = len(losses), accelerator.is_main_process
    progress = tqdm(initial=saved_at, total=steps, desc=folder.name, mininterval=10, disable=not main)
    with delayed_signals() as signals, progress:
        for step in range(len(losses), steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * lr_lambda(step)
            loss = 0.0
            for micro in range(accumulation):
                with accelerator.autocast():
                    share = compute_loss(step * accumulation + micro) / accumulation
                accelerator.backward(share)
                loss = loss + share.detach()
            average_gradients(accelerator, parameters)
            norm = accelerator.clip_grad_norm_(parameters, max_grad_norm)
            scaled = accelerator.scaler is not None  # fp16: the scaler passes over steps whose gradients overflow
            loss, stop, finite = reduce_step_status(accelerator, loss, signals, scaled or norm)
            if not finite:
                sys.exit(not_finite_message(folder, step + 1, saved_at))
            optimizer.step()
            optimizer.zero_grad()
            if ema:
                ema.step(parameters)
            losses.append(loss)
            done = step + 1
            progress.set_postfix(loss=f"{np.mean(losses[-LOG_EVERY_STEPS:]):.4f}", refresh=False)
            progress.update()
            if on_step:
                on_step(done, loss, optimizer.param_groups[0]["lr"])
            if main and done % LOG_EVERY_STEPS == 0:
                print(f"{folder.name} step {done}: loss {np.mean(losses[-LOG_EVERY_STEPS:]):.5f}", flush=True)
            if done % save_every == 0 or done == steps or stop:
                save(accelerator, folder, done, losses, saved_at)
                saved_at = done
                if main and log_samples and not stop and (done % sample_every == 0 or done == steps):
                    with ema_weights(ema, parameters), torch.random.fork_rng(), torch.no_grad():
                        log_samples()
            if stop and done < steps:
                print(f"Interrupted after step {done}, which is saved. The same command goes on.", file=sys.stderr)
                sys.exit(INTERRUPTED)
    if ema:
        ema.copy_to(parameters)
    return losses


def average_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    """The mean over all processes, about REDUCE_BUCKET_ELEMENTS in a message: those of a whole UNet would not fit in one."""
    if accelerator.num_processes == 1:
        return
    waiting, size = [], 0
    for gradient in (p.grad for p in parameters if p.grad is not None):
        waiting.append(gradient)
        size += gradient.numel()
        if size >= REDUCE_BUCKET_ELEMENTS:
            average(accelerator, waiting)
            waiting, size = [], 0
    average(accelerator, waiting)


def average(accelerator: Accelerator, gradients: list[torch.Tensor]) -> None:
    if not gradients:
        return
    mean = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def reduce_step_status(accelerator: Accelerator, loss: torch.Tensor, signals: list[int], norm) -> tuple[float, bool, bool]:
    """(mean loss, whether any process was told to stop, whether all numbers are finite), the same in all processes."""
    told, norm = (torch.as_tensor(value).to(loss) for value in (float(bool(signals)), norm))
    numbers = torch.stack([loss, told, norm * 0])
    mean, stop, zero = accelerator.reduce(numbers, reduction="mean").tolist()
    return mean, stop > 0, bool(np.isfinite(mean + zero))


def not_finite_message(folder: Path, step: int, saved: int) -> str:
    kept = f"Step {saved} is saved in {folder / str(saved)}" if saved else "Nothing was saved yet"
    return (
        f"The loss or its gradient in step {step} is no finite number. {kept}. Train with a lower learning rate, or not in "
        "fp16; if it is so from the first steps on, look at the pictures and the autoencoder."
    )


@contextmanager
def ema_weights(ema: EMAModel | None, parameters):
    """Within it the parameters hold their moving average, if there is one."""
    if ema:
        ema.store(parameters)
        ema.copy_to(parameters)
    yield
    if ema:
        ema.restore(parameters)


def save(accelerator: Accelerator, folder: Path, done: int, losses: list[float], saved: int = 0) -> None:
    """Writes the state after `done` steps, then names it in folder/latest, then deletes older ones.

    Where it can't be written the run ends with a sentence, and the state that was saved before stays.
    """
    try:
        accelerator.save_state(folder / str(done))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (folder / str(done) / "losses.json").write_text(json.dumps(losses))
            with atomic_write(folder / "latest") as latest:
                latest.write_text(str(done))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer raises RuntimeError where a disk is full
        kept = f"step {saved} is saved, and the same command goes on from it" if saved else "nothing was saved before"
        sys.exit(f"The state after step {done} can't be written to {folder} ({error}). Make room on the disk: {kept}.")
    if accelerator.is_main_process:
        for old in folder.iterdir():
            if old.is_dir() and old.name != str(done):
                shutil.rmtree(old, ignore_errors=True)  # on Windows a scanner may have it open; the next save tries again
    accelerator.wait_for_everyone()


def constant_then_cosine(steps: int, constant: float = 0.0) -> Callable[[int], float]:
    """An lr_lambda: linear warm-up, 1 until the `constant` share of the steps is over, then cosine down to zero."""
    warmup_steps = max(1, min(MAX_WARMUP_STEPS, steps // 5))
    decay_start = max(warmup_steps, int(constant * steps))

    def lr_lambda(step: int) -> float:
        if step < decay_start:
            return min(1.0, (step + 1) / warmup_steps)
        return float(0.5 + 0.5 * np.cos(np.pi * (step - decay_start) / max(1, steps - decay_start)))

    return lr_lambda
