"""Runs the GPU tests and the benchmark on a machine without a network, from this tree and what dev/gpu_pack.py packed.

`make gpu-pack` where there is a network leaves .gpu/1, .gpu/2, ... Then bring this tree and one folder after another (all
at once where nothing limits a call) and each time run `python3 dev/gpu_run.py` there, with the Python 3.12 that has torch:
it collects the parts in the folder vega-gpu among the temporary files, unpacks with the last one and goes to work. While
the machine is up, later calls need no part. With arguments, Python is run with those: `python3 dev/gpu_run.py -m bench`.
"""

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLLECTED = Path(tempfile.gettempdir()) / "vega-gpu"
WORK = (["-m", "pytest", "tests/gpu"], ["-m", "bench"])


def collect(source: Path, collected: Path) -> None:
    """Moves the parts in source's folders to collected; what is left there of another pack gives way."""
    for part in sorted(source.glob("*/*.part")):
        digest = part.name.split("-")[0]
        if not any(collected.glob(f"{digest}-*.part")):
            shutil.rmtree(collected, ignore_errors=True)
            collected.mkdir(parents=True)
        shutil.move(part, collected / part.name)


def missing(collected: Path) -> list[str]:
    """The folders still to be brought; exits with one sentence where nothing has been brought yet."""
    parts = [part.stem.split("-") for part in collected.glob("*.part")]
    if not parts:
        sys.exit("Nothing packed is here: run `make gpu-pack` on a machine with a network and bring .gpu/1.")
    total = int(parts[0][3])
    return [f".gpu/{number}" for number in range(1, total + 1) if str(number) not in {part[1] for part in parts}]


def unpack(collected: Path) -> Path:
    """The folder with site/ and host/, unpacked once from the parts; exits with one sentence if they are damaged."""
    folder = collected / "unpacked"
    if folder.is_dir():
        return folder
    parts = sorted(collected.glob("*.part"), key=lambda part: int(part.stem.split("-")[1]))
    packed = b"".join(part.read_bytes() for part in parts)
    if not parts[0].name.startswith(hashlib.sha256(packed).hexdigest()[:16]):
        sys.exit(f"The parts in {collected} are damaged (their SHA-256 differs): bring every folder of .gpu again.")
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(partial, filter="data")
    partial.rename(folder)
    return folder


def main() -> None:
    if sys.version_info[:2] != (3, 12) or not importlib.util.find_spec("torch"):
        sys.exit(f"A Python 3.12 with torch is needed and {sys.executable} is none: run this file with the one that is.")
    collect(ROOT / ".gpu", COLLECTED)
    if to_come := missing(COLLECTED):
        print(f"Collected. Nothing runs before {' and '.join(to_come)} came too.")
        return
    folder = unpack(COLLECTED)
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "site"),
        "COMFYUI_PATH": str(folder / "host"),
        "PYTHONUNBUFFERED": "1",  # a run that is cut off has said how far it came
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode the host takes half a minute to start, every time
    work = [sys.argv[1:]] if sys.argv[1:] else WORK
    failed = [subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment).returncode for arguments in work]
    sys.exit(any(failed))


if __name__ == "__main__":
    main()
