"""A training loop that can be killed at any moment and goes on as if it had not been."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm


def resumable_steps(accelerator: Accelerator, folder: Path, total: int, every: int) -> Iterator[int]:
    """Yields step numbers up to `total`, saving the whole state (weights, optimizer, random generators) now and then.

    The state of step n lies in folder/n; it counts only once folder/latest names it, so a save that was cut short
    is never read. Batches must depend on the step number and on torch's random generator alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest"
    start = int(latest.read_text()) if latest.exists() else 0
    if start:
        accelerator.load_state(folder / str(start))
    for step in tqdm(range(start, total), initial=start, total=total, desc=folder.name):
        yield step
        done = step + 1
        if done % every == 0 or done == total:
            accelerator.save_state(folder / str(done))
            partial = folder / "latest.partial"
            partial.write_text(str(done))
            partial.replace(latest)
            for old in folder.iterdir():
                if old.is_dir() and old.name != str(done):
                    shutil.rmtree(old)
