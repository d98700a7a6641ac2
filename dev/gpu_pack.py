"""Packs what a rented GPU machine without a network lacks into .gpu/1, .gpu/2, ...; dev/gpu_run.py is its other end.

That is the host's tree and the packages that the host, the tests and the benchmark need, with this environment's versions.
This pack is not in it: it travels as the tree that gpu_run.py lies in. One call to the machine carries CALL bytes, the
tree included, so each folder is what the tree leaves room for, and each call brings one: three beside a tree of 40 MiB.
"""

import hashlib
import importlib.metadata
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import host
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = host.ROOT / ".gpu"
CALL = 64 * 2**20
SPARE = 2**20  # for whatever wraps the files on their way

# What the machine has of what we need: PyTorch's own image, with Python 3.12, torch 2.11 and transformers (5.17 or newer).
MACHINE = {
    "accelerate",
    "aiohttp",
    "einops",
    "filelock",
    "huggingface-hub",
    "hypothesis",
    "markupsafe",
    "matplotlib",
    "numpy",
    "packaging",
    "pillow",
    "psutil",
    "pytest",
    "pyyaml",
    "regex",
    "requests",
    "safetensors",
    "scipy",
    "sentencepiece",
    "tokenizers",
    "torch",
    "torchaudio",
    "torchvision",
    "tqdm",
    "transformers",
    "yarl",
    "zipp",
}
# What the server does without while nobody opens it in a browser, and what only a developer's desk needs.
UNUSED = {
    "comfy-angle",
    "comfyui-embedded-docs",
    "comfyui-frontend-package",
    "comfyui-workflow-templates",
    "ipykernel",
    "nbclient",
    "nbformat",
    "playwright",
    "pyopengl",
    "ruff",
}
# The wheel for every machine will do: comfy-kitchen's for Linux is 300 times larger, for kernels that fp16 never calls.
PURE = {"comfy-kitchen"}
TARGET = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux", "platform_system": "Linux"}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def required() -> list[Requirement]:
    """What the host and our tests ask for, line by line."""
    files = (host.path() / "requirements.txt", host.ROOT / "dev" / "requirements.txt")
    lines = [line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def with_their_own(requirements: list[Requirement], left_out: set[str]) -> dict[str, str]:
    """The requirements and theirs in turn on TARGET, but for those left out: name -> the version installed here."""
    waiting, found = list(requirements), {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or name in left_out:
            continue
        if requirement.marker and not requirement.marker.evaluate({**TARGET, "extra": ""}):
            continue
        found[name] = importlib.metadata.version(name)
        waiting += map(Requirement, importlib.metadata.requires(name) or [])
    return found


def lacking() -> dict[str, str]:
    """What the machine has to be brought: name -> version."""
    return with_their_own(required(), MACHINE | UNUSED)


def install(packages: dict[str, str], site: Path) -> None:
    """Installs the packages into site, as the machine's Python would; exits with pip's reason if one can't be had."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-compile", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "--target", str(site)]
    for names, platforms in ((packages.keys() - PURE, PLATFORMS), (packages.keys() & PURE, ("any",))):
        options = [option for platform in platforms for option in ("--platform", platform)]
        done = subprocess.run([*command, *options, *(f"{name}=={packages[name]}" for name in sorted(names))])
        if done.returncode:
            sys.exit("pip could not get the packages, for the reason above; nothing was packed.")


def stand_in_for_the_frontend(site: Path) -> None:
    """The host does not start without its frontend's package, 78 MB of browser code: one page that says so instead."""
    static = site / "comfyui_frontend_package" / "static"
    static.mkdir(parents=True)
    (static.parent / "__init__.py").touch()
    (static / "index.html").write_text("The browser frontend was left out on this machine.\n", encoding="utf-8")


def archive(site: Path) -> bytes:
    """site/ and host/ as one compressed tar file, without bytecode."""
    packed = io.BytesIO()
    # The fastest preset is twice as fast as the next ones and 4 per cent larger: as many calls.
    with tarfile.open(fileobj=packed, mode="w:xz", preset=1) as tar:
        for name, folder in (("site", site), ("host", host.path())):
            tar.add(folder, name, filter=lambda member: None if member.name.endswith("__pycache__") else member)
    return packed.getvalue()


def tree() -> set[Path]:
    """The files that travel with each call: tracked, and untracked but not ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=host.ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {path for path in (host.ROOT / name for name in names) if path.is_file()}


def room() -> int:
    """Bytes that the tree leaves in one call; exits with one sentence if there are none."""
    size = sum(path.stat().st_size for path in tree())
    if size + SPARE >= CALL:
        sys.exit(f"This tree is {size / 2**20:.0f} MiB: no part fits beside it into a call of {CALL / 2**20:.0f} MiB.")
    return CALL - SPARE - size


def split(packed: bytes, folder: Path, limit: int) -> list[Path]:
    """Writes packed as parts of like size, at most limit bytes each: folder/1/<digest>-1-of-3.part and so on."""
    shutil.rmtree(folder, ignore_errors=True)
    digest = hashlib.sha256(packed).hexdigest()[:16]
    total = -(-len(packed) // limit)
    size = -(-len(packed) // total)
    parts = []
    for number in range(1, total + 1):
        part = folder / str(number) / f"{digest}-{number}-of-{total}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(packed[size * (number - 1) : size * number])
        parts.append(part)
    return parts


def main() -> None:
    limit = room()
    with tempfile.TemporaryDirectory() as scratch:
        site = Path(scratch) / "site"
        install(lacking(), site)
        stand_in_for_the_frontend(site)
        packed = archive(site)
    for part in split(packed, FOLDER, limit):
        print(f"{part.stat().st_size / 2**20:5.1f} MiB  {part.parent}")


if __name__ == "__main__":
    main()
